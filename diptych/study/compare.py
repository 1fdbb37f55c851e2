"""`diptych compare`: the bake-off. Systems x tasks x what came before x seeds, at one budget, on the embedded data.

    scratch      random numbers ------------------------------------> fine-tuning
    root_only    image root, or the detector's features ------------> fine-tuning     the fair rival: has eyes, has never read
    pretrained   the same root ---------------> pre-training -------> fine-tuning
    without_...  the last, fine-tuned and asked without picture or text: what the data give away (the tasks' key `withhold`)
    root_only_equal_compute   the rival, fine-tuned until it has cost as many FLOPs as `pretrained`; for few systems and tasks

A cell is one system on one task with one past and one seed. Its fine-tuning is tried at the budget's learning rates, relative to
the system's own; `val` chooses, with the first seed, for all; the cell is scored on every test split. All arms of a system have the
same samples, steps and grid. What leads to a system stands in pasts.py, what remains of a finished cell in kept.py; numbers are
put together in compare_table.py and told in compare_report.py.

The unit of work is a system: its past first, beside it the cells that need none, then the others. A crew (crew.py) takes whatever
can be started. Interrupted, the same command goes on: with the runs in OUT, and without computing cells whose results are kept.
For UNITER and VinVL a detector's features are where everything begins, so `scratch` and `root_only` are one cell there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, get_args

from diptych import __version__, checkpoint, config, find
from diptych.config import UserError, nearest
from diptych.contracts import System, Trainable
from diptych.study import crew
from diptych.study.kept import Results, shown
from diptych.study.lanes import Call, Command, progress_line
from diptych.study.pasts import BUDGETS, PASTS, Budget, Chain, Pasts, Stage

ARMS = ("pretrained", "root_only", "scratch")  # in the order of work: what others wait for comes first
Place = tuple[str, str, str, int]  # system, task, arm, seed
WATCHED = {"retrieval": 60}  # samples of `val` asked on the way; elsewhere 200. Ranking compares every picture with every text
LONG = "root_only_equal_compute"
LONG_SYSTEMS, LONG_TASKS = ("vilt", "soho", "uniter"), ("vqa", "retrieval")  # patches, cells, regions; where none are named
SPLITS = ("test", "test-style", "test-composition", "test-object", "test-concept")  # a task is asked on those that its data has


@dataclass(frozen=True)
class Field:
    """A task as the embedded data have it."""

    task: str
    data: str  # as for --data
    splits: tuple[str, ...]  # of SPLITS; the first decides
    withheld: tuple[str, ...]  # what its controls can do without


@dataclass(frozen=True)
class Cell:
    system: str
    task: str
    arm: str
    seed: int
    key: str  # of what decides it
    tunings: Mapping[float, Command]  # by learning rate
    splits: tuple[str, ...]
    asked: int | None  # questions of each split
    data: str
    detector: Stage | None = None  # whose share counts where the cost of a question is measured

    @property
    def place(self) -> Place:
        return self.system, self.task, self.arm, self.seed

    @property
    def name(self) -> str:
        return f"{self.arm}-s{self.seed}"

    def __str__(self) -> str:
        return f"{self.system}, {self.task}, {self.arm.replace('_', ' ')}, seed {self.seed}"

    def judged(self, rate: float) -> dict[str, Command]:
        """By split: scoring what was fine-tuned at a rate."""
        run, limit = self.tunings[rate].makes.parent, self.asked or "null"
        commands = {}
        for split in self.splits:
            items = run / f"{split}.jsonl"
            words = ("evaluate", self.task, "--from", str(run), "--data", self.data, "--split", split)
            words += ("--set", f"data.limit={limit}", "--items", str(items))
            commands[split] = Command(f"scoring {self.system} on {self.task}", words, items)
        return commands

    def items(self, command: Command) -> list[dict[str, Any]]:
        """Every question's score, of one of the commands of `judged`."""
        return [json.loads(line) for line in command.makes.read_text(encoding="utf-8").splitlines()]


