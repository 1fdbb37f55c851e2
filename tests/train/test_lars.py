"""LARS against its formula, number by number; SimCLR's preset takes it, and biases take plain momentum's step."""

import math

import pytest
import torch
from torch import nn

from diptych import find
from diptych.config import TrainConfig
from diptych.contracts import ParamGroup, Trainable
from diptych.train.lars import LARS
from diptych.train.optim import Optimizers, schedule

TRAIN = TrainConfig(steps=10, batch_size=1, lr=2.0, warmup=0.3, schedule="cosine", weight_decay=0.1, betas=(0.9, 0.99))


class Body(Trainable):
    """A matrix, its bias, and a matrix that starts at zero; all by LARS."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2, bias=False)
        nn.init.zeros_(self.last.weight)

    def param_groups(self) -> list[ParamGroup]:
        return [group._replace(optimizer="lars") for group in super().param_groups()]


def slow(w: list[float], gradients: list[list[float]], is_scaled: bool) -> list[float]:
    """Algorithm 1 with the rate inside the momentum, written out."""
    w, v, decay = [*w], [0.0] * len(w), TRAIN.weight_decay if is_scaled else 0.0
    for step, gradient in enumerate(gradients):
        g = [gradient[i] + decay * w[i] for i in range(len(w))]
        size, length = (math.sqrt(sum(x * x for x in vector)) for vector in (w, g))
        ratio = 0.001 * size / length if is_scaled and size > 0 and length > 0 else 1.0
        v = [0.9 * v[i] + TRAIN.lr * schedule(TRAIN, step) * ratio * g[i] for i in range(len(w))]
        w = [w[i] - v[i] for i in range(len(w))]
    return w


def test_steps_are_those_of_the_formula_at_a_changing_rate():
    torch.manual_seed(0)
    model = Body().double()
    optimizers = Optimizers(model, TRAIN)
    assert [type(one) for one in optimizers.optimizers] == [LARS], "two groups, one optimiser"
    start = {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
    gradients: dict[str, list[list[float]]] = {name: [] for name in start}
    for step in range(6):
        x, y = (torch.randn(5, wide, dtype=torch.float64) for wide in (3, 2))
        (model.last(torch.tanh(model.first(x))) - y).square().mean().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            gradients[name].append(p.grad.flatten().tolist())
        optimizers.step(step)
        optimizers.clear()
    for name, p in model.named_parameters():
        expected = slow(start[name], gradients[name], is_scaled=p.ndim > 1)
        assert p.detach().flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_its_momentum_is_saved_and_resumed_by_name():
    torch.manual_seed(0)
    model, other = Body(), Body()
    other.load_state_dict(model.state_dict())
    one, two = Optimizers(model, TRAIN), Optimizers(other, TRAIN)
    for step in range(4):
        if step == 2:
            assert one.state().keys() == {f"{name}/momentum" for name, _ in model.named_parameters()}
            two = Optimizers(other, TRAIN)
            two.load({name: tensor.clone() for name, tensor in one.state().items()})
        x = torch.randn(5, 3)
        for trained, its in ((model, one), (other, two)):
            (trained.last(trained.first(x)) - 1).square().sum().backward()
            its.step(step)
            its.clear()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_simclr_as_published_takes_it():
    assert find.system("simclr:paper").recipe.system.optimizer == "lars"
