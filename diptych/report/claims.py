"""The report of `diptych compare --claims`: what each paper claims, what was measured, and whether it holds here.

`ClaimsPage` is everything the page can tell; a section without anything to show is left out. Effects are points, or how many times
sooner; each row of the picture is an effect with its interval, the claim dashed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from diptych.report.charts import Score
from diptych.report.page import Section, macro, number, page, signed

VERDICTS = ("holds", "does not hold here", "too small to tell", "failed")  # in the order in which they are counted


@dataclass(frozen=True)
class Tried:
    """One side of a claim."""

    name: str
    value: Score | None  # None: it failed
    by_chance: float | None = None  # what the same run has without the right picture, or who knows nothing
    how: str = ""  # its settings
    failed: str = ""


@dataclass(frozen=True)
class Row:
    """A claim."""

    name: str
    paper: str
    says: str
    measure: str
    sides: Sequence[Tried]
    effect: Score | None
    verdict: str  # of VERDICTS
    why: str = ""  # where the interval alone does not say
    is_time: bool = False  # the effect is how many times sooner, and sides are milliseconds
    above: float = 0.0  # the claim
    worth: float = 1.0  # what would be worth naming

    @property
    def rule(self) -> str:
        unit = "times" if self.is_time else "points"
        return f"holds above {self.above:g} {unit}, does not below {self.worth:g}"

    def figure(self, value: float) -> str:
        return f"{value:.2f}" if self.is_time else signed(value)


@dataclass(frozen=True)
class ClaimsPage:
    title: str
    summary: str
    rows: Sequence[Row]
    kicker: str = ""
    remarks: Sequence[str] = ()
    commands: Mapping[str, str] = field(default_factory=dict)  # side of a claim -> the commands that lead to it
    facts: Mapping[str, str] = field(default_factory=dict)


def claims_page(result: ClaimsPage) -> str:
    """The whole report as one HTML text."""
    counted = Counter(row.verdict for row in result.rows)
    hero = macro("claims.html", "hero", result, [(name, counted[name]) for name in VERDICTS if counted[name]])
    return page(result.title, result.kicker, hero, _sections(result))


def _sections(result: ClaimsPage) -> list[Section]:
    points = [row for row in result.rows if row.effect and not row.is_time]
    return [
        Section(
            "effects",
            "Effects",
            "Effects, with their intervals",
            "Points gained by what the paper claims, on the same questions; groups of questions that share a scene are drawn anew. "
            "The full line is no effect, the dashed one what the claim has to lie above.",
            macro("claims.html", "forest", points, _Scale.of(points)) if points else Markup(""),
        ),
        Section(
            "claims",
            "Claims",
            "Claim by claim",
            "What each side reached. By chance: the same run, asked beside another sample's picture, or who knows nothing; an "
            "effect between sides of which none does better than that says nothing.",
            macro("claims.html", "claims", result.rows, number) if result.rows else Markup(""),
        ),
        Section(
            "remarks",
            "Remarks",
            "What to keep in mind",
            "",
            macro("demo.html", "remarks", result.remarks) if result.remarks else Markup(""),
        ),
        Section(
            "again", "Do it again", "Do it again", "The commands that lead to each side, as they were carried out.", _again(result)
        ),
    ]


@dataclass(frozen=True)
class _Scale:
    """Points onto percent of a row's width; nothing lies in the middle."""

    most: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Scale:
        ends = [
            abs(end) for row in rows if row.effect for end in (row.effect.low, row.effect.high, row.effect.value, row.above) if end
        ]
        largest = max(ends, default=1.0)
        step = 10 ** math.floor(math.log10(largest))
        return cls(step * math.ceil(largest / step))

    def __call__(self, value: float) -> float:
        return round(50 + 50 * value / self.most, 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        return [(self(part * self.most), signed(part * self.most) if part else "0") for part in (-1, -0.5, 0, 0.5, 1)]


def _again(result: ClaimsPage) -> Markup:
    parts = [macro("demo.html", "facts", result.facts.items())] if result.facts else []
    if result.commands:
        parts.append(macro("demo.html", "configurations", result.commands))
    return Markup("\n").join(parts)