def _suited(task: str, system: str, start: str) -> tuple[str, ...]:
    """Settings of a system on a task.

    What has filled in words answers by a word, which few labels do for. A gallery has one text of each picture, for five are five
    times as many pairs, and say little more. MURAL that was not pre-trained does without pairs of texts, which no task has.
    """
    if task == "vqa":
        fills_in = find.system_class(system).words is not System.words
        return ("task.head=cloze",) if fills_in else ()
    if task == "retrieval":
        return ("task.texts=1", *(("system.t2t=null",) if system == "mural" and start != "pretrained" else ()))
    return ()


def _samples(drawn: int, task: str, system: str) -> int:
    """Of `drawn` those for a system on a task: where fusion ranks a text among 16, one is 16 pairs, and an eighth must do."""
    has_towers = find.system_class(system).towers is not System.towers
    return drawn // 8 if task == "retrieval" and not has_towers else drawn


def field_of(task: str) -> Field | None:
    """Where the embedded data have a task; None if nowhere, or if it cannot be learnt (a cell is a fine-tuning)."""
    cls = find.task_class(task)
    if cls.forward is Trainable.forward:
        return None
    withhold = cls.Config.model_fields.get("withhold")
    withheld = tuple(choice for choice in get_args(withhold.annotation) if choice != "none") if withhold else ()
    for embedded in ("scenes", "names"):  # the sets of `detection` have boxes, but nobody asks about them
        data, splits = "", []
        for split in ("train", "val", *SPLITS):
            try:
                data = data or find.readers([embedded], split, cls.purpose, 1)[0].name
                find.readers([data], split, cls.purpose, 1)
                splits.append(split)
            except UserError:
                if split in ("train", "val"):
                    break
        if splits[:2] == ["train", "val"] and len(splits) > 2:
            return Field(task, data, tuple(splits[2:]), withheld)
    return None


