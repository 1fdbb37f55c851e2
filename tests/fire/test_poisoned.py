"""Poison in the batches of a run: what is skipped, what is kept, when it stops. tests/train/test_loop.py has each guard alone."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_run
from safetensors.torch import load_file
from test_every_system import SPECS, TOKENIZER, Case
from toy_run import Toy, log_of, train

from diptych import checkpoint
from diptych.config import UserError
from diptych.data.mixture import Source
from diptych.train.run import build_system, pretrain

PER_STEP = {"checkpoint_every": 1, "log_every": 1}


class Keyed(Toy):
    """Samples named in `bad` make a loss that is not finite, whenever they come."""

    bad: frozenset[str] = frozenset()
    value = float("nan")

    def forward(self, batch):
        terms = super().forward(batch)
        if self.bad & set(batch.keys):
            terms["mlm"] = replace(terms["mlm"], sum=terms["mlm"].sum * self.value)
        return terms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_poisoned_samples_are_named_and_their_steps_leave_nothing_behind(value: float, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Keyed, "bad", frozenset({"toy-11", "toy-30"}))
    monkeypatch.setattr(Keyed, "value", value)
    result = train(tmp_path, cls=Keyed, train={"steps": 15, **PER_STEP})
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    expected = [step for step in range(1, 16) if {11, 30} & set(toy_run.indices(range((step - 1) * 8, step * 8)))]
    assert [entry["step"] for entry in skipped] == expected
    assert result["skipped"] == len(expected) > 3
    for entry in skipped:
        assert Keyed.bad & {key for place in entry["samples"] for key in place["keys"]}
    records = log_of(tmp_path)
    assert [record["step"] for record in records] == list(range(1, 16))
    assert all("loss" not in record for record in records if record["step"] in expected)
    assert all(weight.isfinite().all() for weight in toy_run.weights(tmp_path).values())


def test_a_burst_with_an_interruption_in_it_ends_at_a_lower_limit_too(tmp_path: Path, monkeypatch):
    """Stopped after four of ten allowed, and asked again with three allowed: that is enough."""
    monkeypatch.setattr(Keyed, "bad", frozenset(f"toy-{n}" for n in range(40)))
    train(tmp_path, cls=Keyed, train=PER_STEP, stop_after=4)
    with pytest.raises(UserError, match=r"5 steps in a row .* the state after step 0 saved"):
        train(tmp_path, cls=Keyed, train={"max_skipped": 3, **PER_STEP})


@pytest.mark.parametrize("factor", [1e6, 1e18])
def test_exploding_norms_are_clipped_and_logged(factor: float, tmp_path: Path, monkeypatch):
    """Finite, however large: the step is taken, at the length of the clip."""
    monkeypatch.setattr(Keyed, "bad", frozenset({"toy-11"}))
    monkeypatch.setattr(Keyed, "value", factor)
    train(tmp_path, cls=Keyed, train={"steps": 10, **PER_STEP})
    for step, record in enumerate(log_of(tmp_path)):
        is_hit = 11 in toy_run.indices(range(step * 8, step * 8 + 8))
        assert (record["gradient_norm"] > factor) == is_hit, record
        assert record["skipped"] == 0
    weights = toy_run.weights(tmp_path)
    assert max(weights[name].abs().max() for name in ("text.weight", "image.weight", "bright.weight")) < 10


def test_a_norm_that_overflows_is_skipped(tmp_path: Path, monkeypatch):
    """1e30 squared is more than fp32 holds: no gradient of that length is ever applied, clipped or not."""
    monkeypatch.setattr(Keyed, "bad", frozenset({"toy-11"}))
    monkeypatch.setattr(Keyed, "value", 1e30)
    for clip in (1.0, None):
        train(tmp_path / str(clip), cls=Keyed, train={"steps": 10, "clip": clip, **PER_STEP})
        (entry, *_) = [json.loads(line) for line in (tmp_path / str(clip) / "skipped.jsonl").read_text().splitlines()]
        assert entry["not_finite"] == ["gradient"] and entry["gradient_norm"] == "inf"


@pytest.mark.parametrize("lr", [1e3, 1e18, 1e36])
def test_a_learning_rate_that_is_too_high_never_leaves_a_broken_checkpoint(lr: float, tmp_path: Path):
    """It ends in words, or it trains to some finite end; what lies on the disk can always be gone on with."""
    given = {"lr": lr, "clip": None, "schedule": "constant", "warmup": 0.0, "max_skipped": 3, "steps": 12, **PER_STEP}
    with contextlib.suppress(UserError):
        train(tmp_path, train=given)
    for file in tmp_path.glob("**/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())


@pytest.mark.parametrize("spec", SPECS)
def test_no_state_of_any_system_moves_in_a_skipped_step(spec: str, tmp_path: Path, monkeypatch):
    """A run whose every gradient is poisoned ends with the weights, dictionaries, queues and statistics it began with."""
    case = Case(spec)
    steps = {"steps": 3, "batch_size": 4, "max_skipped": 2, "warmup": 0.0}
    recipe = case.recipe.model_copy(update={"train": case.recipe.train.model_copy(update=steps)})
    forward = case.cls.forward

    def poisoned(system, batch):
        terms = forward(system, batch)
        name = next(iter(terms))
        return {**terms, name: replace(terms[name], sum=terms[name].sum * float("nan"))}

    monkeypatch.setattr(case.cls, "forward", poisoned)
    with pytest.raises(UserError, match=r"2 steps in a row .* the state after step 0 saved"):
        pretrain(recipe, case.cls, [Source("samples", case.samples)], tmp_path, tokenizer=TOKENIZER, trackers=(), quiet=True)
    saved = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    assert saved is not None and saved.step == 0
    for name, weight in checkpoint.weights_of(build_system(recipe, case.cls, TOKENIZER)).items():
        assert torch.equal(saved.tensors["model"][name], weight), name
