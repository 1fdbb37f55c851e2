"""Single cases, right and wrong, with their pictures: retrieval rows, answered questions, masked words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.report.overlay import Look


@dataclass(frozen=True)
class Guess:
    """An answer or word, and how sure the model was: probability in [0, 1], or a score where there is none."""

    text: str
    probability: float | None = None


@dataclass(frozen=True)
class Question:
    """A question about a picture, what each arm answered, and where one of them looked."""

    picture: NDArray[np.uint8]
    question: str
    truth: str
    answers: Mapping[str, Guess]  # arm key -> its answer
    look: Look | None = None
    look_of: str = ""  # key of the arm whose look it is
    type: str = ""  # question type
    split: str = ""


@dataclass(frozen=True)
class TextQuery:
    """A text and the pictures ranked for it, best first."""

    text: str
    pictures: Sequence[NDArray[np.uint8]]  # the first few
    scores: Sequence[float]  # aligned with pictures
    rank: int  # of the true picture, 1 = first
    truth: NDArray[np.uint8] | None = None  # the true picture, shown beside the row where it is not among `pictures`


@dataclass(frozen=True)
class ImageQuery:
    """A picture and the texts ranked for it, best first."""

    picture: NDArray[np.uint8]
    texts: Sequence[str]
    scores: Sequence[float]
    true_texts: frozenset[str]
    rank: int  # of the best true text, 1 = first


@dataclass(frozen=True)
class MaskedWord:
    """A caption with one word hidden, and what fills it with the picture and without it."""

    picture: NDArray[np.uint8]
    words: Sequence[str]  # the caption's words, the hidden one included
    hidden: int  # its place
    with_picture: Sequence[Guess]  # best first
    without_picture: Sequence[Guess] = field(default=())
    look: Look | None = None
