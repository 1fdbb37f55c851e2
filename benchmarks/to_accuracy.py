"""Minutes to a fixed VQA accuracy on close-ups of the embedded scenes: `diptych` against transformers' classes and Trainer.

    pre-training    captions: masked words and matching; `vilt:small` without word-patch alignment, which transformers has not
    fine-tuning     questions, ViLT's classifier; every `every` steps the questions of `val` are answered, clock stopped

Same start weights, samples in the same order with the same words masked and texts swapped, same batches, objectives, rates and
schedule: on the first batch of both stages the losses are compared before anything is timed. The peer (peers/hf_vilt.py) runs as
documented, in fp32, and once more with `bf16=True`; its batches come ready from our loader. Each side has all cores as threads.

`curves.json` and `curves.svg` in `out` hold every point of every side.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.close_ups import make
from benchmarks.side_by_side import Row
from benchmarks.vilt_twice import our_loss, peer_inputs, words_and_pictures
from diptych import find
from diptych.checkpoint import weights_of
from diptych.config import Recipe, from_setting, resolve
from diptych.contracts import Batch, System, Task, Trainable
from diptych.data.collate import Collate
from diptych.data.mixture import Mixture, Source
from diptych.data.stream import InOrder, Stream
from diptych.draw import Draw
from diptych.image.pixels import normalise
from diptych.systems.vilt import ViLT
from diptych.tasks import vqa
from diptych.text import tokenizer as vocabulary
from diptych.train import run as runs
from diptych.train.optim import schedule
from diptych.train.precision import autocast, choose_precision
from diptych.weights import vilt as weights

OURS, PEER, PEER_BF16 = "diptych", "transformers", "transformers, bf16=True"


class Scale(NamedTuple):
    preset: str = "vilt:small"
    pictures: tuple[int, int] = (8000, 500)  # of `train` and `val`, each with two questions
    pretrain: int = 500  # steps
    tune: int = 300
    batch_size: int = 32
    every: int = 10  # steps of fine-tuning from one look at `val` to the next
    target: float = 70.0  # accuracy in percent, by the official formula, over all questions; 31 without looking
    threads: int = 2
    sides: tuple[str, ...] = (OURS, PEER, PEER_BF16)
    out: Path = Path("runs/benchmarks/to_accuracy")


FULL = Scale()
LEAST = Scale("vilt:tiny", (40, 4), pretrain=2, tune=4, batch_size=4, every=2, target=0.0, threads=1)
# beside the preset's: less training, so at a higher rate; no alignment, which transformers has not
SETTINGS = ("data.texts_per_image=1", "data.foreign=0", "system.wpa=null", "train.lr=1e-3")


class Point(NamedTuple):
    step: int  # of fine-tuning
    minutes: float  # of training, both stages
    accuracy: float


class Clock:
    def __init__(self) -> None:
        self.started = time.perf_counter()

    def minutes(self) -> float:
        return (time.perf_counter() - self.started) / 60

    @contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before


@dataclass(frozen=True)
class Course:
    """What all sides share: recipes, samples, questions."""

    scale: Scale
    pretraining: Recipe
    tuning: Recipe
    pairs: list[Source]
    questions: list[Source]
    judged: list[Source]

    @staticmethod
    def of(scale: Scale) -> Course:
        recipe = find.system(scale.preset).recipe
        settings = (*SETTINGS, f"train.steps={scale.pretrain}", f"train.batch_size={scale.batch_size}")
        recipe = resolve(recipe, *(from_setting(setting) for setting in settings))
        data = scale.out / "close_ups"
        make(data, *scale.pictures)
        captions, asked = str(data / "captions.jsonl"), str(data / "questions.jsonl")
        questions = find.readers([asked], "train", "vqa")
        tuning = vqa.finetuning(recipe)
        assert isinstance(tuning.task, vqa.VQA.Config)
        answers = vqa.VQA.prepare(tuning.task, [source.reader for source in questions], vocabulary.load(recipe.text.vocab))
        train = tuning.train.model_copy(update={"steps": scale.tune, "validate_every": scale.every})
        tuning = tuning.model_copy(update={"train": train, "task": answers})
        pairs, judged = find.readers([captions], "train", "pretrain"), find.readers([asked], "val", "vqa")
        return Course(scale, recipe, tuning, pairs, questions, judged)

    @cached_property
    def tokenizer(self) -> Any:
        return vocabulary.load(self.pretraining.text.vocab)

    def system(self) -> System:
        return runs.build_system(self.pretraining, ViLT, self.tokenizer)

    def task(self) -> Task:
        return runs.build_task(self.tuning, vqa.VQA, self.system(), self.tokenizer)

    def stream(self, recipe: Recipe, data: Sequence[Source], model: Trainable) -> Stream:
        """As a run makes it."""
        draw = Draw(recipe.train.seed)
        return Stream.training(model, recipe, Mixture(data, draw), self.tokenizer, draw)

    @cached_property
    def asked(self) -> list[Batch]:
        """The questions that every side is judged by, with their soft targets."""
        collate = Collate(self.tokenizer, self.tuning.text, self.tuning.data, training=False)
        label, draw, image = self.task().label, Draw(self.tuning.train.seed), self.tuning.data.image
        in_order = InOrder(self.judged[0].reader, collate, label, draw, image, 64, 2 * self.scale.pictures[1])
        return [delivery.batch for delivery in in_order.loader(workers=0)]

    def accuracy(self, logits: Callable[[Batch], Tensor], precision: torch.dtype) -> float:
        """Percent: each question's likeliest answer is worth what the annotators' answers give it."""
        right, count = 0.0, 0
        with torch.no_grad(), autocast(torch.device("cpu"), precision):
            for batch in self.asked:
                target_BK = batch.labels["vqa"]
                right += target_BK.gather(1, logits(batch).argmax(1, keepdim=True)).sum().item()
                count += len(target_BK)
        return 100 * right / count


@dataclass
class Side:
    curve: list[Point] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)  # stage -> means between records

    def minutes_to(self, target: float) -> float | None:
        return next((point.minutes for point in self.curve if point.accuracy >= target), None)


def run(scale: Scale = FULL) -> Iterator[Row]:
    if importlib.util.find_spec("accelerate") is None and scale.sides != (OURS,):
        raise SystemExit("to_accuracy: transformers' Trainer needs accelerate; pip install -e '.[bench]'")
    torch.set_num_threads(scale.threads)
    course = Course.of(scale)
    sides: dict[str, Side] = {}
    for name in scale.sides:
        sides[name] = ours(course) if name == OURS else peer(course, is_bf16=name == PEER_BF16)
        keep(sides, scale)
    reached = {name: side.minutes_to(scale.target) for name, side in sides.items()}
    for name, side in sides.items():
        best, spent, minutes = max(point.accuracy for point in side.curve), side.curve[-1].minutes, reached[name]
        how = f"at most {best:.1f} % in {spent:.1f} min" + ("" if minutes is not None else ", so not reached")
        yield Row(f"{name}, minutes to {scale.target:g} % of VQA", math.inf if minutes is None else minutes, "min", how=how)
    own = reached.get(OURS)
    for name, minutes in reached.items():
        if name != OURS and own is not None:
            least = sides[name].curve[-1].minutes  # a lower bound, where it was not reached
            how = "" if minutes is not None else "at least: the peer did not reach it in as many steps"
            yield Row(f"to {scale.target:g} % of VQA, {scale.preset}", (minutes or least) / own, "x", name, how=how)


def ours(course: Course) -> Side:
    """As the command line does it: a run of each stage, with its checkpoints and its log."""
    side, precision = Side(), choose_precision(course.tuning.train.precision, torch.device("cpu"))
    _ = course.asked  # read before the clock starts
    clock = Clock()

    def probe(model: Trainable) -> dict[str, float]:
        assert isinstance(model, vqa.VQA)
        with clock.stopped():
            accuracy = course.accuracy(model.logits, precision)
        step = (len(side.curve) + 1) * course.scale.every
        side.curve.append(Point(min(step, course.scale.tune), clock.minutes(), accuracy))
        return {"accuracy": accuracy}

    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "pretrained", Path(folder) / "tuned"
        runs.pretrain(course.pretraining, ViLT, course.pairs, first, quiet=True)
        runs.finetune(course.tuning, ViLT, vqa.VQA, course.questions, second, start=first, probe=probe, quiet=True)
        for stage, place in (("pretraining", first), ("tuning", second)):
            records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            side.losses[stage] = [record["loss"] for record in records if "loss" in record]
    return side


def peer(course: Course, is_bf16: bool) -> Side:
    """The same with transformers' Trainer."""
    from benchmarks.peers import hf_vilt

    side, scale, task = Side(), course.scale, course.tuning.task
    assert isinstance(task, vqa.VQA.Config)
    pretraining, tuning = both_stages(course)
    check_equal(course)
    precision = torch.bfloat16 if is_bf16 else torch.float32
    _ = course.asked  # read before the clock starts
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:

        def train(model: nn.Module, recipe: Recipe, stage: Stage, then: Callable[[int], object], head: str = "") -> list[float]:
            wanted = recipe.train
            return hf_vilt.train(
                model,
                hf_vilt.Steps(wanted.steps, stage.inputs),
                folder,
                parameters=hf_vilt.groups(model, wanted.lr, wanted.weight_decay, head, task.head_lr),
                betas=wanted.betas,
                eps=wanted.eps,
                schedule=lambda step: schedule(wanted, step),
                clip=wanted.clip,
                bf16=is_bf16,
                log_every=wanted.log_every,
                then=then,
            )

        model = pretraining.peer()
        side.losses["pretraining"] = train(model, course.pretraining, pretraining, lambda step: None)
        answering = tuning.peer(model.weights())

        def look(step: int) -> None:
            if step % scale.every and step != scale.tune:
                return
            with clock.stopped():
                answering.eval()
                accuracy = course.accuracy(lambda batch: answering(**questions_of(batch)).logits, precision)
                answering.train()
            side.curve.append(Point(step, clock.minutes(), accuracy))

        side.losses["tuning"] = train(answering, course.tuning, tuning, look, "classifier.")
    return side


