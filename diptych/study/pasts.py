"""Where each system comes from: the commands that lead to a pre-trained one, and how long each of them is at a budget.

    cnn ------------------> soho, e2e_vlp, crossgrid, align, mural        `--init image=` (and `text=` where words are kept)
    vit ------------------> vilt                                          `--init image= --init fusion=`
    detector -> store ----> uniter, vinvl                                 read it; the detector's features are their root
    cnn, detector -> store > kd_vlp                                       is taught by it, and starts from the cnn
    bert -----------------> e2e_vlp, uniter, vinvl                        `--init text= --init fusion=` of their pre-training
                            soho, kd_vlp                                  `--init text=`, for their layers are others

All read the same texts (those of `diptych demo`), MURAL translations beside them. A run lies in a folder whose name ends in a
hash of what decides it: its words, its resolved recipe, its data, and so, through the folders that its words name, everything
before it. The same past is thus made once, by whomever it is asked for, and never taken for another.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from diptych import config, find
from diptych.atelier import detection
from diptych.config import Recipe, UserError, nearest
from diptych.plan import Price, price
from diptych.study.lanes import Command

SCENES = ("visual_genome:scenes", "coco_captions:scenes")
TEXTS = ("visual_genome:scenes@0.85", "coco_captions:scenes@0.15")
BERT = ("text", "fusion")  # its words, and its layers
WATCHING = {"log_every", "validate_every", "validate_on", "score_on", "checkpoint_every"}  # settings that change no weight


@dataclass(frozen=True)
class Taught:
    """What a detector is trained on."""

    data: tuple[str, ...] = ("scenes",)
    merged: bool = False  # with the aliases and the floor that make one vocabulary of the sets of `detection`
    balance: int = 0  # rare things are shown again until each name has so many boxes in a set


@dataclass(frozen=True)
class Past:
    """What a system starts from, and what it is pre-trained on."""

    root: str = ""  # a system of one modality that is trained first
    parts: tuple[str, ...] = ()  # what is taken from it
    detector: Taught | None = None  # a detector is trained, and what it saw is stored
    bert: tuple[str, ...] = ()  # what pre-training takes from BERT, at the preset that has its sizes
    data: tuple[str, ...] = TEXTS
    settings: tuple[str, ...] = ()  # of its every command
    pretraining: tuple[str, ...] = ()  # settings of its pre-training alone


PASTS: Mapping[str, Past] = {
    "vilt": Past("vit", ("image", "fusion")),
    "soho": Past("cnn", ("image", "text"), bert=("text",)),
    "e2e_vlp": Past("cnn", ("image", "text"), bert=BERT),
    "crossgrid": Past("cnn", ("image", "text")),
    "kd_vlp": Past("cnn", ("image", "text"), detector=Taught(), bert=("text",)),
    "uniter": Past(detector=Taught(), bert=BERT),
    "vinvl": Past(detector=Taught(), bert=BERT),
    "align": Past("cnn", ("image",)),
    # by letters; names are drawn in 96 languages, but pictures are the scenes', at the size at which its root has seen them
    "mural": Past(
        "cnn",
        ("image",),
        data=("visual_genome:scenes@0.6", "coco_captions:scenes@0.15", "translations:names@0.25"),
        settings=("data.image.short=128", "data.image.long=128"),
    ),
}
PRICED = 512  # samples of each data set that costs are reckoned from
WITH_BERT = "small"  # the preset in which BERT and they are of one size
SEES = {"cnn": "boxes with names and attributes", "vit": "boxes with names and attributes", "detector": "boxes, names, attributes"}


@dataclass(frozen=True)
class Budget:
    """How long everything is. Samples are counted where batches differ between systems."""

    name: str
    preset: str
    labels: int | None  # labelled samples of each task; None: all there are
    drawn: int  # samples drawn in fine-tuning, repeats counted
    controls: int  # the same, without the picture or the text
    asked: Mapping[str, int | None]  # samples scored of each split, by task; "": of any other; None: all
    rates: tuple[float, ...] = (1 / 16, 1 / 4, 1.0)  # that fine-tuning is tried at, times a system's own: low for what has learnt
    steps: Mapping[str, int] = field(default_factory=dict)  # of training before the task; where none are named,
    stretch: float = 1.0  # as many as the preset has, times this

    def steps_of(self, system: str, own: int) -> int:
        return self.steps.get(system, max(1, round(own * self.stretch)))

    def asked_of(self, task: str) -> int | None:
        return self.asked.get(task, self.asked[""])


# ranking compares every picture with every text, so its galleries are smaller where time is short
_BUDGETS = (
    Budget(
        "quick",
        "small",
        labels=2000,
        drawn=3200,
        controls=1600,
        asked={"": 500, "retrieval": 60, "caption": 200},
        rates=(1 / 4,),
        # with one-core steps of .053 s (cnn), .21 (vit), .09 (detector), .81 (vilt), .13 to .24 (others), in bf16
        steps={
            "cnn": 1500,
            "bert": 1000,
            "vit": 800,
            "detector": 1500,
            "vilt": 450,
            "soho": 1200,
            "e2e_vlp": 1000,
            "crossgrid": 1500,
            "kd_vlp": 800,
            "uniter": 800,
            "vinvl": 800,
            "align": 600,
            "mural": 600,
        },
    ),
    Budget("small", "small", labels=4000, drawn=6400, controls=3200, asked={"": 1000, "retrieval": 200, "caption": 500}),
    Budget("full", "small", labels=None, drawn=25_600, controls=6400, asked={"": None, "retrieval": 500}, stretch=2.0),
)
BUDGETS = {budget.name: budget for budget in _BUDGETS}


@dataclass(frozen=True)
class Stage:
    """One command of a past, what labels it is given, and what it trains by which recipe (nothing, by none, where it stores)."""

    command: Command
    sees: str = ""
    system: str = ""
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Chain:
    """The way to one pre-trained system."""

    system: str
    spec: str  # system:preset, where nothing was learnt yet
    past: Past
    root: Stage | None
    detector: Stage | None
    store: Stage | None  # of regions in the pictures that it is pre-trained on
    words: Stage | None  # BERT, where pre-training begins from it
    pretraining: Stage

    @property
    def start(self) -> tuple[str, ...]:
        """`--init` words that begin a system where its root ended."""
        run = self.root and self.root.command.run
        return tuple(word for part in self.past.parts for word in ("--init", f"{part}={run}")) if run else ()

    @property
    def before(self) -> tuple[Stage, ...]:
        """All that comes before pre-training, in order."""
        return tuple(stage for stage in (self.root, self.detector, self.store, self.words) if stage)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (*self.before, self.pretraining)


class Pasts:
    """The chains at one budget, in one folder."""

    def __init__(self, budget: Budget, out: Path):
        self.budget, self.out = budget, out
        self._sha256: dict[tuple[str, str, Any], str] = {}
        self._prices: dict[tuple[str, str, str], Price] = {}
        self._fit: Callable[[Recipe], Sequence[str]] = lambda recipe: ()

    def fitted(self, fit: Callable[[Recipe], Sequence[str]]) -> Pasts:
        """The same, every system with the settings that `fit` gives for its preset. Detectors stay: what they see is data."""
        other = copy.copy(self)
        other._fit = fit
        return other

    def of(self, system: str, past: Past | None = None) -> Chain:
        """By the past of its line above, or by another one."""
        if past is None and system not in PASTS:
            raise UserError(f"{system}: its past is not known{nearest(system, PASTS)}")
        past, spec = past or PASTS[system], f"{system}:{self.budget.preset}"
        root = self.train(past.root, ("--data", "scenes"), sees=SEES[past.root]) if past.root else None
        detector = self.detector(past.detector) if past.detector else None
        store = self.store(detector, SCENES, "pretrain", ("train",)) if detector else None
        texts = tuple(word for spec in past.data for word in ("--data", spec))
        unborn = Chain(system, spec, past, root, detector, store, None, Stage(Command("", (), self.out)))
        words, start = None, unborn.start
        if past.bert and self.budget.preset == WITH_BERT:
            lent = ("--init", f"text={root.command.run}") if root else ()  # its words begin where the root's cells are
            words = self.train("bert", ("--data", "scenes", *lent), sees="texts alone")
            begun = tuple(word for part in past.bert for word in ("--init", f"{part}={words.command.run}"))
            start = (*(("--init", f"image={root.command.run}") if root else ()), *begun)
        regions = ("--regions", str(store.command.makes.parent)) if store else ()
        settings = (*past.settings, *past.pretraining)
        pretraining = self.train(system, (*texts, *start, *regions), settings, "short texts about pictures")
        return Chain(system, spec, past, root, detector, store, words, pretraining)

    def price(self, system: str, recipe: Recipe, data: Sequence[str], task: str = "") -> Price:
        """What one sample costs, in pre-training or on a task. What a detector saw is as much as it can see."""
        asked = (system, task, digest([recipe.model_dump(mode="json"), list(data)]))
        if asked not in self._prices:
            cls, task_class = find.system_class(system), find.task_class(task) if task else None
            sources = find.readers(data, "train", task_class.purpose if task_class else cls.purpose, PRICED)
            teacher: Any = find.system(f"detector:{self.budget.preset}").recipe.system
            self._prices[asked] = price(recipe, cls, sources, task_class, (teacher.image.most, teacher.image.features))
        return self._prices[asked]

    def detector(self, taught: Taught) -> Stage:
        words = tuple(word for spec in taught.data for word in ("--data", spec))
        words += ("--balance", str(taught.balance)) if taught.balance else ()
        return self.train("detector", words, sees=SEES["detector"], is_merged=taught.merged)

    def train(
        self, system: str, words: Sequence[str], settings: Sequence[str] = (), sees: str = "", is_merged: bool = False
    ) -> Stage:
        found = find.system(f"{system}:{self.budget.preset}")
        steps = self.budget.steps_of(system, found.recipe.train.steps)
        fit = self._fit(found.recipe) if system != "detector" else ()
        settings = (*fit, *settings, f"train.steps={steps}", f"train.log_every={max(steps // 60, 1)}")
        recipe = config.resolve(found.recipe, *map(config.from_setting, settings))
        if is_merged:
            words = (*words, "--config", str(find.embedded("detection") / "merge.yaml"))
            merging = detection.merging()["system"]
            recipe = recipe.model_copy(update={"system": recipe.system.model_copy(update=merging)})
        data = [word for option, word in pairwise(words) if option == "--data"]
        key = self.key(words, recipe, [self.sha256(spec, "train", found.cls.purpose) for spec in data])
        run = self.out / "past" / f"{system}-{key}"
        given = [word for setting in settings for word in ("--set", setting)]
        is_balanced = "--balance" in words  # which `regions train` alone can do
        verb = (
            ("regions", "train", "--preset", self.budget.preset) if is_balanced else ("pretrain", f"{system}:{self.budget.preset}")
        )
        command = Command(
            f"training {system}",
            (*verb, *words, *given, "--out", str(run)),
            run / "result.json",
            steps,
        )
        return Stage(command, sees, system, recipe)

    def store(
        self,
        detector: Stage,
        data: Sequence[str],
        purpose: str,
        splits: Sequence[str],
        task: str = "",
        limit: int | None = None,
    ) -> Stage:
        """What a detector sees in the pictures of some data: of pre-training, or of a task."""
        words = ("--from", str(detector.command.run), *(word for spec in data for word in ("--data", spec)))
        words += tuple(word for split in splits for word in ("--split", split))
        words += ("--for", task) if task else ()
        words += ("--limit", str(limit)) if limit else ()
        key = self.key(words, None, [self.sha256(spec, split, purpose) for spec in data for split in splits])
        folder = self.out / "past" / f"regions-{task or 'pretrain'}-{key}"
        command = Command("storing regions", ("regions", "extract", *words, "--out", str(folder)), folder / "store.json")
        return Stage(command)

    def sha256(self, spec: str, split: str, purpose: str | tuple[str, ...]) -> str:
        """Of the annotations of one split of a data set."""
        asked = (spec.partition("@")[0], split, purpose)
        if asked not in self._sha256:
            self._sha256[asked] = "".join(source.reader.fingerprint for source in find.readers([asked[0]], split, purpose, 1))
        return self._sha256[asked]

    def key(self, words: Sequence[str], recipe: Recipe | None, *more: Any) -> str:
        """Ten letters for what decides a command, wherever it is carried out and however closely it is watched."""
        return digest({"words": [self._relative(word) for word in words], "recipe": recipe and _decides(recipe), "more": more})

    def _relative(self, word: str) -> str:
        """A word as it would be, were this folder and the embedded data elsewhere."""
        option, equals, path = word.rpartition("=")
        for folder in (self.out, find.embedded("")):
            path = path.removeprefix(f"{folder}/")
        return f"{option}{equals}{path}"


# keys that came after results had been kept, at the value that means what was there before: they change no hash
LATER = {("data", "noise"): 0.0, ("data", "noun_phrases"): None, ("system", "masking"): "conditional"}


def _decides(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json", exclude={"train": WATCHING})
    for (part, key), as_before in LATER.items():
        if values[part].get(key) == as_before:
            del values[part][key]
    return values


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]
