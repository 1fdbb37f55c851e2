"""`diptych demo`: what is pre-training worth? Four models answer the same questions; they differ only in what came before.

    pretrained              image root -> pre-training -> fine-tuning
    image_root_only         image root ----------------> fine-tuning     the fair rival: it has eyes, and has never read
    scratch                                              fine-tuning
    scratch_equal_compute                                fine-tuning, until it has cost as much as the first

Each is one or more `diptych` commands on the embedded scenes, in two lanes beside each other; then all are scored on every split,
the pre-trained one finds pictures without further training, and demo_report.py tells it as a page. All arms have the same labelled
questions, the same system and the same head; each has the learning rate that one and the same search chose for it on `val`
(rates.json; `--full` takes the large size on any machine, repeats the search, and goes on in demo_full.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from diptych import checkpoint, find
from diptych.report.demo import demo_page
from diptych.study import lanes
from diptych.study.lanes import Call, Command
from diptych.train.evaluate import MACRO, Interval, difference, intervals
from diptych.train.precision import choose_device, multiplies_bf16

ARMS = ("pretrained", "scratch", "scratch_equal_compute", "image_root_only")
SPLITS = ("test", "test-style", "test-composition", "test-object")
# of the best guess without looking; a picture alone is worth 1/6 in colour questions, for it shows six colours
CHANCE = {"exist": 50.0, "colour": 12.5, "count": 20.0, "relation": 50.0, "larger": 50.0}
GRID = (2.5e-4, 5e-4, 1e-3, 2e-3)  # learning rates that the search tries for each arm
FOUND: dict[str, Any] = json.loads(Path(__file__).with_name("rates.json").read_text(encoding="utf-8"))  # by size, as by `search`


@dataclass(frozen=True)
class Size:
    """Steps of every run, in batches of the presets' size. `equal` costs what root + pretrain + tune do (tests/study)."""

    name: str
    preset: str
    root: int
    pretrain: int
    tune: int
    equal: int
    controls: int
    labels: int
    asked: int | None  # questions scored of each split; None: all
    gallery: int  # pictures that retrieval chooses among

    @property
    def rates(self) -> dict[str, float]:
        """Arm -> the learning rate of fine-tuning that the search found at this size."""
        return FOUND.get(self.name, FOUND["default"])["best"]


_SIZES = (
    Size("quick", "tiny", root=40, pretrain=40, tune=30, equal=59, controls=10, labels=100, asked=200, gallery=50),
    Size("default", "small", root=800, pretrain=600, tune=200, equal=1260, controls=60, labels=2000, asked=None, gallery=200),
    # the same ten minutes where bf16 is multiplied in hardware
    Size("large", "small", root=1500, pretrain=3000, tune=400, equal=4100, controls=200, labels=2000, asked=None, gallery=200),
)
SIZES = {size.name: size for size in _SIZES}


def size_of(wish: Literal["quick", "default", "full"]) -> Size:
    """By default what ten minutes allow: more on a GPU and on processors that multiply bf16 in hardware. `full` takes its time."""
    if wish == "quick":
        return SIZES["quick"]
    return SIZES["large" if wish == "full" or multiplies_bf16(choose_device()) else "default"]


