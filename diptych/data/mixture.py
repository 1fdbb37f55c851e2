"""Several data sets drawn as one: which source draw n takes, and which of its samples, as a pure function of (seed, n).

Weights become slots in a repeating pattern, spread as evenly as whole numbers allow: the k-th of a source's q slots wants to stand
at (k + 1/2) / q of the period, and slots are sorted by that wish. Every batch then holds the sources in their proportions, to
within a sample or two, and the number of draws a source has given so far is arithmetic instead of a counter to be saved.
Each source runs through its own permutations (data/sampler.py), so a small one may be in its tenth epoch while a large one is
in its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.config import UserError
from diptych.contracts import Reader
from diptych.data.sampler import Order
from diptych.draw import Draw

PERIOD = 2**14  # shares are kept to 1/16384; a source with any weight gets at least one slot


@dataclass(frozen=True)
class Source:
    name: str  # as the user gave it
    reader: Reader
    weight: float | None = None  # share of the draws relative to the others; None: its number of samples ...
    copies: float = 1  # ... so many times


class Mixture:
    def __init__(self, sources: Sequence[Source], draw: Draw):
        if not sources:
            raise UserError("no training data: give at least one source")
        for source in sources:
            if len(source.reader) == 0:
                raise UserError(f"{source.name}: no samples")
            if source.weight is not None and not 0 < source.weight < float("inf"):
                raise UserError(f"{source.name}: weight {source.weight:g} is not a positive number")
        self.sources = tuple(sources)
        self.orders = [Order(len(source.reader), draw, f"order/{place}") for place, source in enumerate(sources)]
        weights = [source.copies * len(source.reader) if source.weight is None else source.weight for source in sources]
        self.pattern_P = _pattern(weights)
        self.slots_S = np.bincount(self.pattern_P, minlength=len(sources))
        before_SP = np.cumsum(self.pattern_P == np.arange(len(sources))[:, None], axis=1) - 1
        self.place_P = before_SP[self.pattern_P, np.arange(len(self.pattern_P))]  # how many of the same source stand before a slot

    def locate(self, draw_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source, index in its reader) of each draw."""
        period_N, slot_N = np.divmod(draw_N, len(self.pattern_P))
        source_N = self.pattern_P[slot_N]
        turn_N = period_N * self.slots_S[source_N] + self.place_P[slot_N]
        index_N = np.empty_like(turn_N)
        for place, order in enumerate(self.orders):
            chosen_N = source_N == place
            if chosen_N.any():
                index_N[chosen_N] = order(turn_N[chosen_N])
        return source_N, index_N

    def drawn(self, n: int) -> dict[str, int]:
        """How many of the first n draws each source gave."""
        periods, rest = divmod(n, len(self.pattern_P))
        counts_S = periods * self.slots_S + np.bincount(self.pattern_P[:rest], minlength=len(self.sources))
        drawn: dict[str, int] = {}
        for source, count in zip(self.sources, counts_S.tolist(), strict=True):
            drawn[source.name] = drawn.get(source.name, 0) + count
        return drawn


def _pattern(weights: Sequence[float]) -> NDArray[np.int64]:
    """Source of each slot of one period."""
    if len(weights) == 1:
        return np.zeros(1, dtype=np.int64)
    slots = np.maximum(1, np.round(np.asarray(weights) / sum(weights) * PERIOD)).astype(np.int64)
    source_P = np.repeat(np.arange(len(weights)), slots)
    wish_P = np.concatenate([(np.arange(q) + 0.5) / q for q in slots])
    return source_P[np.argsort(wish_P, kind="stable")]
