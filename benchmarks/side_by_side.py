"""Two ways of doing the same work, timed in turn, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    name: str  # what was done, and how: system, size, precision
    peer: str
    times_faster: float  # median of the pairs' ratios: peer's seconds over ours
    least: float
    most: float
    pairs: int

    def line(self) -> str:
        return (
            f"{self.name:<52} {self.times_faster:5.2f}x  [{self.least:.2f}, {self.most:.2f}]  n={self.pairs}  against {self.peer}"
        )


def compare(name: str, ours: Callable[[], object], peer_name: str, peer: Callable[[], object], pairs: int) -> Ratio:
    """One untimed call of each, then `pairs` of (ours, peer); each pair gives one ratio."""
    ours()
    peer()
    ratios = []
    for _ in range(pairs):
        seconds_ours, seconds_peer = _seconds(ours), _seconds(peer)
        ratios.append(seconds_peer / seconds_ours)
    return Ratio(name, peer_name, statistics.median(ratios), min(ratios), max(ratios), pairs)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
