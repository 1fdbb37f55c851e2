"""What holds of a score whatever is scored: order means nothing, saying all twice means nothing, nothing has no score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.metrics import bleu, consistency, referring, vcr_accuracy, vqa_accuracy
from diptych.metrics.recall import recall, recall_in_folds

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 12)


def questions(rng: np.random.Generator, size: int) -> list[tuple]:
    score, kind = rng.choice([0, 0.3, 0.6, 0.9, 1], size), rng.choice(["is", "what", ""], size)
    return list(zip(score.tolist(), kind.tolist(), rng.choice(["yes/no", "other"], size).tolist(), strict=True))


@given(SEEDS, SIZES)
def test_vqa(seed, size):
    rng = np.random.default_rng(seed)
    asked = questions(rng, size)

    def summary(rows):
        score, kind, answer_type = zip(*rows, strict=True)
        return vqa_accuracy.summary(score, kind, answer_type, [""] * len(rows))

    once = summary(asked)
    assert summary([asked[n] for n in rng.permutation(size)]) == pytest.approx(once)
    assert summary(asked * 2) == pytest.approx(once)
    assert min(row[0] for row in asked) * 100 <= once["accuracy"] + 1e-9


@given(SEEDS, SIZES)
def test_nlvr2_and_vcr(seed, size):
    rng = np.random.default_rng(seed)
    right, sentence = rng.random(size) < 0.5, rng.integers(0, 4, size)
    once = consistency.summary(right.tolist(), sentence.tolist())
    assert consistency.summary(right.tolist() * 2, sentence.tolist() * 2) == once
    assert once["consistency"] <= 100 and (once["accuracy"] == 100) == (once["consistency"] == 100)
    judged = [vcr_accuracy.Right(bool(a), bool(b)) for a, b in rng.random((size, 2)) < 0.5]
    both = vcr_accuracy.summary(judged)
    for again in (judged[::-1], judged * 2):
        assert vcr_accuracy.summary(again) == pytest.approx(both)
    assert both["Q->AR"] <= min(both["Q->A"], both["QA->R"]) + 1e-9


@given(SEEDS, st.integers(1, 6), st.integers(1, 3))
def test_recall(seed, images, each):
    rng = np.random.default_rng(seed)
    score_IC, image_of_C = rng.normal(size=(images, images * each)), np.repeat(np.arange(images), each)
    once = recall(score_IC, image_of_C)
    new, order = rng.permutation(images), rng.permutation(images * each)
    assert recall(score_IC[new][:, order], np.argsort(new)[image_of_C][order]) == pytest.approx(once), "in another order"
    assert recall(np.exp(3 * score_IC - 1), image_of_C) == pytest.approx(once), "only the order of scores counts"
    if images > 1:
        assert recall(np.zeros_like(score_IC), image_of_C)["img_r1"] == 0, "a tie is no find"
    assert recall_in_folds(score_IC, image_of_C, 1) == pytest.approx(once)


def test_what_is_nothing_or_does_not_fit_is_refused():
    box = [0, 0, 10, 10]
    for score, said in (
        (lambda: vqa_accuracy.summary([], [], [], []), "of no question"),
        (lambda: vqa_accuracy.accuracy("x", []), "no annotator"),
        (lambda: consistency.summary([], []), "of no pair"),
        (lambda: recall([], []), "a column a caption"),
        (lambda: recall([[1, 2], [3, 4]], [0]), "a column a caption"),
        (lambda: recall([[1, 2], [3, 4]], [0, -1]), "captions of pictures -1 to 0"),
        (lambda: recall([[1, 2], [3, 4]], [0, 2]), "captions of pictures 0 to 2, and there are 0 to 1"),
        (lambda: recall_in_folds([[1, 2], [3, 4]], [0, 1], 3), "3 folds of 2 pictures"),
        (lambda: referring.overlap([box], [box, box]), "1 boxes beside 2"),
        (lambda: bleu.bleu(["a dog"], [[]]), "without any reference"),
    ):
        with pytest.raises(ValueError, match=said):
            score()
    assert vcr_accuracy.summary([]) == {}