class Commands:
    """Cells, and the commands that they and what comes before them are made by; each study's own class fills it in."""

    def __init__(self, budget: Budget, seeds: int, out: Path):
        self.budget, self.seeds, self.out = budget, seeds, out
        self.pasts = Pasts(budget, out)
        self.stages: dict[Path, Stage] = {}  # by what they make
        self.cells: dict[Place, Cell] = {}
        self._runs: dict[str, Path] = {}  # by the key of the first cell that has them

    def add(self, stages: Iterable[Stage | None], cells: Iterable[Cell] = ()) -> None:
        for stage in stages:
            if stage:
                self.stages.setdefault(stage.command.makes, stage)
        self.cells |= {cell.place: cell for cell in cells}

    def store(self, detector: Stage, field: Field) -> Stage:
        """What it sees in the pictures that a task asks about."""
        limits = (self.budget.labels, self.budget.asked_of(field.task))
        limit = None if None in limits else max(limit for limit in limits if limit)
        purpose, splits = find.task_class(field.task).purpose, ("train", "val", *field.splits)
        return self.pasts.store(detector, (field.data,), purpose, splits, field.task, limit)

    def tuned(
        self,
        chain: Chain,
        field: Field,
        arm: str,
        seed: int,
        *,
        start: str = "pretrained",
        withheld: str = "",
        labels: int | None = None,
        more: Sequence[str] = (),
        is_long: bool = False,
    ) -> Cell:
        """A cell, fine-tuned at the budget's rates from one of ARMS: where a chain ends, where its root does, from nothing.

        `more`: settings of the fine-tuning. `is_long`: until it has cost what the whole chain and its fine-tuning do.
        """
        budget, system, task, is_born = self.budget, chain.system, field.task, start == "pretrained"
        store = self.store(chain.detector, field) if chain.detector and find.system_class(system).reads_regions else None
        self.add([store])
        before = chain.pretraining.recipe if is_born else _unborn(chain)
        assert before is not None
        recipe = find.finetuning(task, system, before.model_copy(update={"task": None}))
        drawn = _samples(budget.controls if withheld else budget.drawn, task, system)
        steps = max(1, round(drawn / recipe.train.batch_size))
        if is_long:
            steps += self._steps_before(chain, field, recipe)
        asked = budget.asked_of(task)
        settings = [
            *chain.past.settings,
            *([f"task.withhold={withheld}"] if withheld else []),
            *_suited(task, system, start),
            *more,
            f"data.limit={labels or 'null'}",
            f"train.steps={steps}",
            f"train.seed={seed}",
            f"train.log_every={max(steps // 30, 1)}",
            f"train.validate_every={max(steps // 6, 1)}",
            f"train.validate_on={min(asked or 500, WATCHED.get(task, 200))}",
            f"train.score_on={asked or 'null'}",
        ]
        words = ["finetune", task, "--from", str(chain.pretraining.command.run) if is_born else chain.spec, "--data", field.data]
        words += chain.start if start == "root_only" else ()
        words += ("--regions", str(store.command.makes.parent)) if store else ()
        words += [word for setting in settings for word in ("--set", setting)]
        resolved = config.resolve(recipe, *map(config.from_setting, settings))
        purpose = find.task_class(task).purpose
        shas = [self.pasts.sha256(field.data, split, purpose) for split in ("train", "val", *field.splits)]
        key = self.pasts.key(words, resolved, budget.rates, shas, asked)
        splits = field.splits[:1] if withheld else field.splits
        # a key is of all that decides: where two arms have the same, they have the same runs
        name = f"{f'without_{withheld}' if withheld else start}-s{seed}-{key}"
        folder = self._runs.setdefault(key, self.out / "cells" / system / task / name)
        tunings = {}
        for factor in budget.rates:
            rate = float(f"{recipe.train.lr * factor:.4g}")
            run = folder / f"{rate:g}"
            command = (*words, "--set", f"train.lr={rate:g}", "--out", str(run))
            tunings[rate] = Command(f"fine-tuning {system} on {task}", command, run / "result.json", steps)
        return Cell(system, task, arm, seed, key, tunings, splits, asked, field.data, chain.detector)

    @cached_property
    def web(self) -> crew.Web:
        """Asked for when the plan is whole."""
        tunings = (run for cell in self.cells.values() for run in cell.tunings.values())
        return crew.Web([*(stage.command for stage in self.stages.values()), *tunings])

    def _steps_before(self, chain: Chain, field: Field, recipe: config.Recipe) -> int:
        """Steps of fine-tuning by `recipe` that cost what the pre-trained arm learnt from and its rival did not.

        FLOPs of training, forward and backward; a detector's look at the pictures is not among them.
        """
        is_shared = find.system_class(chain.system).reads_regions
        own = [stage for stage in chain.stages if stage is not chain.root and not (is_shared and stage is chain.detector)]
        flops = 0.0
        for stage in own:
            if stage.recipe:
                data = [word for option, word in pairwise(stage.command.words) if option == "--data"]
                a_sample = self.pasts.price(stage.system, stage.recipe, data).flops
                flops += a_sample * stage.recipe.train.steps * stage.recipe.train.batch_size
        settings = (*chain.past.settings, *_suited(field.task, chain.system, "root_only"))
        tuned = config.resolve(recipe, *map(config.from_setting, settings))
        return round(flops / (self.pasts.price(chain.system, tuned, (field.data,), field.task).flops * recipe.train.batch_size))

    def before(self, cell: Cell) -> list[Stage]:
        """What a cell's weights were trained on before, in order."""
        return [self.stages[step.makes] for step in self.web.line(next(iter(cell.tunings.values()))) if step.makes in self.stages]