class Stage(NamedTuple):
    """How the peer sees one of the two stages: its model with our start weights, and its inputs of each step."""

    peer: Callable[..., Any]
    inputs: Callable[[int], dict[str, Any]]
    batch: Callable[[int], Batch]


def both_stages(course: Course) -> tuple[Stage, Stage]:
    from transformers import ViltConfig

    from benchmarks.peers import hf_vilt

    system, task = course.system(), course.task()
    config, start, report = weights.to_hugging_face(course.pretraining.system.model_dump(), weights_of(system))
    assert not report.missing, report
    head = {name: tensor for name, tensor in weights_of(task).items() if name.startswith("head.")}
    classifier, _ = weights.CLASSIFIER.to_theirs(head, layers=0)
    pairs = course.stream(course.pretraining, course.pairs, system)
    questions = course.stream(course.tuning, course.questions, task)

    def pretraining() -> hf_vilt.ForPreTraining:
        model = hf_vilt.ForPreTraining(ViltConfig.from_dict(config))
        model.load(start)
        return model

    def answering(pretrained: dict[str, Tensor]) -> Any:
        return hf_vilt.for_answers(ViltConfig.from_dict(config), pretrained, classifier)

    return (
        Stage(pretraining, lambda step: peer_inputs(pairs.deliver(step).batch), lambda step: pairs.deliver(step).batch),
        Stage(answering, lambda step: questions_of(questions.deliver(step).batch), lambda step: questions.deliver(step).batch),
    )


