"""The demo's numbers and pictures, put into the words of report/demo.py.

Numbers come from the files that the commands left; pictures, looks and guesses are asked of the trained models here. Which cases
are shown is decided by a rule, not by hand: for each kind the first that fits, right ones and wrong ones.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diptych import __version__, find
from diptych.contracts import Sample
from diptych.data.picture import Pixels, decode
from diptych.load import Model, load
from diptych.report.charts import Curve, Score
from diptych.report.demo import Arm, Control, DemoResult, Difference, Retrieval, Stage, Step
from diptych.report.gallery import Guess, ImageQuery, MaskedWord, Question, TextQuery
from diptych.report.overlay import Look, Transport
from diptych.report.sheet import Scene
from diptych.study.demo import ARMS, CHANCE, SPLITS, Command, Plan, Size, items_of, run_of
from diptych.study.demo_full import Extension
from diptych.train.evaluate import MACRO, Interval, intervals

NAMES = {
    "pretrained": "Pre-trained",
    "scratch": "From scratch",
    "scratch_equal_compute": "Scratch, equal compute",
    "image_root_only": "Image root only",
}
STARTS = {
    "pretrained": "the image root, then masked words and matching on captions",
    "scratch": "random numbers",
    "scratch_equal_compute": "random numbers; trained until it has cost as much as the pre-trained arm",
    "image_root_only": "the image root; its words and their meeting with pictures are random",
}
NEWS = {
    "test": "as in training",
    "test-style": "artists never seen, by the image root neither",
    "test-composition": "colours never seen on these objects",
    "test-object": "objects never seen in a scene",
}


def told(plan: Plan, result: Mapping[str, Any], wall: Mapping[str, float], further: Extension | None = None) -> DemoResult:
    """What the page tells. `wall`: seconds of the demo's stages so far; `further`: what `--full` added."""
    vqa = result["vqa"]
    rivals = ("image_root_only", "scratch", "scratch_equal_compute")
    captions, regions, questions = (_samples(f"{kind}:scenes", purpose) for kind, purpose in _READERS)
    reading, answering = load(plan.out / "crossgrid"), load(plan.out / "pretrained")
    commands = [*plan.commands(), *(command for lane in (further.lanes() if further else []) for command in lane)]
    runs = [command for command in commands if command.run]
    sources = _asked(plan.pretraining)["sources"]
    by_text, by_picture = _retrieved(plan, captions)
    return DemoResult(
        title="What is pre-training worth?",
        arms=tuple(_arm(plan, arm) for arm in ARMS),
        chance=vqa["chance"],
        n_labels=vqa["n_labels"],
        n_test=vqa["n"],
        differences=tuple(Difference(arm, _score(plan.gains[arm])) for arm in rivals),
        chance_by_type=CHANCE,
        split_notes=NEWS,
        system=f"words that look at a grid of cells (crossgrid:{plan.size.preset})",
        data="Composed on this machine from drawn artwork, with every task's annotations. A picture and its question each say "
        "nothing of the answer without the other.",
        machine=_machine(),
        steps=tuple(_steps(plan)),
        seconds=wall,
        pretraining=_pretraining(plan),
        pretraining_unit="right, %",
        retrieval=tuple(_retrieval(split, command) for split, command in plan.finding.items()),
        text_queries=tuple(by_text),
        image_queries=tuple(by_picture),
        questions=tuple(_questions(plan, answering, questions)),
        masked_words=tuple(_masked_words(reading, regions)),
        transports=tuple(_transports(reading, captions)),
        scenes=tuple(_scenes(captions, questions)),
        controls=tuple(_controls(plan)),
        comparisons=further.comparisons() if further else (),
        remarks=_remarks(vqa, plan.size),
        commands=("diptych data make scenes", *map(str, commands)),
        configs={str(command.run): _config(command) for command in runs},
        seeds={"all runs": 0},
        hashes={f"data_sha256, {source['name']}": source["sha256"] for source in sources}
        | {f"config_sha256, {command.about}": run_of(command)["config_sha256"] for command in runs},
        versions={"diptych": __version__, "torch": torch.__version__, "python": platform.python_version()},
        date=date.today().isoformat(),
    )


_READERS = (("coco_captions", "pretrain"), ("visual_genome", "pretrain"), ("vqa_v2", "vqa"))


def _samples(spec: str, purpose: str) -> dict[str, Sample]:
    """The test split by key."""
    (source,) = find.readers([spec], "test", purpose)
    return {sample.key: sample for sample in (source.reader[i] for i in range(len(source.reader)))}


def _score(interval: Interval, n: int | None = None) -> Score:
    return Score(interval.value, interval.low, interval.high, n)


# ----------------------------------------------------------------------------------------------------------- numbers


def _asked(command: Command) -> dict[str, Any]:
    """The config.json of a training command."""
    return json.loads((command.makes.parent / "config.json").read_text(encoding="utf-8"))


