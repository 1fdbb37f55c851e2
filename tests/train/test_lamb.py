"""LAMB against its formula, number by number; its state saved and resumed by name."""

import math

import pytest
import torch
from torch import nn

from diptych.config import TrainConfig
from diptych.contracts import ParamGroup, Trainable
from diptych.train.lamb import LAMB
from diptych.train.optim import Optimizers

TRAIN = TrainConfig(steps=10, batch_size=1, lr=0.02, warmup=0.0, schedule="constant", weight_decay=0.1, betas=(0.9, 0.99))


class Body(Trainable):
    """A matrix, its bias, and a matrix that starts at zero; all by LAMB."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2, bias=False)
        nn.init.zeros_(self.last.weight)

    def param_groups(self) -> list[ParamGroup]:
        return [group._replace(optimizer="lamb") for group in super().param_groups()]


def update(model: Body, optimizers: Optimizers, step: int) -> None:
    torch.manual_seed(step)
    x, y = (torch.randn(5, wide, dtype=model.last.weight.dtype) for wide in (3, 2))
    (model.last(torch.tanh(model.first(x))) - y).square().sum().backward()
    optimizers.step(step)


def slow(w: list[float], gradients: list[list[float]], is_scaled: bool, decay: float) -> list[float]:
    """Algorithm 2, written out."""
    w, (b1, b2), eps, lr = [*w], TRAIN.betas, TRAIN.eps, TRAIN.lr
    m, v = [0.0] * len(w), [0.0] * len(w)
    for t, g in enumerate(gradients, 1):
        r = []
        for i in range(len(w)):
            m[i] = b1 * m[i] + (1 - b1) * g[i]
            v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
            r.append(m[i] / (1 - b1**t) / (math.sqrt(v[i] / (1 - b2**t)) + eps) + decay * w[i])
        size, length = (math.sqrt(sum(x * x for x in vector)) for vector in (w, r))
        ratio = size / length if is_scaled and size > 0 and length > 0 else 1.0
        w = [w[i] - lr * ratio * r[i] for i in range(len(w))]
    return w


def test_steps_are_those_of_the_formula():
    torch.manual_seed(0)
    model = Body().double()
    optimizers = Optimizers(model, TRAIN)
    assert [type(one) for one in optimizers.optimizers] == [LAMB], "two groups, one optimiser"
    start = {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
    gradients: dict[str, list[list[float]]] = {name: [] for name in start}
    for step in range(5):
        update(model, optimizers, step)
        for name, p in model.named_parameters():
            assert p.grad is not None
            gradients[name].append(p.grad.flatten().tolist())
        optimizers.clear()
    for name, p in model.named_parameters():
        is_matrix = p.ndim > 1
        expected = slow(start[name], gradients[name], is_matrix, TRAIN.weight_decay if is_matrix else 0.0)
        assert p.detach().flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_it_goes_on_from_its_saved_state_to_the_bit():
    torch.manual_seed(0)
    model = Body()
    optimizers = Optimizers(model, TRAIN)
    for step in range(2):
        update(model, optimizers, step)
        optimizers.clear()
    saved = optimizers.state()
    assert {"first.weight/exp_avg", "first.bias/exp_avg_sq", "last.weight/step"} <= saved.keys()
    other = Body()
    other.load_state_dict(model.state_dict())
    resumed = Optimizers(other, TRAIN)
    resumed.load({name: tensor.clone() for name, tensor in saved.items()})
    for step in (2, 3):
        for one, its in ((model, optimizers), (other, resumed)):
            update(one, its, step)
            its.clear()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