def questions_of(batch: Batch) -> dict[str, Tensor]:
    assert batch.images is not None
    pixel_I3HW = normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return {**words_and_pictures(batch, pixel_I3HW), "labels": batch.labels["vqa"]}


def check_equal(course: Course) -> None:
    """The first batch of both stages has the same loss on both sides."""
    pretraining, tuning = both_stages(course)
    system, task, start = course.system(), course.task(), pretraining.peer()
    with torch.no_grad():
        theirs = start(**pretraining.inputs(0))["loss"]
        torch.testing.assert_close(our_loss(system, pretraining.batch(0)), theirs, atol=1e-4, rtol=1e-4)
        theirs = tuning.peer(start.weights())(**tuning.inputs(0)).loss
        torch.testing.assert_close(our_loss(task, tuning.batch(0)), theirs, atol=1e-4, rtol=1e-4)


def keep(sides: dict[str, Side], scale: Scale) -> None:
    """Every point of every side so far, as numbers and as a drawing."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    scale.out.mkdir(parents=True, exist_ok=True)
    told = {name: {"curve": [point._asdict() for point in side.curve], "losses": side.losses} for name, side in sides.items()}
    asked = {**scale._asdict(), "out": str(scale.out)}
    (scale.out / "curves.json").write_text(json.dumps({"scale": asked, "sides": told}, indent=1), encoding="utf-8")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, side in sides.items():
        axes.plot([point.minutes for point in side.curve], [point.accuracy for point in side.curve], label=name)
    axes.axhline(scale.target, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="minutes of training, both stages", ylabel="VQA accuracy on val, %", xlim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(scale.out / "curves.svg")
