"""`diptych scale SYSTEM`: the three levers of pre-training. Data x size of the model x objectives, and the power laws between them.

    pictures      of each data set, the first so many (`data.limit`): the few are among the many
    size          widths, heads, layers and channels, times the preset's own; its root and its BERT are trained in its size, too
    objectives    guessing masked words alone, with one objective more, with all: switched off by configuration

All cells draw as many samples, in as many steps, at the preset's rates and with one seed: fewer pictures are met more often. So
what differs between cells of one size is what there was to learn from, not how long; with as many rounds instead, data and compute
would grow together and no cell could tell them apart. The most pictures are as many as are drawn, or all there are.

Where a system starts from roots, each size has roots of its own size on all pictures, with the steps that the budget gives
them (study/pasts.py): pairs of pictures and texts are the data that are limited. What a detector saw, for systems that read it, is
data too: one detector for all.

Every cell is asked the same in the end: masked words of `val`, beside their own whole pictures, as if masked words had been the
only objective (`diptych evaluate objectives`, configured as the least set is). What a power law is fitted to is the loss of these
words, and the share that is guessed wrong (laws.py). A finished cell is kept as a few kilobytes in results/scale/, by a hash of all
that decides it, as in `diptych compare`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np

from diptych import __version__, checkpoint, find
from diptych.config import Recipe, UserError
from diptych.contracts import System
from diptych.plan import Price
from diptych.study import crew, laws
from diptych.study.kept import Results
from diptych.study.lanes import Call, Command, progress_line
from diptych.study.pasts import BUDGETS, PASTS, SCENES, Budget, Chain, Pasts, Stage, digest
from diptych.train.evaluate import Interval

Place = tuple[str, float, int]  # objectives, size, pictures
MEASURES = ("loss", "error")


@dataclass(frozen=True)
class Extent:
    """How far the levers reach, and how long everything takes."""

    budget: Budget  # steps of what comes before, and of every cell
    pictures: tuple[float, ...]  # shares of the most
    sizes: tuple[float, ...]  # times the preset's own
    asked: int | None = None  # samples of val; None: all


EXTENTS = {
    "quick": Extent(BUDGETS["quick"], (1 / 16, 1 / 4, 1), (1 / 4, 1 / 2, 1)),
    "small": Extent(replace(BUDGETS["small"], stretch=0.5), (1 / 64, 1 / 16, 1 / 4, 1), (1 / 4, 1 / 2, 1)),
}


# ------------------------------------------------------------------------------------------------------------ the levers

# objectives that are switched off by what they are drawn, or given, in the order in which they join
DECLARED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "uniter": {
        "itm": ("system.mix.itm=0",),
        "regions": ("system.mix.mrfr=0", "system.mix.mrc=0", "system.mix.mrc_kl=0"),
    },
    "vinvl": {"wrong tags": ("system.contrast3.tags=0",), "wrong captions": ("system.contrast3.captions=0",)},
}


def switches(system: str, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Objective -> the settings that switch it off. `itm` that cannot be absent is given nothing to tell apart."""
    if system in DECLARED:
        return dict(DECLARED[system])
    found = {}
    for name in _objectives(recipe):
        if NoneType in get_args(type(recipe.system).model_fields[name].annotation):
            found[name] = (f"system.{name}=null",)
        elif name == "itm":
            found[name] = ("system.itm.negatives=0",)
    return {name: off for name, off in found.items() if name != "mlm"}  # mlm is what all are asked


