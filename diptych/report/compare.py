"""The report of `diptych compare`: who answers what, from which start, at what price, and what was said.

`BakeOff` is everything the page can tell; a section without anything to show is left out. Scores are percent. A system's place in
`systems` is its colour in every table and chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from diptych.report.charts import Line, Point, Score, curves, dots, key, scatter
from diptych.report.page import Section, duration, macro, page
from diptych.report.picture import address

ARM_NAMES = {"scratch": "from scratch", "root_only": "root only", "pretrained": "pre-trained"}


@dataclass(frozen=True)
class Arm:
    """One start of one system on one task."""

    score: Score | None  # None: it failed
    failed: str = ""  # what was said
    is_root: bool = False  # from scratch and with the root alone are one thing


@dataclass(frozen=True)
class Row:
    """A system on a task."""

    system: str
    arms: Mapping[str, Arm]  # "scratch", "root_only", "pretrained"
    gains: Mapping[str, Score]  # of the pre-trained arm, over each rival
    rate: str = ""


@dataclass(frozen=True)
class Control:
    system: str
    withheld: str  # "picture"
    arm: Arm


@dataclass(frozen=True)
class Said:
    """What one system said to a question, with its words pre-trained and not."""

    system: str
    text: str
    is_right: bool
    rival: str = ""
    rival_is_right: bool | None = None
    box: Sequence[float] | None = None  # xyxy in pixels, where that is the answer


@dataclass(frozen=True)
class Card:
    pictures: Sequence[NDArray[np.uint8]]
    question: str
    truth: str
    said: Sequence[Said]
    type: str = ""
    true_box: Sequence[float] | None = None


@dataclass(frozen=True)
class Price:
    """A system on a task: what it took and takes."""

    system: str
    minutes: Mapping[str, float]  # by arm, everything before and fine-tuning, without the search
    parameters: int = 0
    detector_parameters: int = 0
    gigaflops: float | None = None  # of one question
    milliseconds: float | None = None


@dataclass(frozen=True)
class Table:
    """A task."""

    task: str
    about: str
    n: int
    rows: Sequence[Row]
    controls: Sequence[Control] = ()
    unfit: Mapping[str, str] = field(default_factory=dict)  # systems that stand not in it, and why
    curves: Sequence[Line] = ()  # over samples
    clocks: Sequence[Line] = ()  # the same over minutes, everything before counted
    splits: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)  # split -> system -> score, pre-trained
    prices: Sequence[Price] = ()
    cards: Sequence[Card] = ()


@dataclass(frozen=True)
class Equal:
    """A system on a task, beside its root alone at equal total compute."""

    system: str
    task: str
    rival: Arm
    pretrained: Arm | None = None
    gain: Score | None = None
    rival_steps: int = 0
    steps: int = 0  # of fine-tuning, pre-trained


@dataclass(frozen=True)
class Seen:
    """What the arms of a system were given before the task's own labels."""

    system: str
    root: Sequence[str]
    pretraining: Sequence[str]
    is_root: bool = False  # from scratch and with the root alone are one thing


@dataclass(frozen=True)
class BakeOff:
    title: str
    summary: str
    systems: Sequence[str]
    tables: Sequence[Table]
    kicker: str = ""
    equal: Sequence[Equal] = ()
    seen: Sequence[Seen] = ()
    labels: Mapping[str, Sequence[int]] = field(default_factory=dict)  # task -> labelled samples; of systems, where these differ
    split_notes: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)  # cell -> what was said
    remarks: Sequence[str] = ()
    commands: Mapping[str, str] = field(default_factory=dict)  # cell -> the commands that lead to it
    facts: Mapping[str, str] = field(default_factory=dict)


def compare_page(result: BakeOff) -> str:
    """The whole report as one HTML text."""
    return page(result.title, result.kicker, _hero(result), _sections(result))


def _sections(result: BakeOff) -> list[Section]:
    return [
        Section(
            "scores",
            "Scores",
            "Scores, by task and start",
            "Percent, with 95 % intervals: questions are drawn anew in groups that share a scene, then seeds. A gain is the "
            "pre-trained start minus a rival on the same questions. At the bottom of each table the controls: pre-trained, and "
            "fine-tuned and asked without the picture or the text.",
            _scores(result),
        ),
        Section(
            "equal",
            "Equal compute",
            "At equal total compute",
            "The root alone, fine-tuned until it has cost as many FLOPs of training as pre-training and fine-tuning together, at "
            "the learning rate that was best for it before. One seed.",
            macro("compare.html", "equal", result.equal, _tones(result)) if result.equal else Markup(""),
        ),
        Section(
            "curves",
            "Learning curves",
            "Learning curves",
            "The score on val while fine-tuning. Full lines are pre-trained, broken ones start from the root alone. A dotted "
            "lead is time spent before the first labelled sample.",
            _curves(result),
        ),
        Section(
            "cost",
            "Cost",
            "Cost against quality",
            "Left: minutes of training, everything before included, from scratch to pre-trained. Right: one question on one core, "
            "from the picture's file to the answer; a detector's share is counted.",
            _cost(result),
        ),
        Section(
            "splits",
            "Splits",
            "By split",
            "Pre-trained, where artists, combinations or objects are new.",
            _splits(result),
        ),
        Section(
            "seen",
            "Labels seen",
            "Which labels each start has seen",
            "Pre-training is only a gain if its labels are counted too. On the task itself all starts have the same samples.",
            macro("compare.html", "seen", result.seen, result.labels, _tones(result)) if result.seen else Markup(""),
        ),
        Section(
            "answers",
            "Answers",
            "Right and wrong",
            "What each system said, pre-trained; small beside it, what it said with the root alone. The questions were drawn "
            "before anything was known; of these, first those on which systems differ.",
            _answers(result),
        ),
        Section(
            "failed",
            "Failed",
            "Cells that failed",
            "Each with what was said. The same command tries them again.",
            macro("demo.html", "facts", result.failed.items()) if result.failed else Markup(""),
        ),
        Section(
            "remarks",
            "Remarks",
            "What to keep in mind",
            "",
            macro("demo.html", "remarks", result.remarks) if result.remarks else Markup(""),
        ),
        Section(
            "again",
            "Do it again",
            "Do it again",
            "The commands that lead to each cell, as they were carried out.",
            _again(result),
        ),
    ]


