"""Charts: bars with 95 % intervals and a chance line, dots by group, curves with bands, points, stages on a time axis.

Bars, dots and stages are tables and positioned boxes, so their words keep their size on a phone; curves and points are SVG. Colours
are the page's CSS variables by `tone`, so one drawing serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from markupsafe import Markup

from diptych.report.page import fill

TONES = 9  # colours in page.css; later lines begin again


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


@dataclass(frozen=True)
class Bar:
    name: str
    score: Score
    note: str = ""
    tone: int = 0
    chance: float | None = None  # of this bar alone


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    tone: int = 0
    broken: bool = False  # drawn with gaps: a rival of the full line of its tone


class Point(NamedTuple):
    """One thing in two quantities."""

    name: str
    x: float
    y: float
    tone: int = 0


def bars(rows: Sequence[Bar], label: str, chance: float | None = None, large: bool = False) -> Markup:
    """A table whose middle column draws each score from 0 to 100, its interval, and the chance line."""
    return fill("bars.html", rows=rows, label=label, chance=chance, large=large)


def dots(
    groups: Mapping[str, Mapping[str, Score]],
    names: Sequence[str],
    label: str,
    chances: Mapping[str, float],
    notes: Mapping[str, str],
) -> Markup:
    """One row a group (question type, split), one dot a name, whiskers for the interval; the figures follow as a table.

    `groups` maps group -> name -> score; a name's place in `names` is its tone.
    """
    return fill("dots.html", groups=groups, names=names, label=label, chances=chances, notes=notes)


def key(names: Sequence[str]) -> Markup:
    """Which colour is whose."""
    return fill("key.html", names=names)


@dataclass(frozen=True)
class Track:
    """Points with their whiskers, and the line that a law draws through them."""

    name: str
    x: Sequence[float]
    scores: Sequence[Score]
    law: Sequence[float] = ()  # at each x
    tone: int = 0


@dataclass(frozen=True)
class _Axis:
    """Data range [low, high] onto pixels [start, stop]; by logarithms where asked."""

    low: float
    high: float
    start: float
    stop: float
    by_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) for v in (self.low, self.high, value)) if self.by_log else (self.low, self.high, value)
        return round(self.start + (value - low) / (high - low) * (self.stop - self.start), 1)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def short(value: float) -> str:
    """1500 -> "1.5k"; 2000000 -> "2M"; 0.25 -> "0.25"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 58  # margins