def demo(size: Literal["quick", "default", "full"], out: Path, call: Call) -> dict[str, Any]:
    """Run everything, write OUT/result.json and OUT/report.html; the result."""
    from diptych.study import demo_report
    from diptych.study.demo_full import Extension

    began = time.perf_counter()
    seconds = {}
    tell = lanes.progress_line()
    tell("composing the embedded scenes")
    if size != "quick" or not (find.embedded("scenes") / "dataset.json").is_file():
        find.make_embedded("scenes", small=size == "quick")
    seconds["data"] = time.perf_counter() - began
    chosen, rates = size_of(size), size_of(size).rates
    if size == "full":
        rates = search(chosen, out, call, tell)
        seconds["search for learning rates"] = time.perf_counter() - began - seconds["data"]
    plan = Plan(chosen, out, rates)
    further = Extension(plan) if size == "full" else None
    both = zip(plan.lanes(), further.lanes() if further else ([], []), strict=True)
    lanes.run([[*lane, *more] for lane, more in both], out / "log", call, tell)
    seconds["training and scoring"] = time.perf_counter() - began - sum(seconds.values())
    result = summary(plan) | ({"further": further.summary()} if further else {})
    tell("writing the report")
    page = demo_page(demo_report.told(plan, result, seconds, further))
    checkpoint.write_file(out / "report.html", page.encode())
    seconds["report"] = time.perf_counter() - began - sum(seconds.values())
    seconds["total"] = time.perf_counter() - began
    result["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    checkpoint.write_json(out / "result.json", result)
    return result


def search(size: Size, out: Path, call: Call, tell: Callable[[str], None]) -> dict[str, float]:
    """For each arm the rate of GRID that is best on `val`; also written to OUT/rates.json, with all scores.

    `scratch_equal_compute` takes that of `scratch`: three runs as long as its own would cost more than the demo.
    """
    tried = {rate: Plan(size, out, dict.fromkeys(ARMS, rate), f"-{rate:g}") for rate in GRID}
    first = next(iter(tried.values()))
    searched = ("pretrained", "image_root_only", "scratch")
    of_arm = {arm: [plan.arms[arm].tuning for plan in tried.values()] for arm in searched}
    one = [first.root, first.pretraining, *of_arm["pretrained"]]
    two = [*of_arm["scratch"], *(replace(command, needs=first.root.makes) for command in of_arm["image_root_only"])]
    lanes.run([one, two], out / "log", call, tell)
    scores = {
        arm: {f"{rate:g}": run_of(plan.arms[arm].tuning)["splits"]["val"]["metrics"][MACRO] for rate, plan in tried.items()}
        for arm in searched
    }
    best = {arm: float(max(on_val, key=lambda rate: on_val[rate])) for arm, on_val in scores.items()}
    best["scratch_equal_compute"] = best["scratch"]
    checkpoint.write_json(out / "rates.json", {"best": best, "macro_on_val": scores})
    return best


@dataclass(frozen=True)
class Arm:
    """One way to a fine-tuned model, from its very beginning."""

    past: tuple[Command, ...]  # what its weights were trained on before
    tuning: Command

    @property
    def stages(self) -> list[tuple[str, float]]:
        """(stage, seconds of training), once all have run."""
        return [(command.about, run_of(command)["seconds"]) for command in self.past] + [
            ("fine-tuning", run_of(self.tuning)["seconds"])
        ]


class Plan:
    """The commands, by what they make. Fine-tuning runs have `suffix` behind their names."""

    def __init__(self, size: Size, out: Path, rates: Mapping[str, float] | None = None, suffix: str = ""):
        self.size, self.out, self.rates, self.suffix = size, out, rates or size.rates, suffix
        self.root = self.train("image root", "root", size.root, "pretrain", f"cnn:{size.preset}", "--data", "scenes")
        start = self.start(self.root)
        self.pretraining = self.pretrain("pre-training", "crossgrid", size.pretrain, f"crossgrid:{size.preset}", *start)
        read, fresh = str(self.pretraining.run), f"crossgrid:{size.preset}"
        self.arms = {
            "pretrained": Arm((self.root, self.pretraining), self.tune("pretrained", read, size.tune)),
            "scratch": Arm((), self.tune("scratch", fresh, size.tune)),
            "scratch_equal_compute": Arm((), self.tune("scratch_equal_compute", fresh, size.equal)),
            "image_root_only": Arm((self.root,), self.tune("image_root_only", fresh, size.tune, *start)),
        }
        self.controls = {
            withheld: self.tune(f"without_{withheld}", read, size.controls, "--set", f"task.withhold={withheld}", rate="pretrained")
            for withheld in ("picture", "question")
        }
        self.judging = {(arm, split): self.judge(self.arms[arm].tuning, split) for arm in ARMS for split in SPLITS}
        self.judging |= {(f"without_{withheld}", "test"): self.judge(tuning) for withheld, tuning in self.controls.items()}
        self.finding = {split: self._find(split) for split in ("test", "test-style")}

    def lanes(self) -> list[list[Command]]:
        """Two, about equally long: the pre-trained arm from its root to its scores; and all else, which waits for its stages."""

        def judged(*arms: str) -> list[Command]:
            return [command for (arm, _), command in self.judging.items() if arm in arms]

        def after(stage: Command, *commands: Command) -> list[Command]:
            return [replace(command, needs=stage.makes) for command in commands]

        tuning = {name: arm.tuning for name, arm in self.arms.items()}
        one = [self.root, self.pretraining, tuning["pretrained"], *judged("pretrained")]
        two = [tuning["scratch"], *after(self.root, tuning["image_root_only"]), tuning["scratch_equal_compute"]]
        two += judged("scratch", "scratch_equal_compute", "image_root_only")
        two += [*after(self.pretraining, *self.controls.values()), *judged("without_picture", "without_question")]
        return [one, [*two, *self.finding.values()]]

    def commands(self) -> list[Command]:
        return [command for lane in self.lanes() for command in lane]

    @cached_property
    def scores(self) -> dict[tuple[str, str], dict[str, Interval]]:
        """Of every judged arm and split, once all have run."""
        return {key: intervals(items_of(command)) for key, command in self.judging.items()}

    @cached_property
    def gains(self) -> dict[str, Interval]:
        """What the pre-trained arm has over each other one on `test`, macro."""
        ours, *others = (items_of(self.judging[arm, "test"]) for arm in ARMS)
        return {arm: difference(ours, theirs)[MACRO] for arm, theirs in zip(ARMS[1:], others, strict=True)}

    @staticmethod
    def start(root: Command) -> tuple[str, ...]:
        """From the root's eyes, and from its words where it has some."""
        return ("--init", f"image={root.run}", "--init", f"text={root.run}")

    def train(self, about: str, name: str, steps: int, *words: str) -> Command:
        """`words`, trained for so many steps in OUT/NAME."""
        run = self.out / name
        settings = [f"train.steps={steps}", f"train.log_every={max(steps // 60, 1)}"]
        given = [word for setting in settings for word in ("--set", setting)]
        return Command(about, (*words, *given, "--out", str(run)), run / "result.json", steps)

    def pretrain(self, about: str, name: str, steps: int, system: str, *more: str, frozen: str = "image") -> Command:
        texts = ("--data", "visual_genome:scenes@0.85", "--data", "coco_captions:scenes@0.15")
        # a frozen root costs a third less a step, and as many steps teach as much
        return self.train(about, name, steps, "pretrain", system, *texts, *more, "--set", f"train.freeze=[{frozen}]")

    def tune(self, name: str, source: str, steps: int, *more: str, rate: str = "", labels: int | None = None) -> Command:
        settings = [
            "task.head=cloze",
            f"data.limit={labels or self.size.labels}",
            "train.batch_size=32",
            f"train.lr={self.rates[rate or name]:g}",
            f"train.validate_every={max(steps // 6, 1)}",
        ]
        given = [word for setting in settings for word in ("--set", setting)]
        about = f"fine-tuning {name.replace('_', ' ')}"
        return self.train(about, name + self.suffix, steps, "finetune", "vqa", "--from", source, "--data", "scenes", *more, *given)

    def judge(self, tuning: Command, split: str = "test") -> Command:
        run = tuning.makes.parent
        items = self.out / "items" / f"{run.name}-{split}.jsonl"
        words = ("evaluate", "vqa", "--from", str(run), "--data", "scenes", "--split", split, "--items", str(items))
        words += ("--set", f"data.limit={self.size.asked or 'null'}")
        return Command(f"scoring {run.name.replace('_', ' ')}", words, items, needs=tuning.makes)

    def _find(self, split: str) -> Command:
        items = self.out / "items" / f"retrieval-{split}.jsonl"
        words = ("evaluate", "retrieval", "--from", str(self.pretraining.run), "--data", "scenes", "--split", split)
        # one text a picture: so each picture is one query each way, and half of the items are pictures
        words += ("--set", f"data.limit={self.size.gallery}", "--set", "task.texts=1", "--items", str(items))
        return Command("finding pictures", words, items, needs=self.pretraining.makes)


# ---------------------------------------------------------------------------------------------------------- the numbers


def items_of(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.makes.read_text(encoding="utf-8").splitlines()]


def run_of(command: Command) -> dict[str, Any]:
    """The result.json of a training command."""
    return json.loads(command.makes.read_text(encoding="utf-8"))


def summary(plan: Plan) -> dict[str, Any]:
    """Everything but the wall clock, in percent; `ci95` beside it has the same keys."""
    on_test = {arm: plan.scores[arm, "test"] for arm in ARMS}
    vqa: dict[str, Any] = {arm: on_test[arm][MACRO].value for arm in ARMS}
    asked = len(items_of(plan.judging["pretrained", "test"]))
    vqa |= {"n_labels": plan.size.labels, "n": asked, "chance": sum(CHANCE.values()) / len(CHANCE)}
    vqa["by_type"] = {arm: by_type(on_test[arm]) for arm in ARMS}
    vqa["ci95"] = {arm: _ends(on_test[arm][MACRO]) for arm in ARMS}
    vqa["gain"] = {arm: {"points": gain.value, "ci95": _ends(gain)} for arm, gain in plan.gains.items()}
    vqa["by_split"] = {arm: {split: plan.scores[arm, split][MACRO].value for split in SPLITS} for arm in ARMS}
    vqa["controls"] = {withheld: by_type(plan.scores[f"without_{withheld}", "test"]) for withheld in plan.controls}
    vqa["minutes"] = {arm: sum(seconds for _, seconds in plan.arms[arm].stages) / 60 for arm in ARMS}
    found = {split: intervals(items_of(command)) for split, command in plan.finding.items()}
    retrieval = {split: {name: score.value for name, score in scored.items()} for split, scored in found.items()}
    return {"vqa": vqa, "retrieval": retrieval | {"n_pictures": len(items_of(plan.finding["test"])) // 2}}


def by_type(scores: Mapping[str, Interval]) -> dict[str, float]:
    return {name.partition("/")[2]: score.value for name, score in scores.items() if "/" in name}


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