def _tones(result: BakeOff) -> dict[str, int]:
    return {system: tone for tone, system in enumerate(result.systems)}


@dataclass(frozen=True)
class _Claim:
    """The number that is read from across the room: the largest gain over the fair rival."""

    points: Score
    system: str
    task: str


def _hero(result: BakeOff) -> Markup:
    """All systems and tasks at a glance; of each task the best is marked."""
    scores = {
        table.task: {row.system: score for row in table.rows if (score := row.arms["pretrained"].score)} for table in result.tables
    }
    best = {task: max(of_task, key=lambda system: of_task[system].value) for task, of_task in scores.items() if of_task}
    rows = {table.task: {row.system: row for row in table.rows} for table in result.tables}
    gains = [
        _Claim(row.gains["root_only"], row.system, table.task)
        for table in result.tables
        for row in table.rows
        if "root_only" in row.gains
    ]
    claim = max(gains, key=lambda gain: gain.points.value, default=None)
    winners = [(task, system, scores[task][system]) for task, system in best.items()]
    return macro("compare.html", "hero", result, rows, best, claim, winners, _tones(result))


def _scores(result: BakeOff) -> Markup:
    return macro("compare.html", "scores", result.tables, ARM_NAMES, _tones(result))


def _curves(result: BakeOff) -> Markup:
    charts = []
    for table in result.tables:
        charts.append((f"{table.task}: by samples", curves(table.curves, "labelled samples drawn", "score on val, %")))
        few = len(table.clocks) <= 8  # more leads than that are a thicket
        charts.append((f"{table.task}: by minutes", curves(table.clocks, "minutes since the start", "score on val, %", leads=few)))
    if not any(chart for _, chart in charts):
        return Markup("")
    return key(list(result.systems)) + macro("demo.html", "charts", charts)


def _cost(result: BakeOff) -> Markup:
    parts, tones = [key(list(result.systems))], _tones(result)
    for table in result.tables:
        scores = {(row.system, arm): a.score.value for row in table.rows for arm, a in row.arms.items() if a.score}
        paths = [
            [
                Point(f"{price.system}, {ARM_NAMES[arm]}", price.minutes[arm], scores[price.system, arm], tones[price.system])
                for arm in ARM_NAMES
                if arm in price.minutes and (price.system, arm) in scores
            ]
            for price in table.prices
        ]
        asked = [
            [Point(price.system, price.milliseconds, scores[price.system, "pretrained"], tones[price.system])]
            for price in table.prices
            if price.milliseconds is not None and (price.system, "pretrained") in scores
        ]
        charts = [
            (f"{table.task}: by minutes of training", scatter(paths, "minutes", "score, %")),
            (f"{table.task}: by the time of a question", scatter(asked, "milliseconds", "score, %")),
        ]
        if any(chart for _, chart in charts):
            parts.append(macro("demo.html", "charts", charts))
    prices = [(table.task, price) for table in result.tables for price in table.prices]
    if not prices:
        return Markup("")
    return Markup("\n").join([*parts, macro("compare.html", "prices", prices, ARM_NAMES, tones, duration)])


def _splits(result: BakeOff) -> Markup:
    parts = []
    for table in result.tables:
        if len(table.splits) > 1:
            drawn = dots(table.splits, list(result.systems), f"{table.task} by split", {}, result.split_notes)
            parts += [Markup("<h3>{}</h3>").format(table.task), drawn]
    return Markup("\n").join([key(list(result.systems)), *parts]) if parts else Markup("")


def _answers(result: BakeOff) -> Markup:
    parts = []
    for table in result.tables:
        cards = [(card, [(address(picture), *picture.shape[1::-1]) for picture in card.pictures]) for card in table.cards]
        if cards:
            parts.append(Markup("<h3>{}</h3>").format(table.task))
            parts.append(macro("compare.html", "cards", cards, _tones(result)))
    return Markup("\n").join(parts)


def _again(result: BakeOff) -> Markup:
    parts = [macro("demo.html", "facts", result.facts.items())] if result.facts else []
    if result.commands:
        parts.append(macro("demo.html", "configurations", result.commands))
    return Markup("\n").join(parts)
