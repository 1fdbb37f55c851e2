"""The report of `diptych demo`: what pre-training is worth, from the headline to the last hash.

`DemoResult` is everything the page can tell. Only the title, the arms and their headline scores are needed; a section whose field
is empty is left out. Scores and chances are percent, minutes are wall-clock minutes, pictures uint8 RGB arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from diptych.report.charts import Bar, Curve, Line, Score, bars, curves, dots, key, tracks
from diptych.report.gallery import (
    ImageQuery,
    MaskedWord,
    Question,
    TextQuery,
    answered_questions,
    filled_words,
    retrieved_pictures,
    retrieved_texts,
)
from diptych.report.overlay import Transport, transport_map
from diptych.report.page import Section, duration, macro, number, page
from diptych.report.sheet import Scene, contact_sheet


@dataclass(frozen=True)
class Step:
    """One box of the pipeline drawing."""

    name: str  # "Image root"
    does: str  # one or two short sentences: what is learned, from how much of what
    minutes: float
    sees: str = ""  # labels it is given: "boxes with categories and colours of 20,000 scenes"; empty: none
    facts: Mapping[str, str] = field(default_factory=dict)  # {"samples": "96,000", "parameters": "1.1 M"}


@dataclass(frozen=True)
class Stage:
    """A stretch of one arm's training on the time axis. Stages of one name share a colour."""

    name: str
    minutes: float


@dataclass(frozen=True)
class Arm:
    """One way to a fine-tuned model; its place in `DemoResult.arms` decides its colour in every chart."""

    key: str  # "pretrained", "scratch", "image_root_only", "scratch_equal_compute"
    name: str  # as read by people: "Pre-trained", "From scratch", "Image root only", "Scratch, equal compute"
    score: Score  # the headline: macro mean over question types on `test`
    start: str = ""  # "image root, then masked words and matching on 20,000 scenes"
    stages: tuple[Stage, ...] = ()  # in order; their sum is the arm's total compute
    labels: Mapping[str, str] = field(
        default_factory=dict
    )  # kind of label -> how many it has seen: {"questions": "2,000", "boxes": "none"}
    by_type: Mapping[str, Score] = field(default_factory=dict)  # question type -> score on `test`
    by_split: Mapping[str, Score] = field(default_factory=dict)  # split -> macro mean; `test` among them
    lr: float | None = None  # the fine-tuning learning rate that the search on `val` chose
    curve: Curve | None = None  # accuracy on `val` while fine-tuning; minutes count from the arm's very start
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """Paired difference of the first arm's headline score and another's, in points; groups resampled together."""

    over: str  # key of the other arm
    points: Score


@dataclass(frozen=True)
class Retrieval:
    """Retrieval on one gallery. Keys of the scores: "R@1", "R@5", "R@10"."""

    split: str  # "test"
    n_images: int
    n_texts: int
    text_to_image: Mapping[str, Score]
    image_to_text: Mapping[str, Score]
    chance: Mapping[str, float] = field(default_factory=dict)  # {"R@1": 0.5, ...}
    note: str = ""


@dataclass(frozen=True)
class Control:
    """A model that was denied what it would need; it should stand at chance."""

    task: str  # "VQA: colour"
    withheld: str  # "picture" or "question"
    score: Score
    chance: float


@dataclass(frozen=True)
class Comparison:
    """A further experiment (`--full`): bars under a heading."""

    title: str
    text: str
    bars: tuple[tuple[str, Score], ...]  # (name, score)
    chance: float | None = None
    minutes: Mapping[str, float] = field(default_factory=dict)  # bar name -> total compute


