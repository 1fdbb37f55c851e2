"""The order in which samples are drawn: a pure function of (seed, n), so that a run's whole data state is one integer.

Every epoch is a fresh permutation of the source. Draw n is place n mod size of epoch n div size, and its index is computed
directly, without a list of indices and without walking there: seeking costs the same at draw 0 and at draw 10^12.

The permutation is a Feistel network over the smallest even number of bits that holds the source. With a place split into halves
(left, right), each round replaces it by (right, left XOR hash(right, key)), which is a bijection whatever the hash; the keys come
from (seed, epoch). Results beyond the source are encrypted again until one falls inside (cycle walking; Black and Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002); the domain is at most four times the source, so four passes on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.draw import Draw, mix64

ROUNDS = 8  # four already look random (Luby and Rackoff, 1988); small domains deserve more


@dataclass(frozen=True)
class Order:
    """`order(n)`: the index in [0, size) of draw n, for an array of draws at once."""

    size: int
    draw: Draw
    purpose: str = "order"

    def __call__(self, draw_N: NDArray[np.int64]) -> NDArray[np.int64]:
        epoch_N, place_N = np.divmod(draw_N, self.size)
        key_NR = self.draw.bits(self.purpose, epoch_N, ROUNDS)
        index_N = self._encrypt(place_N.astype(np.uint64), key_NR)
        while (outside_N := index_N >= self.size).any():
            index_N[outside_N] = self._encrypt(index_N[outside_N], key_NR[outside_N])
        return index_N.astype(np.int64)

    def _encrypt(self, value_N: NDArray[np.uint64], key_NR: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(max(1, ((self.size - 1).bit_length() + 1) // 2))
        mask = (np.uint64(1) << half) - np.uint64(1)
        left_N, right_N = value_N >> half, value_N & mask
        for r in range(ROUNDS):
            left_N, right_N = right_N, left_N ^ (mix64(right_N ^ key_NR[:, r]) & mask)
        return (left_N << half) | right_N
