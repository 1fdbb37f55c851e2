"""The report of `diptych demo`: what pre-training is worth, from the headline to the last hash.

`DemoResult` is everything the page can tell. Only the title, the arms and their headline scores are needed; a section whose field
is empty is left out. Scores and chances are percent, minutes are wall-clock minutes, pictures uint8 RGB arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diptych.report.charts import Curve, Score
from diptych.report.gallery import ImageQuery, MaskedWord, Question, TextQuery
from diptych.report.overlay import Transport
from diptych.report.sheet import Scene


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


def demo_page(result: DemoResult) -> str:
    """The whole report as one HTML text."""
    raise NotImplementedError