@dataclass(frozen=True)
class DemoResult:
    title: str  # "What is pre-training worth?"
    arms: tuple[Arm, ...]  # the arm in question first: it gets the accent colour and the differences are its
    summary: str = ""  # one or two sentences under the title; empty: made from the numbers
    chance: float = 0.0  # of the headline score
    n_labels: int = 0  # labelled questions each arm is fine-tuned on
    n_test: int = 0  # questions behind the headline
    differences: tuple[Difference, ...] = ()
    chance_by_type: Mapping[str, float] = field(default_factory=dict)
    split_notes: Mapping[str, str] = field(default_factory=dict)  # split -> what is new in it: {"test-style": "artists never seen"}
    # what was done
    system: str = ""  # truthful name: "grid CNN with a dual-stream hinge (crossgrid:tiny)"
    data: str = ""  # one sentence on the embedded data
    machine: str = ""  # "2 cores of AMD EPYC ..., no GPU"
    steps: tuple[Step, ...] = ()
    seconds: Mapping[str, float] = field(
        default_factory=dict
    )  # wall clock by stage of the whole demo, evaluation and report included
    pretraining: Mapping[str, Curve] = field(default_factory=dict)  # objective -> its loss or accuracy while pre-training
    pretraining_unit: str = "loss"
    # retrieval
    retrieval: tuple[Retrieval, ...] = ()
    text_queries: tuple[TextQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    # looking inside
    questions: tuple[Question, ...] = ()
    masked_words: tuple[MaskedWord, ...] = ()
    transports: tuple[Transport, ...] = ()
    # the data
    scenes: tuple[Scene, ...] = ()
    controls: tuple[Control, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    remarks: tuple[str, ...] = ()  # what a reader must know to judge the numbers: limits, failures, surprises
    # to do it again
    commands: tuple[str, ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict)  # stage -> YAML
    seeds: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)  # {"data_sha256": ..., "config_sha256 (pre-training)": ...}
    versions: Mapping[str, str] = field(default_factory=dict)  # {"diptych": "0.1.0", "torch": ...}
    date: str = ""  # ISO


@dataclass(frozen=True)
class _Claim:
    """The number that is read from across the room."""

    points: Score
    text: str
    others: tuple[tuple[str, Score], ...]


def demo_page(result: DemoResult) -> str:
    """The whole report as one HTML text."""
    kicker = " · ".join(part for part in ("Diptych", result.system, result.date) if part)
    return page(result.title, kicker, _hero(result), _sections(result))


def _sections(result: DemoResult) -> list[Section]:
    names = {arm.key: arm.name for arm in result.arms}
    return [
        Section(
            "cost",
            "What was done",
            "What was done, and what it cost",
            "Each step feeds the next; the arms differ only in where fine-tuning starts and in how long training lasts.",
            _cost(result),
        ),
        Section(
            "labels",
            "Labels seen",
            "Which labels each arm has seen",
            "Pre-training is only a gain if its labels are counted too.",
            _labels(result),
        ),
        Section(
            "curves",
            "Learning curves",
            "Learning curves",
            "Accuracy on the validation questions while fine-tuning: by labelled questions seen, and by minutes since the arm's "
            "very beginning. A dotted lead is time spent before the first labelled question.",
            _curves(result),
        ),
        Section(
            "types",
            "Question types",
            "By type of question",
            "Chance differs by type; the dashed line is drawn for each. Whiskers are 95 % intervals.",
            _by_type(result),
        ),
        Section("splits", "Splits", "By split", "What happens when artists, combinations or objects are new.", _by_split(result)),
        Section(
            "retrieval",
            "Retrieval",
            "Finding pictures by words, and words by pictures",
            "Zero-shot: the pre-trained model ranks by how well text and picture match; nothing was fine-tuned for it.",
            _retrieval(result),
        ),
        Section(
            "questions",
            "Questions and looks",
            "Questions, answers, and where the model looked",
            "Beside each picture the same picture under fog, which lifts where the marked arm's attention fell when it answered.",
            answered_questions(result.questions, names),
        ),
        Section(
            "masked",
            "Hidden words",
            "A hidden word, with the picture and without",
            "The underlined word was hidden from the model. Without the picture it can only guess from the sentence.",
            filled_words(result.masked_words),
        ),
        Section(
            "transport",
            "Words to patches",
            "From a word to its place in the picture",
            "Choose a word: the fog lifts where optimal transport sends it. "
            "A dashed frame marks what the word names, for the reader's eye only.",
            _transports(result),
        ),
        Section("data", "The data", "The data, as the model gets it", result.data, contact_sheet(result.scenes)),
        Section(
            "controls",
            "Controls",
            "Controls",
            "Models that are denied the picture or the question. If the data leaked its answers, they would rise above chance.",
            _controls(result),
        ),
        Section("more", "More", "Further comparisons", "", _comparisons(result)),
        Section("remarks", "Remarks", "What to keep in mind", "", _remarks(result)),
        Section(
            "again",
            "Do it again",
            "Do it again",
            "The exact commands, configuration and fingerprints behind every number above.",
            _again(result),
        ),
    ]


def _hero(result: DemoResult) -> Markup:
    first, *others = result.arms
    claim = None
    by_key = {arm.key: arm for arm in others}
    differences = [difference for difference in result.differences if difference.over in by_key]
    if differences:
        headline, *rest = differences
        claim = _Claim(
            headline.points,
            f"{first.name} against {by_key[headline.over].name.lower()}"
            + (f", with the same {result.n_labels:,} labelled questions" if result.n_labels else ""),
            tuple((by_key[difference.over].name.lower(), difference.points) for difference in rest),
        )
    rows = [Bar(arm.name, arm.score, _minutes(arm), tone) for tone, arm in enumerate(result.arms)]
    chart = bars(rows, "Questions answered right, by arm", result.chance or None, large=True)
    return macro("demo.html", "hero", result, result.summary or _summary(result), claim, chart)


def _summary(result: DemoResult) -> str:
    first, *others = result.arms
    given = f"the same {result.n_labels:,} labelled questions about pictures" if result.n_labels else "the same labelled questions"
    opening = (
        f"{_COUNTS.get(len(result.arms), len(result.arms))} models, fine-tuned on {given}; they differ only in what came before. "
    )
    score = f"{first.name}: {number(first.score.value)} % answered right"
    return (opening if others else "") + score + (f", where chance gives {number(result.chance)} %." if result.chance else ".")


_COUNTS = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}