def curves(
    lines: Sequence[Line], x_label: str, y_label: str, chance: float | None = None, x_most: float = math.inf, leads: bool = False
) -> Markup:
    """Lines with bands. Points that are not finite, or lie beyond `x_most`, are left out.

    `leads` draws, for a line that starts late, a dotted lead from 0: time spent before its first point.
    """
    drawn = [_kept(line, x_most) for line in lines]
    drawn = [line for line in drawn if line.x]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x in line.x]
    ys = [y for line in drawn for part in (line.y, line.low, line.high) for y in part] + ([] if chance is None else [chance])
    pad = 0.06 * (max(ys) - min(ys)) or 1.0
    low = min(ys) - pad if min(ys) < 0 else max(0.0, min(ys) - pad)
    x_axis = _Axis(0.0, max(xs) or 1.0, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(low, max(ys) + pad, HEIGHT - BOTTOM, TOP)
    shapes = []
    for line in drawn:
        points = [(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.y, strict=True)]
        band = [(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.low, strict=False)]
        band += reversed([(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.high, strict=False)])
        floor = HEIGHT - BOTTOM - 7 - 7 * line.tone  # leads of several arms side by side
        lead = [(LEFT + 3, floor), (points[0][0], floor)] if leads and points[0][0] - LEFT > 0.04 * WIDTH else []
        shapes.append(
            {"line": line, "path": _path(points), "band": band and _path(band), "lead": lead and _path(lead), "end": points[-1]}
        )
    words = "; ".join(f"{line.name} ends at {short(line.y[-1])}" for line in drawn)
    return fill(
        "curves.html",
        width=WIDTH,
        height=HEIGHT,
        shapes=shapes,
        x_ticks=[(x_axis(t), short(t)) for t in ticks(x_axis.low, x_axis.high)],
        y_ticks=[(y_axis(t), short(t)) for t in ticks(y_axis.low, y_axis.high)],
        box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        chance=None if chance is None else (y_axis(chance), chance),
        x_label=x_label,
        y_label=y_label,
        alt=f"{y_label} over {x_label}. {words}.",
    )


def scatter(paths: Sequence[Sequence[Point]], x_label: str, y_label: str) -> Markup:
    """Points, those of one path joined in order, the last of each larger and named; x begins at 0."""
    paths = [path for path in paths if path]
    points = [point for path in paths for point in path]
    if not points:
        return Markup("")
    xs, ys = [point.x for point in points], [point.y for point in points]
    pad = 0.12 * (max(ys) - min(ys)) or 1.0
    x_axis = _Axis(0.0, 1.08 * max(xs) or 1.0, LEFT, WIDTH - RIGHT)
    y_axis = _Axis(max(0.0, min(ys) - pad), max(ys) + pad, HEIGHT - BOTTOM, TOP)
    drawn = []
    for path in paths:
        at = [(x_axis(point.x), y_axis(point.y)) for point in path]
        drawn.append({"path": _path(at) if len(at) > 1 else "", "dots": list(zip(at, path, strict=True)), "tone": path[-1].tone})
    words = "; ".join(f"{point.name}: {short(point.x)}, {short(point.y)}" for point in points)
    return fill(
        "scatter.html",
        width=WIDTH,
        height=HEIGHT,
        paths=drawn,
        middle=(LEFT + WIDTH - RIGHT) / 2,
        x_ticks=[(x_axis(t), short(t)) for t in ticks(x_axis.low, x_axis.high)],
        y_ticks=[(y_axis(t), short(t)) for t in ticks(y_axis.low, y_axis.high)],
        box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        x_label=x_label,
        y_label=y_label,
        alt=f"{y_label} over {x_label}. {words}.",
    )


def powers(
    tracks: Sequence[Track], x_label: str, y_label: str, y_range: tuple[float, float] | None = None, x_ticks: Sequence[float] = ()
) -> Markup:
    """Points and laws on logarithmic axes, where a power law is a straight line. `y_range` makes several comparable."""
    tracks = [track for track in tracks if track.x]
    if not tracks:
        return Markup("")
    xs = [x for track in tracks for x in track.x]
    low, high = y_range or reach(tracks)
    x_axis = _Axis(min(xs) / 1.25, max(xs) * 1.25, LEFT, WIDTH - RIGHT, by_log=True)
    y_axis = _Axis(low, high, HEIGHT - BOTTOM, TOP, by_log=True)
    drawn = []
    for track in tracks:
        at = [
            (x_axis(x), y_axis(s.value), None if s.low is None or s.high is None else (y_axis(s.low), y_axis(s.high)))
            for x, s in zip(track.x, track.scores, strict=True)
        ]
        drawn.append(
            {
                "dots": [
                    (x, y, whisker, f"{short(given)}: {s.value:.3g}")
                    for (x, y, whisker), given, s in zip(at, track.x, track.scores, strict=True)
                ],
                "law": _path([(x_axis(x), y_axis(min(max(y, low), high))) for x, y in sorted(zip(track.x, track.law, strict=True))])
                if track.law
                else "",
                "track": track,
            }
        )
    words = "; ".join(
        f"{t.name}: {', '.join(f'{s.value:.3g} at {short(x)}' for x, s in zip(t.x, t.scores, strict=True))}" for t in tracks
    )
    return fill(
        "powers.html",
        width=WIDTH,
        height=HEIGHT,
        tracks=drawn,
        x_ticks=[(x_axis(t), short(t)) for t in x_ticks or sorted(set(xs))],
        y_ticks=[(y_axis(t), f"{t:g}") for t in ticks(low, high, 5)],
        box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        x_label=x_label,
        y_label=y_label,
        alt=f"{y_label} over {x_label}. {words}.",
    )


def reach(tracks: Sequence[Track]) -> tuple[float, float]:
    """The range that holds all points and whiskers, with some air."""
    ends = [end for track in tracks for s in track.scores for end in (s.value, s.low, s.high) if end is not None and end > 0]
    return min(ends) / 1.04, max(ends) * 1.04


def _kept(line: Line, x_most: float) -> Line:
    keep = [i for i, (x, y) in enumerate(zip(line.x, line.y, strict=True)) if x <= x_most and math.isfinite(y)]

    def kept(part: Sequence[float]) -> list[float]:
        return [float(part[i]) for i in keep] if len(part) else []

    return replace(line, x=kept(line.x), y=kept(line.y), low=kept(line.low), high=kept(line.high))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def tracks(rows: Sequence[tuple[str, int, Sequence[tuple[str, float]]]], label: str) -> Markup:
    """What each arm's minutes went to: (name, tone, [(stage, minutes)]) drawn to one scale."""
    longest = max((sum(minutes for _, minutes in stages) for _, _, stages in rows), default=0.0)
    if longest <= 0:
        return Markup("")
    stages = list(dict.fromkeys(stage for _, _, parts in rows for stage, _ in parts))
    return fill("tracks.html", rows=rows, label=label, longest=longest, stages=stages)
