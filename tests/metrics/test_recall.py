"""Recall both ways, by hand and against a loop over queries that sorts its candidates."""

import numpy as np
import pytest

from diptych.metrics import recall as module
from diptych.metrics.recall import ranks, recall, recall_in_folds


def test_by_hand():
    """Two pictures; the first has captions 0 and 1, the second caption 2."""
    score = [[0.1, 0.9, 0.5], [0.3, 0.2, 0.4]]
    text_rank, image_rank = ranks(score, [0, 0, 1])
    assert text_rank.tolist() == [0, 0], "picture 0 is served by its second caption; 0.4 is the best of picture 1"
    assert image_rank.tolist() == [1, 0, 1]
    found = recall(score, [0, 0, 1], ks=(1, 2))
    assert found == pytest.approx(
        {"txt_r1": 100, "txt_r2": 100, "img_r1": 100 / 3, "img_r2": 100, "r_mean": 250 / 3, "rsum": 1000 / 3}
    )


def slow_ranks(score, image_of):
    """One query at a time; right answers sort behind wrong ones of the same score."""
    texts, images = [], []
    for i in range(len(score)):
        order = sorted(range(len(image_of)), key=lambda c: (-score[i][c], image_of[c] == i))
        texts.append(
            next((n - sum(image_of[c] == i for c in order[:n]) for n, c in enumerate(order) if image_of[c] == i), len(image_of))
        )
    for c in range(len(image_of)):
        order = sorted(range(len(score)), key=lambda i: (-score[i][c], i == image_of[c]))
        images.append(order.index(image_of[c]))
    return texts, images


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_against_a_loop(seed, levels, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    rng = np.random.default_rng(seed)
    image_of = rng.integers(0, 7, 20)
    score = rng.integers(0, levels, (7, 20)).astype(np.float32)
    text_rank, image_rank = ranks(score, image_of)
    slow_text, slow_image = slow_ranks(score.tolist(), image_of.tolist())
    assert text_rank.tolist() == slow_text
    assert image_rank.tolist() == slow_image


def test_a_constant_or_broken_score_earns_nothing():
    image_of = np.repeat(np.arange(20), 5)
    for score in (np.zeros((20, 100)), np.full((20, 100), np.nan), np.full((20, 100), -np.inf)):
        assert recall(score, image_of)["rsum"] == 0
    assert recall(image_of[None] == np.arange(20)[:, None], image_of)["rsum"] == 600


def test_folds_are_galleries_of_their_own():
    rng = np.random.default_rng(0)
    score, image_of = rng.random((10, 50)), np.repeat(np.arange(10), 5)
    halves = [recall(score[:5, :25], image_of[:25]), recall(score[5:, 25:], image_of[25:] - 5)]
    assert recall_in_folds(score, image_of, 2) == pytest.approx(
        {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    )
    assert recall_in_folds(score, image_of, 1) == recall(score, image_of)