def _minutes(arm: Arm) -> str:
    return f"{duration(sum(stage.minutes for stage in arm.stages))} of training" if arm.stages else ""


def _cost(result: DemoResult) -> Markup:
    parts = []
    if result.steps:
        parts.append(macro("demo.html", "steps", result.steps))
    rows = [(arm.name, tone, [(stage.name, stage.minutes) for stage in arm.stages]) for tone, arm in enumerate(result.arms)]
    chart = tracks(rows, "Minutes of training by arm and stage")
    if chart:
        parts += [Markup("<h3>Minutes of training, by arm</h3>"), chart]
    facts = [("System", result.system), ("Machine", result.machine)]
    facts += [(f"Wall clock: {name}", duration(seconds / 60)) for name, seconds in result.seconds.items()]
    facts = [fact for fact in facts if fact[1]]
    if facts and (parts or result.seconds):
        parts.append(macro("demo.html", "facts", facts))
    return Markup("\n").join(parts)


def _labels(result: DemoResult) -> Markup:
    kinds = list(dict.fromkeys(kind for arm in result.arms for kind in arm.labels))
    return macro("demo.html", "labels", result.arms, kinds) if kinds else Markup("")


def _curves(result: DemoResult) -> Markup:
    arms = [(tone, arm.name, arm.curve) for tone, arm in enumerate(result.arms) if arm.curve is not None]

    def drawn(axis: str, x_label: str, x_most: float = math.inf) -> Markup:
        lines = [Line(name, getattr(curve, axis), curve.value, curve.low, curve.high, tone) for tone, name, curve in arms]
        return curves(lines, x_label, "accuracy on val, %", result.chance or None, x_most, leads=axis == "minutes")

    ends = sorted(curve.samples[-1] for _, _, curve in arms if len(curve.samples))
    cut = len(ends) > 1 and ends[-1] > 2 * ends[-2]  # an arm given far more steps would squeeze the others
    title = "By labelled questions seen" + (" (the longest arm goes on)" if cut else "")
    charts = [
        (title, drawn("samples", "questions seen", ends[-2] if cut else math.inf)),
        ("By minutes, everything counted", drawn("minutes", "minutes since the arm's start")),
    ]
    parts = []
    if any(chart for _, chart in charts):
        parts += [key([arm.name for arm in result.arms]), macro("demo.html", "charts", charts)]
    if result.pretraining:
        charts = [
            (
                f"Pre-training, by {axis}",
                curves(
                    [
                        Line(name, getattr(curve, axis), curve.value, curve.low, curve.high, tone)
                        for tone, (name, curve) in enumerate(result.pretraining.items())
                    ],
                    "pictures seen" if axis == "samples" else "minutes",
                    result.pretraining_unit,
                ),
            )
            for axis in ("samples", "minutes")
        ]
        parts += [Markup("<h3>While pre-training</h3>"), key(list(result.pretraining)), macro("demo.html", "charts", charts)]
    return Markup("\n").join(parts)