def _arm(plan: Plan, arm: str) -> Arm:
    on_test, past, tuning, stages = plan.scores[arm, "test"], plan.arms[arm].past, plan.arms[arm].tuning, plan.arms[arm].stages
    boxes = f"names and attributes of {_seen(plan.root)} pictures' boxes"
    texts = f"captions of {_seen(plan.pretraining)} pictures"
    labels = {
        "questions": f"{plan.size.labels:,}",
        "boxes": boxes if plan.root in past else "none",
        "texts": texts if plan.pretraining in past else "none",
    }
    return Arm(
        key=arm,
        name=NAMES[arm],
        score=_score(on_test[MACRO]),
        start=STARTS[arm],
        stages=tuple(Stage(name, seconds / 60) for name, seconds in stages),
        labels=labels,
        by_type={kind: _score(on_test[f"question_type/{kind}"]) for kind in CHANCE if f"question_type/{kind}" in on_test},
        by_split={split: _score(plan.scores[arm, split][MACRO]) for split in SPLITS},
        lr=_asked(tuning)["recipe"]["train"]["lr"],
        curve=_curve(tuning, "val/macro", 1.0, sum(seconds for _, seconds in stages[:-1])),
    )


def _seen(command: Command) -> str:
    """How many different pictures a run has met at most."""
    return f"{min(_drawn(command), sum(source['samples'] for source in _asked(command)['sources'])):,}"


def _drawn(command: Command) -> int:
    return command.steps * _asked(command)["recipe"]["train"]["batch_size"]


def _curve(command: Command, metric: str, scale: float, before: float = 0.0) -> Curve | None:
    """One quantity of metrics.jsonl; minutes count from `before` seconds on."""
    lines = (command.makes.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points = [record for record in map(json.loads, lines) if metric in record]
    if not points:
        return None
    return Curve(
        samples=[point["samples"] for point in points],
        minutes=[(before + point["seconds"]) / 60 for point in points],
        value=[scale * point[metric] for point in points],
    )


def _pretraining(plan: Plan) -> dict[str, Curve]:
    curves = {
        "image root: name of a thing": _curve(plan.root, "naming/accuracy", 100),
        "masked word": _curve(plan.pretraining, "mlm/accuracy", 100),
        "match or near mismatch": _curve(plan.pretraining, "itm/accuracy", 100),
    }
    return {name: curve for name, curve in curves.items() if curve}


def _steps(plan: Plan) -> Iterator[Step]:
    stories = {
        "Image root": (
            plan.root,
            "A small CNN names what lies under each cell of its grid.",
            "boxes with names, colours and sizes",
        ),
        "Pre-training": (
            plan.pretraining,
            "Words look at the grid: a hidden word is guessed, a true text told from one with a word exchanged.",
            "short texts about pictures",
        ),
        "Fine-tuning": (
            plan.arms["pretrained"].tuning,
            "Answers are filled in behind the question, as hidden words were.",
            f"{plan.size.labels:,} questions with answers",
        ),
    }
    for name, (command, does, sees) in stories.items():
        facts = {"pictures": _seen(command), "drawn": f"{_drawn(command):,} times", "steps": f"{command.steps:,}"}
        yield Step(name, does, run_of(command)["seconds"] / 60, sees, facts)


def _retrieval(split: str, command: Command) -> Retrieval:
    items = items_of(command)
    scores, n = intervals(items), len(items) // 2
    by_text, by_picture = ({f"R@{k}": _score(scores[f"{side}_r{k}"]) for k in (1, 5, 10)} for side in ("img", "txt"))
    chance = {f"R@{k}": 100 * k / n for k in (1, 5, 10)}
    note = "artists never seen" if split == "test-style" else ""
    return Retrieval(split, n, n, by_text, by_picture, chance, note)


def _controls(plan: Plan) -> Iterator[Control]:
    for withheld in plan.controls:
        for kind, chance in CHANCE.items():
            yield Control(
                f"VQA: {kind}", withheld, _score(plan.scores[f"without_{withheld}", "test"][f"question_type/{kind}"]), chance
            )


def _remarks(vqa: Mapping[str, Any], size: Size) -> tuple[str, ...]:
    weakest = min(CHANCE, key=lambda kind: vqa["by_type"]["pretrained"][kind] - CHANCE[kind])
    quick = ("This is the quick demo: it shows what a report looks like, and its numbers mean nothing.",)
    return (
        *(quick if size.preset == "tiny" else ()),
        "The pictures are drawn. The numbers compare starts with one another on this data; they are no paper's.",
        f"One seed. The intervals say how much other test scenes would change the numbers, not how much another seed would. "
        f"Closest to chance is “{weakest}”: {vqa['by_type']['pretrained'][weakest]:.1f} %, where chance is {CHANCE[weakest]:g} %.",
        "The image root has seen labels of its own, boxes with names. So the fair rival has the same root: what it lacks is "
        "pre-training on texts, and nothing else.",
        "Learning rates were chosen on val by one search among three (the long arm from scratch has that of the short one); "
        "the search is not counted in the minutes.",
    )


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name or platform.machine()}, {torch.get_num_threads()} threads, " + (
        "a GPU" if torch.cuda.is_available() else "no GPU"
    )


