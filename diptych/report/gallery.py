"""Single cases, right and wrong, with their pictures: retrieval rows, answered questions, masked words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from diptych.report.overlay import Look, lit
from diptych.report.page import macro
from diptych.report.picture import img


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


def retrieved_pictures(queries: Sequence[TextQuery], most: int = 5) -> Markup:
    """One row a text: the first pictures found, the true one marked, or shown at the end where it ranked later."""
    rows = []
    for query in queries:
        shown = list(zip(query.pictures, query.scores, strict=True))[:most]
        late = query.truth is not None and query.rank > len(shown)
        rows.append(
            (
                query,
                [(img(picture, f"found {place}"), _score(score)) for place, (picture, score) in enumerate(shown, 1)],
                img(query.truth, "the true picture") if late and query.truth is not None else None,
            )
        )
    return _macro("text_queries", rows)


def retrieved_texts(queries: Sequence[ImageQuery], most: int = 5) -> Markup:
    """One row a picture: the first captions found, those that are true of it marked."""
    return _macro(
        "image_queries",
        [
            (
                query,
                img(query.picture, "the picture asked about"),
                [(text, _score(score), text in query.true_texts) for text, score in zip(query.texts, query.scores, strict=True)][
                    :most
                ],
            )
            for query in queries
        ],
    )


def answered_questions(questions: Sequence[Question], names: Mapping[str, str]) -> Markup:
    """One card a question. `names` maps arm key -> its name, in the order of their colours."""
    cards = []
    for question in questions:
        answers = [
            (
                name,
                tone,
                question.answers[key],
                _same(question.answers[key].text, question.truth),
                question.look is not None and key == question.look_of,
            )
            for tone, (key, name) in enumerate(names.items())
            if key in question.answers
        ]
        look = (
            ""
            if question.look is None
            else img(lit(question.picture, question.look), "the same picture in fog, clear where the model looked")
        )
        cards.append((question, img(question.picture, "the picture asked about"), look, answers))
    return _macro("questions", cards)


def filled_words(cards: Sequence[MaskedWord]) -> Markup:
    """One card a hidden word: what fills it with the picture and without."""
    return _macro(
        "masked_words",
        [
            (
                card,
                img(card.picture, "the picture of the caption"),
                ""
                if card.look is None
                else img(lit(card.picture, card.look), "the same picture in fog, clear where the model looked"),
            )
            for card in cards
        ],
    )


def _macro(name: str, rows: Sequence[object]) -> Markup:
    return macro("gallery.html", name, rows) if rows else Markup("")


def _same(answer: str, truth: str) -> bool:
    return answer.strip().lower() == truth.strip().lower()


def _score(score: float) -> str:
    return f"{score:.2f}".replace("-", "−")