def ladder(system: str, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Sets of objectives, from masked words alone to all: name -> settings. Of many the first two rungs and the last."""
    off = switches(system, recipe)
    names, rungs = list(off), sorted({0, 1, len(off)})
    always = ["mlm", *(name for name in _objectives(recipe) if name not in (*off, "mlm") and system not in DECLARED)]
    return {
        " + ".join([*always, *names[:rung]]): tuple(word for name in names[rung:] for word in off[name])
        for rung in rungs
        if rung <= len(off)
    }


def _objectives(recipe: Recipe) -> list[str]:
    """The fields of a system's configuration that are objectives, and there."""
    values = {name: getattr(recipe.system, name) for name in type(recipe.system).model_fields}
    return [name for name, value in values.items() if type(value).__module__.startswith("diptych.objectives.")]


def size_settings(recipe: Recipe, factor: float) -> tuple[str, ...]:
    """Settings that make a system `factor` times as wide and deep, heads as wide as before where that divides.

    Depth changes with width, so that shapes stay alike and parameters grow with about the third power.
    """
    if factor == 1:
        return ()
    values = recipe.system.model_dump()
    changed: dict[str, Any] = {}

    def eights(number: float) -> int:
        return max(8, 8 * round(number * factor / 8))

    def walk(part: Mapping[str, Any], path: str) -> None:
        for name, value in part.items():
            key = f"{path}.{name}"
            if isinstance(value, Mapping):
                walk(value, key)
            elif value is None:
                continue
            elif name in ("width", "image_width", "embedding"):
                changed[key] = eights(value)
            elif name == "channels" and isinstance(value, tuple | list):
                changed[key] = [eights(number) for number in value]
            elif name == "layers":
                changed[key] = max(1, round(value * factor))
            elif name == "heads":
                most = max(1, round(value * factor))
                changed[key] = next(heads for heads in range(most, 0, -1) if eights(values["width"]) % heads == 0)

    walk(values, "system")
    return tuple(f"{key}={json.dumps(value).replace(' ', '')}" for key, value in changed.items())


# ------------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Cell:
    objectives: str
    size: float
    pictures: int
    key: str  # of all that decides it
    chain: Chain
    measuring: Command

    @property
    def place(self) -> Place:
        return self.objectives, self.size, self.pictures

    @property
    def pretraining(self) -> Stage:
        return self.chain.pretraining

    @property
    def name(self) -> str:
        return f"{self.objectives.replace(' ', '')}-x{self.size:g}-{self.pictures}"

    def __str__(self) -> str:
        return f"{self.objectives}, size {times(self.size)}, {self.pictures:,} pictures"


class Plan:
    """All cells, and the commands that they and their pasts are made by."""

    def __init__(self, spec: str, extent: Extent, out: Path):
        found = find.system(spec)
        self.system, self.preset, self.cls, self.out = found.name, found.preset, found.cls, out
        self.extent = replace(extent, budget=replace(extent.budget, preset=found.preset))
        self.sets = ladder(self.system, found.recipe)
        self._refuse()
        self.pasts = Pasts(self.extent.budget, out)
        self.chain = self.pasts.of(self.system)  # at the preset's own size
        self.steps = self.extent.budget.steps_of(self.system, found.recipe.train.steps)
        self.drawn = self.steps * found.recipe.train.batch_size
        longest = max(len(source.reader) for source in find.readers(SCENES, "train", self.cls.purpose))
        most = min(longest, self.drawn)  # of a smaller data set all, where the limit is beyond it
        self.pictures = sorted({max(1, round(share * most)) for share in self.extent.pictures})
        detector = self.chain.detector
        self.seen = self.pasts.store(detector, SCENES, "pretrain", ("val",)) if detector else None  # in the pictures asked about
        self.cells: dict[Place, Cell] = {}
        self.stages: dict[Path, Stage] = {}
        for size in self.extent.sizes:
            sized = self.pasts.fitted(lambda recipe, size=size: size_settings(recipe, size))
            for objectives, off in self.sets.items():
                for pictures in self.pictures:
                    chain = sized.of(self.system, replace(PASTS[self.system], pretraining=(*off, f"data.limit={pictures}")))
                    cell = self._cell(objectives, size, pictures, chain)
                    self.cells[cell.place] = cell
                    for stage in chain.stages:
                        self.stages.setdefault(stage.command.makes, stage)
        if self.seen:
            self.stages.setdefault(self.seen.command.makes, self.seen)
        self.web = crew.Web(stage.command for stage in self.stages.values())

    def _refuse(self) -> None:
        if self.cls.words is System.words:
            raise UserError(
                f"{self.system} guesses no words, and masked words are what cells of every size and objective are asked"
            )
        if len(self.sets) < 2:
            raise UserError(f"{self.system}: none of its objectives can be switched off, so there is no lever of objectives")

    def _cell(self, objectives: str, size: float, pictures: int, chain: Chain) -> Cell:
        run = chain.pretraining.command.makes.parent
        least = next(iter(self.sets.values()))
        words = ("evaluate", "objectives", "--from", str(run), "--split", "val")
        words += ("--regions", str(self.seen.command.makes.parent)) if self.seen else ()
        words += tuple(word for setting in (*least, f"data.limit={self.extent.asked or 'null'}") for word in ("--set", setting))
        items = run / "val.jsonl"
        measuring = Command(f"asking {self.system}", (*words, "--items", str(items)), items)
        asked = [self.pasts.sha256(data, "val", self.cls.purpose) for data in PASTS[self.system].data]
        return Cell(objectives, size, pictures, digest([run.name, self.pasts.key(words, None, asked)]), chain, measuring)

    def price(self, cell: Cell) -> Price:
        """A sample's cost: the same for any number of pictures."""
        recipe = cell.pretraining.recipe
        assert recipe is not None
        whole = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": None})})
        return self.pasts.price(self.system, whole, PASTS[self.system].data)


# ------------------------------------------------------------------------------------------------------------- the work


class Work:
    """What is still to be done; which cells are finished, kept, or lost."""

    def __init__(self, plan: Plan, results: Results):
        self.plan, self.results = plan, results
        self.records: dict[Place, dict[str, Any]] = {}
        self.lost: dict[Place, str] = {}
        self.failed: dict[Path, str] = {}
        self.clock = crew.Clock(plan.out)
        for place, cell in plan.cells.items():
            if record := results.get(plan.system, plan.preset, cell.name, cell.key):
                self.records[place] = record
        self.kept = len(self.records)
        self.settle()

    def open(self) -> Iterator[Cell]:
        yield from (cell for place, cell in self.plan.cells.items() if place not in self.records and place not in self.lost)

    def ready(self) -> list[Command]:
        return self.plan.web.startable(self._commands(self.open()), self.failed)

    def ended(self, command: Command, complaint: str, seconds: float) -> None:
        if complaint or not command.makes.exists():
            self.failed[command.makes] = complaint or f"{command.makes} was not made"
        else:
            self.clock.add(command, seconds)
        self.settle()

    def settle(self) -> None:
        for cell in list(self.open()):
            broken = next((step for step in self.plan.web.line(cell.measuring) if step.makes in self.failed), None)
            if broken is not None:
                self.lost[cell.place] = f"{broken.about}: {self.failed[broken.makes]}"
            elif cell.measuring.makes.exists():
                self.records[cell.place] = self.record(cell)
                self.results.put(self.plan.system, self.plan.preset, cell.name, cell.key, self.records[cell.place])
                shutil.rmtree(cell.pretraining.command.makes.parent / "checkpoints", ignore_errors=True)

    def record(self, cell: Cell) -> dict[str, Any]:
        """What is kept of a finished cell: of every batch the words' loss, how many were right, and how many there were."""
        command, price = cell.pretraining.command, self.plan.price(cell)
        result = json.loads(command.makes.read_text(encoding="utf-8"))
        batches = [json.loads(line)["sums"] for line in cell.measuring.makes.read_text(encoding="utf-8").splitlines()]
        return {
            **{name: result[name] for name in ("system", "preset", "config_sha256", "version", "seconds")},
            "objectives": cell.objectives,
            "size": cell.size,
            "pictures": cell.pictures,
            "steps": command.steps,
            "drawn": self.plan.drawn,
            "parameters": price.parameters,
            "flops": price.flops * self.plan.drawn,
            "batches": [[round(batch["loss/mlm"][0], 4), batch["mlm/accuracy"][0], batch["mlm/accuracy"][1]] for batch in batches],
            "commands": [str(step) for step in self.plan.web.line(cell.measuring)],
        }

    def standing(self, at_work: Sequence[crew.AtWork]) -> str:
        left = [command for command in self._commands(self.open()) if not command.makes.exists()]
        seconds = self.clock.left(self._commands(self.plan.cells.values()), left, len(at_work))
        return crew.told(len(self.records), len(self.plan.cells), len(self.lost), seconds, at_work)

    def _commands(self, cells: Any) -> list[Command]:
        return list({step.makes: step for cell in cells for step in self.plan.web.line(cell.measuring)}.values())


# ----------------------------------------------------------------------------------------------------------- the numbers


def table(plan: Plan, work: Work) -> dict[str, Any]:
    """Cells, laws and what objectives are worth, as plain values."""
    places = [place for place in plan.cells if place in work.records]
    records = {place: work.records[place] for place in places}
    values = _values([records[place]["batches"] for place in places]) if places else {}
    columns = {place: n for n, place in enumerate(places)}
    cells = [_told(records[place], {name: values[name][:, columns[place]] for name in MEASURES}, plan) for place in places]
    fitted, worth = [], []
    least = next(iter(plan.sets))
    for objectives in plan.sets:
        own = [place for place in places if place[0] == objectives]
        for of in MEASURES:
            if law := _law(values[of][:, [columns[place] for place in own]], [records[place] for place in own]) if own else None:
                fitted.append({"objectives": objectives, "of": of, **law})
            pairs = [(place, (least, *place[1:])) for place in own if (least, *place[1:]) in columns]
            if objectives != least and pairs:
                ours, theirs = ([columns[pair[side]] for pair in pairs] for side in (0, 1))
                worth.append(
                    {"objectives": objectives, "over": least, "of": of, "cells": len(pairs)}
                    | {"change_percent": _rounded(laws.ratio(values[of][:, ours], values[of][:, theirs]))}
                )
    return {
        "system": plan.system,
        "preset": plan.preset,
        "budget": plan.extent.budget.name,
        "objectives": {name: list(off) for name, off in plan.sets.items()},
        "sizes": list(plan.extent.sizes),
        "pictures": plan.pictures,
        "steps": plan.steps,
        "drawn": plan.drawn,
        "cells": cells,
        "laws": fitted,
        "worth": worth,
        "failed": [{"cell": str(plan.cells[place]), "why": why} for place, why in work.lost.items()],
        "version": __version__,
    }


def _values(batches: Sequence[Sequence[Sequence[float]]]) -> dict[str, laws.Array]:
    """[1 + replicates, cells] of both measures. That all were asked the same words shows in their counts."""
    loss, right, count = (np.array([[batch[n] for batch in cell] for cell in batches]) for n in range(3))
    assert (count == count[0]).all(), "cells were asked other words"
    return {
        "loss": laws.means(list(zip(loss, count, strict=True))),
        "error": laws.means(list(zip(count - right, count, strict=True))),
    }


def _told(record: Mapping[str, Any], values: Mapping[str, laws.Array], plan: Plan) -> dict[str, Any]:
    kept = ("objectives", "size", "pictures", "parameters", "flops", "steps", "drawn", "seconds", "version")
    measured = {name: _rounded(laws.interval(value)) for name, value in values.items()}
    cell = plan.cells[record["objectives"], record["size"], record["pictures"]]
    return {name: record[name] for name in kept} | measured | {"words": int(sum(b[2] for b in record["batches"])), "key": cell.key}


def _law(value_RC: laws.Array, records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Over pictures and parameters; and over pictures and FLOPs, which grow with the size alone."""
    of = {name: np.array([float(record[name]) for record in records]) for name in ("pictures", "parameters", "flops")}
    found = {name: laws.fit(value_RC, np.stack([of["pictures"], of[name]], 1)) for name in ("parameters", "flops")}
    by_size, by_flops = found["parameters"], found["flops"]
    if by_size is None or by_flops is None:
        return None
    return {
        "scale": by_size.scale,
        "pictures": _rounded(by_size.exponents[0]),
        "parameters": _rounded(by_size.exponents[1]),
        "flops": _rounded(by_flops.exponents[1]),
        "spread_percent": round(100 * by_size.spread, 2),
        "degrees": by_size.degrees,
    }


def _rounded(interval: Interval) -> dict[str, Any]:
    return {"value": round(interval.value, 5), "ci95": [round(interval.low, 5), round(interval.high, 5)]}


def times(size: float) -> str:
    """0.25 -> "1/4"."""
    return str(Fraction(size).limit_denominator(64))


def csv_of(table: Mapping[str, Any]) -> str:
    """A line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = ["objectives", "size", "pictures", "parameters", "flops", "steps", "drawn", "seconds"]
    writer.writerow([*plain, *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))])
    for cell in table["cells"]:
        measured = [number for name in MEASURES for number in (cell[name]["value"], *cell[name]["ci95"])]
        writer.writerow([*(cell[name] for name in plain), *measured])
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------------- the verb


@dataclass(frozen=True)
class Options:
    extent: Extent
    jobs: int = 1
    resume: Literal["auto", "never"] = "auto"
    results: Path = Path("results/scale")


def scale(spec: str, options: Options, out: Path, call: Call) -> dict[str, Any]:
    """Carry out the study; write OUT/scale.json, scale.csv and report.html; the numbers."""
    from diptych.study import scale_report

    crew.claim(out, options.resume)
    tell = progress_line()
    tell("planning")
    planned = Plan(spec, options.extent, out)
    work = Work(planned, Results(options.results))
    crew.carry_out(work, options.jobs, out / "log", call, tell)
    found = table(planned, work)
    checkpoint.write_json(out / "scale.json", found)
    checkpoint.write_file(out / "scale.csv", csv_of(found).encode())
    checkpoint.write_file(out / "report.html", scale_report.page_of(planned, work, found).encode())
    return found
