"""The contact sheet: pictures of the data with their boxes, captions and questions, as a person checks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from diptych.report.page import fill
from diptych.report.picture import address


@dataclass(frozen=True)
class Scene:
    picture: NDArray[np.uint8]
    captions: Sequence[str] = ()
    boxes: Sequence[tuple[float, float, float, float, str]] = ()  # x1 y1 x2 y2 in pixels of the picture, name
    questions: Sequence[tuple[str, str]] = ()  # (question, answer)
    split: str = ""


def contact_sheet(scenes: Sequence[Scene]) -> Markup:
    """Every scene with its boxes drawn and named, its captions and its questions."""
    if not scenes:
        return Markup("")
    return fill("sheet.html", scenes=[(scene, address(scene.picture), *scene.picture.shape[1::-1]) for scene in scenes])