class Plan(Commands):
    """The bake-off's."""

    def __init__(
        self,
        systems: Sequence[str],
        tasks: Sequence[str],
        budget: Budget,
        seeds: int,
        out: Path,
        equal_compute: Collection[tuple[str, str]] = (),
    ):
        super().__init__(budget, seeds, out)
        self.systems, self.tasks = systems, tasks
        self.equal_compute = equal_compute  # systems and tasks whose rival is also tuned for as long as everything took
        self.chains = {system: self.pasts.of(system) for system in systems}
        found = {task: field_of(task) for task in tasks}
        self.fields = {task: field for task, field in found.items() if field}
        self.unfit: dict[tuple[str, str], str] = {}  # which tasks a system cannot do, and why
        for system in systems:
            self.add(self.chains[system].stages)
            for task in self.fields:
                try:
                    find.suits(task, system)
                except UserError as error:
                    self.unfit[system, task] = str(error)
                    continue
                self._add(system, self.fields[task])

    def keep_to(self, results: Results) -> None:
        """Leave out what is not computed yet: a system's whole task, where one of its cells is not kept."""
        for system, task in dict.fromkeys(place[:2] for place in self.cells):
            own = [cell for place, cell in self.cells.items() if place[:2] == (system, task)]
            if not all(results.get(system, task, cell.name, cell.key) for cell in own):
                self.unfit[system, task] = "not computed yet"
                self.cells = {place: cell for place, cell in self.cells.items() if cell not in own}
        self.systems = [system for system in self.systems if any(place[0] == system for place in self.cells)]
        self.fields = {task: field for task, field in self.fields.items() if any(place[1] == task for place in self.cells)}

    def _add(self, system: str, field: Field) -> None:
        chain, labels = self.chains[system], self.budget.labels
        self.add((), [self.tuned(chain, field, arm, n, start=arm, labels=labels) for n in range(self.seeds) for arm in ARMS])
        self.add((), [self.tuned(chain, field, f"without_{w}", 0, withheld=w, labels=labels) for w in field.withheld])
        if (system, field.task) in self.equal_compute:
            self.add((), [self.tuned(chain, field, LONG, 0, start="root_only", labels=labels, is_long=True)])


def _unborn(chain: Chain) -> config.Recipe:
    return config.resolve(find.system(chain.spec).recipe, *map(config.from_setting, chain.past.settings))


# ------------------------------------------------------------------------------------------------------------- the work


