"""Two ways of doing the same work, done in turn, so that a machine that slows down slows both; and the rows of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what was done, the figure, whom it is a ratio to or beside."""

    name: str  # system, size, precision
    value: float
    unit: str  # "x" times (peer over ours), "%", "GB", "samples/s", "min", "pairs"
    peer: str = ""
    least: float | None = None
    most: float | None = None
    n: int = 1  # how often it was measured
    how: str = ""  # the route that was taken, the setting, what should be known with it

    def figure(self) -> str:
        digits = 0 if self.unit == "pairs" else _digits(self.value)
        return f"{self.value:.{digits}f}{'' if self.unit in 'x%' else ' '}{self.unit}"

    def spread(self) -> str:
        if self.least is None or self.most is None:
            return ""
        return f"[{self.least:.{_digits(self.value)}f}, {self.most:.{_digits(self.value)}f}]"

    def line(self) -> str:
        after = "; ".join(part for part in (f"against {self.peer}" if self.peer else "", self.how) if part)
        return f"{self.name:<58} {self.figure():>12}  {self.spread():<14} n={self.n}  {after}"


def _digits(value: float) -> int:
    return 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """One untimed call of each, then `rounds` in which each is called once: seconds by name, aligned by round."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(name: str, ours: Sequence[float], peer_name: str, peer: Sequence[float], how: str = "") -> Row:
    """How many times as long the peer took: each round gives one ratio."""
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    return Row(name, statistics.median(ratios), "x", peer_name, min(ratios), max(ratios), len(ratios), how)
