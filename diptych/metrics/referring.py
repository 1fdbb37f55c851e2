"""Referring expressions: is the box that was chosen the one that is meant? As published code counts it (refer, MAttNet, UNITER).

    right = overlap > .5, strictly          overlap = common / joint area, in pixels of the stored picture

Published code takes a box x y w h to hold the pixels x to x + w - 1, and counts a common area only where the first common pixel
lies before the last one in both directions: boxes that share one column, one row or one pixel do not overlap at all. So a box one
pixel wide is never found, not even by itself. Elsewhere the common area is (x' - 1 - x + 1) (y' - 1 - y + 1), the plain one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ENOUGH = 0.5


def overlap(a_N4: ArrayLike, b_N4: ArrayLike) -> NDArray[np.float64]:
    """[N] of each box of one list with the box at its place in the other; xyxy in pixels, 0 where both are empty."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a_N4, b_N4))
    if len(a) != len(b):
        raise ValueError(f"{len(a)} boxes beside {len(b)}: each needs its own")
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    common = np.where((high - 1 > low).all(1), (high - low).prod(1), 0.0)
    joint = sum((box[:, 2:] - box[:, :2]).clip(0).prod(1) for box in (a, b)) - common
    return np.divide(common, joint, out=np.zeros_like(common), where=joint > 0)


def is_found(predicted_N4: ArrayLike, true_N4: ArrayLike) -> NDArray[np.bool_]:
    """[N] whether each predicted box is right."""
    return overlap(predicted_N4, true_N4) > ENOUGH
