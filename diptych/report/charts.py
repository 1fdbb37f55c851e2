"""Charts as inline SVG and HTML: bars with 95 % intervals and a chance line, learning curves with bands, stages on a time axis.

Colours come from the page's CSS variables, so one drawing serves light, dark and paper. Every chart carries a text alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A figure in percent (or points) with its 95 % interval and the number of questions behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Curve:
    """Points of one line, aligned; `low` and `high` (a band) may be absent."""

    samples: Sequence[float]  # training samples seen
    minutes: Sequence[float]
    value: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
