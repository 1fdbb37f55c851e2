"""Where a model looked: weights of visual tokens (patches, cells or regions) shown as light on the picture they cover.

Also the transport plan of word-patch alignment, word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Look:
    """Non-negative weights of visual tokens, any scale, and the box each covers: xyxy in [0, 1] (`Visual.box_IV4` of the picture)."""

    weight_V: NDArray[np.floating]
    box_V4: NDArray[np.floating]


@dataclass(frozen=True)
class Transport:
    """How the words of one caption distribute over one picture (the IPOT plan of word-patch alignment)."""

    picture: NDArray[np.uint8]
    words: Sequence[str]  # T whole words, in order
    weight_TV: NDArray[np.floating]  # one row a word: its row of the plan (pieces of a word summed)
    box_V4: NDArray[np.floating]
    chosen: int = 0  # the word shown first
    true_boxes: Sequence[tuple[float, float, float, float]] = ()  # of what the chosen word names, xyxy in [0, 1]
