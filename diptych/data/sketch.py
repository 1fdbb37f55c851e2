"""Near duplicates: pictures that differ by little more than by how they were stored.

    picture -> grey -> 17 x 16 means of areas -> is a mean brighter than its left neighbour by more than STEP levels -> 256 bits

A difference hash, which size, format, compression and overall brightness hardly change. Even ground gives zeros and no noise,
thanks to STEP. A crop, a turn or a mirror changes everything: such copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.config import ImageConfig
from diptych.data.picture import decode

SIDE = 16  # bits along either side
STEP = 2.0  # of 255: what compression does to even ground stays below
_SEEN = ImageConfig(short=4 * SIDE, long=16 * SIDE, multiple=1)  # as small as a JPEG may be decoded


def sketch(source: Path | bytes) -> NDArray[np.uint64]:
    """[4] words of 64 bits. Raises BrokenPicture."""
    grey = Image.fromarray(decode(source, _SEEN)).convert("F").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    return np.packbits(np.diff(np.asarray(grey), axis=1) > STEP).view(np.uint64)


class Sketches:
    """Those of many pictures, to compare one with."""

    def __init__(self, sketches: Iterable[NDArray[np.uint64]]):
        self.bits_N4 = np.array([*sketches], dtype=np.uint64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.bits_N4)

    def near(self, bits_4: NDArray[np.uint64], most: int) -> bool:
        """Whether one of them differs in at most so many of the 256 bits."""
        return bool((np.bitwise_count(self.bits_N4 ^ bits_4).sum(1) <= most).any())