class Work:
    """What is still to be done; which cells are finished, kept, or lost."""

    def __init__(self, plan: Commands, results: Results):
        self.plan, self.results = plan, results
        self.records: dict[Place, dict[str, Any]] = {}
        self.lost: dict[Place, str] = {}  # cell -> what was said
        self.failed: dict[Path, str] = {}
        self.clock = crew.Clock(plan.out)
        for place, cell in plan.cells.items():
            if record := results.get(cell.system, cell.task, cell.name, cell.key):
                self.records[place] = record
        self.kept = len(self.records)
        self.settle()

    def open(self) -> Iterator[Cell]:
        yield from (cell for place, cell in self.plan.cells.items() if place not in self.records and place not in self.lost)

    def first(self, cell: Cell) -> Place:
        """The cell that searches for its learning rate. Controls, long arms and further seeds take another's."""
        arm = "pretrained" if cell.arm.startswith("without_") else "root_only" if cell.arm == LONG else cell.arm
        return cell.system, cell.task, arm, 0

    def rate(self, cell: Cell) -> float | None:
        """The learning rate that was best on `val`, once it is known."""
        first = self.first(cell)
        if first in self.records:
            return self.records[first]["rate"]
        tunings = self.plan.cells[first].tunings
        if not all(command.makes.exists() for command in tunings.values()):
            return None
        if len(tunings) == 1:
            return next(iter(tunings))
        on_val = {rate: value_on_val(command) for rate, command in tunings.items()}
        return max(on_val, key=lambda rate: on_val[rate])  # of equals the smallest

    def due(self, cell: Cell) -> list[Command]:
        """The commands of a cell, as far as they are known."""
        rate, searches = self.rate(cell), cell.place == self.first(cell)
        tunings = list(cell.tunings.values()) if searches else [cell.tunings[rate]] if rate is not None else []
        return [*tunings, *(cell.judged(rate).values() if rate is not None else ())]

    def ready(self) -> list[Command]:
        steps = {step.makes: step for cell in self.open() for command in self.due(cell) for step in self.plan.web.line(command)}
        return self.plan.web.startable(steps.values(), self.failed)

    def ended(self, command: Command, complaint: str, seconds: float) -> None:
        if complaint or not command.makes.exists():
            self.failed[command.makes] = complaint or f"{command.makes} was not made"
        else:
            self.clock.add(command, seconds)
        self.settle()

    def settle(self) -> None:
        """Keep what is finished, and give up what cannot be."""
        for cell in list(self.open()):
            due, rate = self.due(cell), self.rate(cell)
            steps = [step for command in due for step in self.plan.web.line(command)]
            broken = next((step for step in steps if step.makes in self.failed), None)
            if broken is not None:
                self.lost[cell.place] = f"{broken.about}: {self.failed[broken.makes]}"
            elif rate is not None and all(command.makes.exists() for command in due):
                record = self.record(cell, rate)
                self.results.put(cell.system, cell.task, cell.name, cell.key, record)
                self.records[cell.place] = record
                _lighten(cell, rate)
        for cell in list(self.open()):
            first = self.first(cell)
            if first in self.lost and not self.due(cell):
                self.lost[cell.place] = self.lost[first]

    def record(self, cell: Cell, rate: float) -> dict[str, Any]:
        """What is kept of a finished cell."""
        command, judged = cell.tunings[rate], cell.judged(rate)
        tuning, items = result_of(command), {split: cell.items(other) for split, other in judged.items()}
        tunings = cell.tunings if len(cell.tunings) > 1 else {}  # where nothing is searched nothing was chosen
        tried = {f"{r:g}": value_on_val(other) for r, other in tunings.items() if other.makes.exists()}
        about = {name: tuning[name] for name in ("task", "system", "preset", "seed", "config_sha256", "version")}
        return {
            **about,
            "arm": cell.arm,
            "budget": self.plan.budget.name,
            "key": cell.key,
            "rate": rate,
            "on_val": tried,
            "seconds": tuning["seconds"],
            "steps": command.steps,
            "labels": _seen(command),
            "past": [self._told(stage) for stage in self.plan.before(cell)],
            "curve": _curve(command),
            "splits": {split: self.results.pack(part) for split, part in items.items()},
            "shown": shown(items[cell.splits[0]]),
            "commands": [str(step) for step in (*self.plan.web.line(command), *judged.values())],
        }

    def _told(self, stage: Stage) -> dict[str, Any]:
        """A stage of a past: what it saw of how many samples, and how long it took."""
        command, told = stage.command, {"about": stage.command.about, "sees": stage.sees}
        if not command.run:
            return told | {"seconds": self.clock.of(command)}
        return told | {"steps": command.steps, "samples": _seen(command), "seconds": result_of(command)["seconds"]}

    # ------------------------------------------------------------------------------------------------- how far it is

    def standing(self, at_work: Sequence[crew.AtWork]) -> str:
        left = [command for command in self._commands(only_open=True) if not command.makes.exists()]
        seconds = self.clock.left(self._commands(), left, len(at_work))
        return crew.told(len(self.records), len(self.plan.cells), len(self.lost), seconds, at_work)

    def _commands(self, only_open: bool = False) -> list[Command]:
        """Each once; of cells whose rate is not known yet, the scoring of one."""
        found: dict[Path, Command] = {}
        for cell in self.open() if only_open else self.plan.cells.values():
            rate = self.rate(cell) or next(iter(cell.tunings))
            searches = cell.place == self.first(cell)
            for command in (*(cell.tunings.values() if searches else [cell.tunings[rate]]), *cell.judged(rate).values()):
                found |= {step.makes: step for step in self.plan.web.line(command)}
        return list(found.values())


