"""Schedules, groups, freezing; the state of optimisers by parameter name."""

import math

import pytest
import torch
import toy_run
from torch import nn

from diptych.config import TrainConfig, UserError
from diptych.contracts import ParamGroup, Trainable
from diptych.train.optim import Optimizers, freeze, schedule


def config(**values) -> TrainConfig:
    return TrainConfig(**{"steps": 10, "batch_size": 1, "lr": 0.1} | values)


def test_schedules_by_hand():
    assert [schedule(config(warmup=0.2), s) for s in range(10)] == pytest.approx([0.5, 1] + [k / 8 for k in range(8, 0, -1)])
    assert [schedule(config(warmup=0.2, schedule="constant"), s) for s in (0, 1, 9)] == [0.5, 1, 1]
    assert schedule(config(warmup=0, schedule="cosine"), 5) == pytest.approx(0.5)
    assert schedule(config(warmup=0, schedule="cosine"), 9) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.9)))
    assert [schedule(config(warmup=1.0), s) for s in (0, 9)] == [0.1, 1.0]


class Two(Trainable):
    """A body that AdamW trains and a dictionary that SGD trains at ten times the rate, as SOHO's backbone and dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.codes = nn.Linear(2, 2, bias=False)

    def param_groups(self) -> list[ParamGroup]:
        body = [p for p in self.body.parameters() if p.requires_grad]
        return [ParamGroup(body, "body"), ParamGroup([self.codes.weight], "codes", 10.0, False, "sgd")]


def update(model: Two, optimizers: Optimizers, step: int) -> None:
    torch.manual_seed(step)
    model.codes(model.body(torch.randn(4, 3))).square().sum().backward()
    optimizers.step(step)
    optimizers.clear()


def test_two_kinds_of_optimisers_with_their_own_rates_resume_by_name():
    torch.manual_seed(0)
    model, train = Two(), config(warmup=0.0, schedule="constant")
    optimizers = Optimizers(model, train)
    before = model.codes.weight.detach().clone()
    model.codes(model.body(torch.ones(1, 3))).sum().backward()
    gradient = model.codes.weight.grad
    assert gradient is not None
    optimizers.step(0)
    torch.testing.assert_close(model.codes.weight, before - 0.1 * 10 * gradient)
    optimizers.clear()
    update(model, optimizers, 1)
    names = {"body.weight/exp_avg", "body.bias/exp_avg_sq", "body.weight/step", "codes.weight/momentum_buffer"}
    assert names <= optimizers.state().keys()

    other = Two()
    other.load_state_dict(model.state_dict())
    resumed = Optimizers(other, train)
    resumed.load({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for step in (2, 3):
        update(model, optimizers, step)
        update(other, resumed, step)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_freezing_takes_prefixes_at_dots():
    model = Two()
    assert freeze(model, ["body"]) == [model.body]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["codes.weight"]
    with pytest.raises(UserError, match=r"train\.freeze: no parameter is named bod; did you mean 'body'\?"):
        freeze(model, ["bod"])
    with pytest.raises(UserError, match=r"did you mean 'body\.weight'"):
        freeze(model, ["body.weigth"])
    freeze(model, ["codes.weight"])
    with pytest.raises(UserError, match="leaves nothing to train"):
        Optimizers(model, config(freeze=("body", "codes.weight")))


def test_a_parameter_forgotten_by_param_groups_is_named():
    class Forgetful(Two):
        def param_groups(self) -> list[ParamGroup]:
            return super().param_groups()[:1]

    with pytest.raises(RuntimeError, match=r"Forgetful.*codes\.weight"):
        Optimizers(Forgetful(), config())


def test_frozen_parts_do_not_move_and_have_no_noise(tmp_path):
    toy_run.train(tmp_path, train={"freeze": ("norm", "text")})
    weights = toy_run.weights(tmp_path)
    fresh = toy_run.stream_and_model(toy_run.recipe())[1].state_dict()
    for name, weight in weights.items():
        is_still = name.startswith(("norm.", "text.")) or name == "never_used"
        assert torch.equal(weight, fresh[name]) == is_still, name


def test_a_rate_in_steps_drops_at_its_milestones():
    train = config(steps=40, warmup=0.1, warmup_from=1 / 3, schedule="steps", milestones=(25 / 40, 35 / 40), drop=0.1)
    factors = [schedule(train, step) for step in range(40)]
    assert factors[:4] == pytest.approx([1 / 2, 2 / 3, 5 / 6, 1])
    assert factors[4:25] == [1] * 21
    assert factors[25:35] == pytest.approx([0.1] * 10)
    assert factors[35:] == pytest.approx([0.01] * 5)


def test_a_group_may_have_a_weight_decay_of_its_own():
    class Decaying(Two):
        def param_groups(self) -> list[ParamGroup]:
            return [group._replace(weight_decay=decay) for group, decay in zip(super().param_groups(), (True, 0.3), strict=True)]

    adamw, sgd = Optimizers(Decaying(), config(weight_decay=0.05)).optimizers
    assert [adamw.param_groups[0]["weight_decay"], sgd.param_groups[0]["weight_decay"]] == [0.05, 0.3]
