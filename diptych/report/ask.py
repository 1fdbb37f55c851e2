"""The picture `diptych ask` writes: the image, the text, the answers with their scores, and where the model looked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ask_picture(
    picture: NDArray[np.uint8],
    text: str,
    answers: Sequence[tuple[str, float]],
    weight_V: NDArray[np.floating] | None = None,
    box_V4: NDArray[np.floating] | None = None,
) -> bytes:
    """PNG bytes. `answers` are (text, probability in [0, 1]), best first; weights and boxes as in `overlay.Look`."""
    raise NotImplementedError
