"""VCR's three accuracies (Zellers et al., 2019): Q->A, QA->R and Q->AR, as the leaderboard counts them.

    Q->A    the likeliest of four answers is right                                chance .25
    QA->R   the likeliest of four rationales is, beside the *right* answer        chance .25
    Q->AR   both at once, for a question                                          chance .0625

Rationales are always judged beside the right answer, also in Q->AR: where the answer was wrong, Q->AR is lost anyhow, and where
it was right the right answer is the predicted one. QA->R would be another number with the predicted answer. A tie is lost: a
likeliest choice must be so alone (published code takes the first, so four equal scores earn what stands first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Right(NamedTuple):
    """Of one question; None where nothing tells."""

    answer: bool
    rationale: bool | None

    @property
    def both(self) -> bool | None:
        return None if self.rationale is None else self.answer and self.rationale


def judged(answer_K: ArrayLike, rationale_KJ: Sequence[ArrayLike], right: int, right_rationale: int | None) -> Right:
    """answer_K: scores of the answers; rationale_KJ: of the rationales beside each answer in turn, or nothing."""
    if right_rationale is None or not len(rationale_KJ):
        return Right(_is_best(answer_K, right), None)
    return Right(_is_best(answer_K, right), _is_best(rationale_KJ[right], right_rationale))


def summary(judgements: Sequence[Right]) -> dict[str, float]:
    """In percent, by the names that papers use; what was never asked is left out."""
    asked = {
        "Q->A": [one.answer for one in judgements],
        "QA->R": [one.rationale for one in judgements if one.rationale is not None],
        "Q->AR": [one.both for one in judgements if one.both is not None],
    }
    return {name: 100 * float(np.mean(values)) for name, values in asked.items() if values}


def _is_best(scores: ArrayLike, place: int) -> bool:
    score_K = np.asarray(scores, np.float64)
    return bool((np.delete(score_K, place) < score_K[place]).all())
