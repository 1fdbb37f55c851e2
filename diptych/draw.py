"""Randomness as data: every draw is a pure function of (seed, purpose, index), so no generator has to be saved or replayed.

A counter goes through the SplitMix64 finaliser (Steele, Lea and Flood, 2014), a bijection of 64 bits that passes BigCrush on
consecutive counters. Draws for different purposes or rows are independent streams; the layout of a batch, the rank and the worker
do not enter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, element by element; arithmetic is modulo 2^64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1024)
def _stream(seed: int, purpose: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little"))


@dataclass(frozen=True)
class Draw:
    seed: int

    def bits(self, purpose: str, index_B: ArrayLike, width: int = 1) -> NDArray[np.uint64]:
        """[B, width] 64-bit words: word j of row i depends on (seed, purpose, index_B[i], j) alone."""
        index = np.atleast_1d(np.asarray(index_B)).astype(np.uint64)
        with np.errstate(over="ignore"):
            row_B1 = mix64(index * _GOLDEN + _stream(self.seed, purpose))[:, None]
            return mix64(row_B1 + np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN)

    def uniform(self, purpose: str, index_B: ArrayLike, width: int = 1) -> NDArray[np.float64]:
        """[B, width] numbers in [0, 1)."""
        return (self.bits(purpose, index_B, width) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, purpose: str, index_B: ArrayLike, high: int, width: int = 1) -> NDArray[np.int64]:
        """[B, width] integers in [0, high)."""
        return (self.uniform(purpose, index_B, width) * high).astype(np.int64)

    def generator(self, purpose: str, index: int) -> np.random.Generator:
        """A numpy generator for one row, where an algorithm needs more than a fixed number of draws."""
        return np.random.default_rng(int(self.bits(purpose, index)[0, 0]))

    def seed_of(self, purpose: str, index: int) -> int:
        """A 63-bit seed for a generator of another library."""
        return int(self.bits(purpose, index)[0, 0] >> np.uint64(1))