def result_of(command: Command) -> dict[str, Any]:
    return json.loads(command.makes.read_text(encoding="utf-8"))


def value_on_val(command: Command) -> float:
    return result_of(command)["splits"]["val"]["score"]["value"]


def _seen(command: Command) -> int:
    """How many different samples a run has met at most."""
    asked = json.loads((command.makes.parent / "config.json").read_text(encoding="utf-8"))
    return min(command.steps * asked["recipe"]["train"]["batch_size"], sum(source["samples"] for source in asked["sources"]))


def _curve(command: Command) -> dict[str, list[float]]:
    """The score on `val` while it was fine-tuned."""
    lines = (command.makes.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points = [record for record in map(json.loads, lines) if "val/score" in record]
    return {name: [round(point[key], 2) for point in points] for name, key in _CURVE.items()}


_CURVE = {"samples": "samples", "seconds": "seconds", "score": "val/score"}


def _lighten(cell: Cell, rate: float) -> None:
    """Checkpoints served to go on, and what lost on `val` is not asked again: without them a table takes a tenth of the room."""
    for tried, command in cell.tunings.items():
        shutil.rmtree(command.makes.parent / "checkpoints", ignore_errors=True)
        if tried != rate:
            (command.makes.parent / "model.safetensors").unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- the verb


@dataclass(frozen=True)
class Options:
    systems: Sequence[str] = ()  # none: all whose past is known
    tasks: Sequence[str] = ()  # none: all that the embedded data have
    budget: Budget = field(default_factory=lambda: BUDGETS["quick"])
    seeds: int = 1
    jobs: int = 1
    resume: Literal["auto", "never"] = "auto"
    results: Path = Path("results")
    equal_compute: bool = False  # of the systems and tasks that are named, or of LONG_SYSTEMS on LONG_TASKS
    kept: bool = False  # a table of what is kept, without computing what is not


def compare(options: Options, out: Path, call: Call) -> dict[str, Any]:
    """Fill the table; write OUT/table.json, table.csv and report.html; the table."""
    from diptych.study import compare_report, compare_table

    systems = _known("--systems", options.systems, PASTS) or list(PASTS)
    tasks = _known("--tasks", options.tasks, find.catalogue("tasks")) or list(find.catalogue("tasks"))
    crew.claim(out, options.resume)
    tell = progress_line()
    tell("planning")
    equal = list(product(options.systems or LONG_SYSTEMS, options.tasks or LONG_TASKS)) if options.equal_compute else []
    plan = Plan(systems, tasks, options.budget, options.seeds, out, equal)
    if missing := [task for task in options.tasks if task not in plan.fields]:
        raise UserError(f"--tasks {','.join(missing)}: not to be fine-tuned, or no train, val and test of it in the embedded data")
    results = Results(options.results)
    if options.kept:
        plan.keep_to(results)
    if not plan.cells:
        raise UserError(
            f"--kept: {options.results} holds nothing of that"
            if options.kept
            else next(iter(plan.unfit.values()), "nothing to compare")
        )
    work = Work(plan, results)
    crew.carry_out(work, options.jobs, out / "log", call, tell)
    tell("measuring costs")
    costs = compare_table.costs(plan, work)
    table = compare_table.table(plan, work, costs) | {"version": __version__}
    checkpoint.write_json(out / "table.json", table)
    checkpoint.write_file(out / "table.csv", compare_table.csv_of(table).encode())
    tell("writing the report")
    checkpoint.write_file(out / "report.html", compare_report.page_of(plan, work, table).encode())
    return table


def _known(option: str, names: Sequence[str], valid: Mapping[str, Any]) -> list[str]:
    for name in names:
        if name not in valid:
            raise UserError(f"{option} {name}: unknown{nearest(name, valid)}")
    return list(dict.fromkeys(names))
