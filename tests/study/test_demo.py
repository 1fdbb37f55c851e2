"""The demo's plan: what its arms cost, and that they differ in nothing but their start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from step_flops import flops_of_step

from diptych import config, find
from diptych.atelier import make
from diptych.data.mixture import Mixture
from diptych.data.stream import Stream
from diptych.draw import Draw
from diptych.study.demo import ARMS, SIZES, SPLITS, Plan
from diptych.study.demo_full import FURTHER, Extension
from diptych.study.lanes import Command
from diptych.text import tokenizer as vocabulary
from diptych.train import run
from diptych.train.optim import freeze

STEPS = 4  # whose mean is taken: batches differ in their texts' lengths


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make.make(folder / "scenes", small=True, scenes=600)
    return folder


def settings(command: Command) -> dict[str, str]:
    words = command.words
    return dict(words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "--set")


def flops(command: Command) -> float:
    """Of one step, forward and backward, as torch counts products and convolutions."""
    words = command.words
    is_task = words[0] == "finetune"
    found = find.system(words[words.index("--from") + 1] if is_task else words[1])
    recipe = find.task("vqa").finetuning(found.recipe) if is_task else found.recipe
    recipe = config.resolve(recipe, *(config.from_setting(f"{key}={value}") for key, value in settings(command).items()))
    tokenizer = vocabulary.load(recipe.text.vocab)
    data = words[words.index("--data") + 1]
    sources = find.readers([data], "train", "vqa" if is_task else "pretrain", recipe.data.limit)
    readers = [source.reader for source in sources]
    recipe = recipe.model_copy(update={"system": found.cls.prepare(recipe.system, readers, tokenizer)})
    model: torch.nn.Module = run.build_system(recipe, found.cls, tokenizer)
    if is_task:
        task = find.task_class("vqa")
        recipe = recipe.model_copy(update={"task": task.prepare(recipe.task, readers, tokenizer)})
        model = run.build_task(recipe, task, model, tokenizer)
    freeze(model, recipe.train.freeze)
    stream = Stream.training(model, recipe, Mixture(sources, Draw(0)), tokenizer, Draw(0))
    return sum(flops_of_step(model, stream.deliver(step).batch) for step in range(STEPS)) / STEPS


@pytest.mark.parametrize("size", SIZES)
def test_scratch_with_equal_compute_costs_what_the_pretrained_arm_costs(size, scenes, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(scenes))
    plan = Plan(SIZES[size], Path("runs/demo"))
    root, reading, tuning = (flops(command) for command in (plan.root, plan.pretraining, plan.arms["scratch"].tuning))
    root, reading = root * plan.size.root / tuning, reading * plan.size.pretrain / tuning  # in steps of fine-tuning
    equal = root + reading + plan.size.tune
    assert plan.size.equal == pytest.approx(equal, rel=0.05), f"equal={equal:.0f} would be right"
    if size == "large":
        scratch, rooted = root + reading + FURTHER.tune, reading + FURTHER.tune
        assert FURTHER.scratch == pytest.approx(scratch, rel=0.05), f"scratch={scratch:.0f} would be right"
        assert FURTHER.rooted == pytest.approx(rooted, rel=0.05), f"rooted={rooted:.0f} would be right"


def test_arms_differ_in_their_start_their_rate_and_where_they_lie():
    plan = Plan(SIZES["default"], Path("runs/demo"))
    alike = [{**settings(plan.arms[arm].tuning), "train.lr": ""} for arm in ("pretrained", "scratch", "image_root_only")]
    assert alike[0] == alike[1] == alike[2]
    assert {settings(plan.arms[arm].tuning)["data.limit"] for arm in ARMS} == {"2000"}
    assert all(size.rates.keys() == set(ARMS) for size in SIZES.values())
    assert all((arm, split) in plan.judging for arm in ARMS for split in SPLITS)


@pytest.mark.parametrize("is_full", [False, True])
def test_every_command_is_run_once_and_after_those_it_needs(is_full):
    plan = Plan(SIZES["large"], Path("runs/demo"))
    lanes = plan.lanes()
    if is_full:
        lanes = [[*lane, *more] for lane, more in zip(lanes, Extension(plan).lanes(), strict=True)]
    commands = [command for lane in lanes for command in lane]
    assert len({str(command) for command in commands}) == len(commands) == len({command.makes for command in commands})
    for lane in lanes:
        made: set[str] = set()
        for command in lane:
            words = command.words
            needed = {word.partition("=")[2] for word in words if word.startswith(("image=", "text="))}
            needed |= {words[words.index("--from") + 1]} if "--from" in words else set()
            needed = {name for name in needed if name.startswith("runs/")}
            others = {str(other.run) for other in commands if other.run} - {str(c.run) for c in lane}
            assert needed <= made | others, str(command)
            assert command.needs or not (command.steps and needed & others), "what the other lane makes is waited for"
            made.add(str(command.run))