def _by_arm(
    result: DemoResult,
    groups: Mapping[str, Mapping[str, Score]],
    label: str,
    chances: Mapping[str, float],
    notes: Mapping[str, str],
) -> Markup:
    """`groups` is arm name -> group -> score."""
    turned: dict[str, dict[str, Score]] = {}
    for name, scores in groups.items():
        for group, score in scores.items():
            turned.setdefault(group, {})[name] = score
    names = [arm.name for arm in result.arms]
    return key(names) + dots(turned, names, label, chances, notes) if turned else Markup("")


def _by_type(result: DemoResult) -> Markup:
    return _by_arm(result, {arm.name: arm.by_type for arm in result.arms}, "Score by type of question", result.chance_by_type, {})


def _by_split(result: DemoResult) -> Markup:
    splits = {split for arm in result.arms for split in arm.by_split}
    chances = dict.fromkeys(splits, result.chance) if result.chance else {}
    return _by_arm(result, {arm.name: arm.by_split for arm in result.arms}, "Score by split", chances, result.split_notes)


def _retrieval(result: DemoResult) -> Markup:
    parts = []
    if result.retrieval:
        ks = list(dict.fromkeys(k for row in result.retrieval for side in (row.text_to_image, row.image_to_text) for k in side))
        parts.append(macro("demo.html", "retrieval", result.retrieval, ks))
    for title, rows in (
        ("Pictures found for a text", retrieved_pictures(result.text_queries)),
        ("Captions found for a picture", retrieved_texts(result.image_queries)),
    ):
        if rows:
            parts += [Markup("<h3>{}</h3>").format(title), rows]
    return Markup("\n").join(parts)


def _transports(result: DemoResult) -> Markup:
    maps = [transport_map(transport, f"transport-{place}") for place, transport in enumerate(result.transports)]
    return Markup('<div class="transports">{}</div>').format(Markup("").join(maps)) if maps else Markup("")


def _controls(result: DemoResult) -> Markup:
    rows: dict[tuple[str, float], dict[str, Score]] = {}
    for control in result.controls:
        rows.setdefault((control.task, control.chance), {})[control.withheld] = control.score
    withheld = list(dict.fromkeys(control.withheld for control in result.controls))
    table = [(task, scores, chance) for (task, chance), scores in rows.items()]
    return macro("demo.html", "controls", table, withheld) if table else Markup("")


def _comparisons(result: DemoResult) -> Markup:
    rows = [
        (
            comparison,
            bars(
                [
                    Bar(
                        name, score, f"{duration(comparison.minutes[name])} of training" if name in comparison.minutes else "", tone
                    )
                    for tone, (name, score) in enumerate(comparison.bars)
                ],
                comparison.title,
                comparison.chance,
            ),
        )
        for comparison in result.comparisons
    ]
    return macro("demo.html", "comparisons", rows) if rows else Markup("")


def _remarks(result: DemoResult) -> Markup:
    return macro("demo.html", "remarks", result.remarks) if result.remarks else Markup("")


def _again(result: DemoResult) -> Markup:
    told = result.commands or result.configs or result.seeds or result.hashes or result.versions
    return macro("demo.html", "again", result) if told else Markup("")