def _config(command: Command) -> str:
    return yaml.safe_dump(_asked(command)["recipe"], sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


# ---------------------------------------------------------------------------------------------------------- pictures


def _pixels(sample: Sample) -> Pixels:
    return decode(sample.images[0])


def _path(sample: Sample) -> Path:
    path = sample.images[0]
    assert isinstance(path, Path)
    return path


def _questions(plan: Plan, model: Model, samples: Mapping[str, Sample], each: int = 2) -> Iterator[Question]:
    """Of every type: two that the pre-trained arm has right and its rival wrong, and one that it has wrong."""
    items = {arm: {item["key"]: item for item in items_of(plan.judging[arm, "test"])} for arm in ARMS}
    ours, rival = items["pretrained"], items["image_root_only"]
    for kind in CHANCE:
        of_kind = [key for key, item in ours.items() if item["type"] == kind]
        won = [key for key in of_kind if ours[key]["score"] > rival[key]["score"]]
        lost = [key for key in of_kind if not ours[key]["score"]]
        for key in [*won[:each], *lost[:1]]:
            sample = samples[key]
            look = Look(*model.look(_path(sample), sample.texts[0]))
            answers = {arm: Guess(items[arm][key]["answer"], items[arm][key]["top"][0][1]) for arm in ARMS}
            yield Question(_pixels(sample), sample.texts[0], ours[key]["truth"], answers, look, "pretrained", kind, "test")


def _masked_words(model: Model, samples: Mapping[str, Sample], each: int = 2) -> Iterator[MaskedWord]:
    """Two words of each kind that the picture decides, guessed with the picture and with a grey one."""
    left: dict[str, int] = dict.fromkeys(("object", "colour", "size", "count", "relation"), each)
    for sample in samples.values():
        for text, phrases in zip(sample.texts, sample.phrases, strict=True):
            phrase = next(
                (phrase for phrase in phrases if left.get(phrase.kind) and " " not in text[phrase.start : phrase.end]), None
            )
            if phrase is None:
                continue
            hidden = f"{text[: phrase.start]}[MASK]{text[phrase.end :]}"
            picture = _pixels(sample)
            filled = [model.fill(shown, hidden, top=3)[0] for shown in (picture, np.full_like(picture, 128))]
            with_picture, without = ([Guess(*guess) for guess in guesses] for guesses in filled)
            left[phrase.kind] -= 1
            yield MaskedWord(
                picture,
                text.split(),
                len(text[: phrase.start].split()),
                with_picture,
                without,
                Look(*model.look(picture, hidden)),
            )
            break
        if not any(left.values()):
            return


def _transports(model: Model, samples: Mapping[str, Sample], most: int = 3) -> Iterator[Transport]:
    """The plan of optimal transport from the words of a caption to the picture's cells; first shown: a thing of its own kind."""
    for sample in islice((s for s in samples.values() if len({box.name for box in s.boxes}) == len(s.boxes) <= 4), most):
        text, phrase = sample.texts[0], sample.phrases[0][0]
        picture = _pixels(sample)
        moved = model.transport(picture, text)
        chosen = len(text[: phrase.end].split()) - 1
        box = sample.boxes[phrase.box].xyxy if phrase.box is not None else None
        height, width = picture.shape[:2]
        true = () if box is None else ((box[0] / width, box[1] / height, box[2] / width, box[3] / height),)
        yield Transport(picture, moved.words, moved.weight_WV, moved.box_V4, chosen, true)


def _scenes(captions: Mapping[str, Sample], questions: Mapping[str, Sample], most: int = 4) -> Iterator[Scene]:
    for sample in islice(captions.values(), most):
        yield Scene(_pixels(sample), sample.texts[:2], [(*box.xyxy, box.name) for box in sample.boxes], split="test")
    for sample in islice(questions.values(), most):
        yield Scene(_pixels(sample), questions=[(sample.texts[0], sample.labels["answer"])], split="test")


def _retrieved(plan: Plan, samples: Mapping[str, Sample]) -> tuple[list[TextQuery], list[ImageQuery]]:
    """Texts and pictures asked for on `test`: the first three that were found at once, and two that were not."""
    items = items_of(plan.finding["test"])

    def some(kind: str) -> list[dict[str, Any]]:
        of_kind = [item for item in items if item["type"] == kind]
        found, late = ([item for item in of_kind if (item["rank"] == 1) == is_first] for is_first in (True, False))
        return [*found[:3], *late[:2]]

    by_text = [
        TextQuery(
            item["query"],
            [_pixels(samples[top["key"]]) for top in item["top"]],
            [top["score"] for top in item["top"]],
            item["rank"],
            _pixels(samples[item["truth"]]),
        )
        for item in some("text_to_image")
    ]
    by_picture = [
        ImageQuery(
            _pixels(samples[item["key"]]),
            [top["text"] for top in item["top"]],
            [top["score"] for top in item["top"]],
            frozenset(samples[item["key"]].texts),
            item["rank"],
        )
        for item in some("image_to_text")
    ]
    return by_text, by_picture
