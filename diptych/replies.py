"""What a model can be asked, by its head, and what it replies (load.py).

A task that can be asked has a method of one of these protocols; which of them a fine-tuned model has decides what `ask` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diptych.contracts import Batch


@runtime_checkable
class Answers(Protocol):
    """A task that answers in words."""

    def answer(self, batch: Batch, top: int = 5) -> list[list[tuple[str, float]]]: ...


@runtime_checkable
class Entails(Protocol):
    """A task that says whether a picture entails a sentence."""

    def entails(self, batch: Batch) -> list[dict[str, float]]: ...


@runtime_checkable
class Compares(Protocol):
    """A task that says whether a sentence is true of two pictures."""

    def compare(self, batch: Batch) -> list[dict[str, float]]: ...


@runtime_checkable
class Chooses(Protocol):
    """A task that chooses between answers to a question."""

    def choose(self, batch: Batch) -> list[list[float]]: ...


class Place(NamedTuple):
    """Where something may be."""

    box: tuple[float, float, float, float]  # xyxy in [0, 1]
    probability: float


@runtime_checkable
class Grounds(Protocol):
    """A task that points at what a text means."""

    def ground(self, batch: Batch, top: int = 5) -> Sequence[Sequence[tuple[Sequence[float], float]]]: ...


class Guess(NamedTuple):
    text: str
    probability: float


class Thing(NamedTuple):
    """Something found in a picture."""

    name: str
    probability: float
    box: tuple[float, float, float, float]  # xyxy in [0, 1]


class Look(NamedTuple):
    """How much of its attention the model's summary token gave to each piece of the picture."""

    weight_V: NDArray[np.float32]
    box_V4: NDArray[np.float32]  # xyxy in [0, 1]


class Moved(NamedTuple):
    """Where optimal transport takes each word of a text."""

    words: tuple[str, ...]
    weight_WV: NDArray[np.float32]  # the share of each word's mass on each piece of the picture
    box_V4: NDArray[np.float32]


class Reply(NamedTuple):
    """What `ask` found: the verb that answered, its guesses (best first), the picture as stored, and where it looked."""

    verb: str
    guesses: list[Guess]
    picture: NDArray[np.uint8]
    look: Look
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # where each guess is, if it is a place; xyxy in [0, 1]
