"""Overlaps as refer counts them, pixel by pixel; VCR's three accuracies by hand."""

import itertools

import numpy as np
import pytest

from diptych.metrics import referring, vcr_accuracy
from diptych.metrics.vcr_accuracy import Right, judged


def slow_overlap(a, b):
    """x y w h -> the pixels x .. x + w - 1; common pixels count only where there are two columns and two rows of them at least."""

    def columns(box, side):
        return set(range(box[side], box[side + 2]))

    across, down = columns(a, 0) & columns(b, 0), columns(a, 1) & columns(b, 1)
    common = len(across) * len(down) if len(across) > 1 and len(down) > 1 else 0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (area - common) if area > common else 0.0


def test_overlap_is_that_of_counted_pixels():
    boxes = [(x, y, x + w, y + h) for x, y, w, h in itertools.product((0, 1, 3), (0, 2), (1, 2, 3, 5), (1, 2, 4))]
    pairs = [*itertools.product(boxes, boxes)]
    found = referring.overlap([a for a, _ in pairs], [b for _, b in pairs])
    np.testing.assert_allclose(found, [slow_overlap(a, b) for a, b in pairs])


def test_half_is_not_enough_and_a_line_is_never_found():
    whole, half, more = (0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 10, 5.01)
    assert referring.is_found([whole, half, more], [whole] * 3).tolist() == [True, False, True]
    pixel, column, nothing = (4, 4, 5, 5), (4, 4, 5, 20), (4, 4, 4, 4)
    assert referring.overlap([pixel, column, nothing], [pixel, column, nothing]).tolist() == [0, 0, 0]
    assert referring.overlap(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


def test_rationales_are_judged_beside_the_right_answer():
    beside = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.1, 0.1, 0.7, 0.1]]
    assert judged([0.1, 0.6, 0.2, 0.1], beside, 1, 0) == Right(True, True)
    assert judged([0.6, 0.1, 0.2, 0.1], beside, 1, 0) == Right(False, True), "the predicted answer's rationale would be wrong"
    assert judged([0.1, 0.6, 0.2, 0.1], beside, 1, 3) == Right(True, False)
    assert judged([0.1, 0.1, 0.7, 0.1], beside, 2, 0) == Right(True, True), "of four equal rationales it is the first"
    assert judged([float("nan"), 0.1, 0.7, 0.1], beside, 2, 3) == Right(True, False)
    assert judged([0.4, 0.4, 0.1, 0.1], [], 0, None) == Right(True, None), "the first of two"


def test_summary():
    told = [Right(True, True), Right(True, False), Right(False, True), Right(False, None)]
    assert vcr_accuracy.summary(told) == pytest.approx({"Q->A": 50, "QA->R": 200 / 3, "Q->AR": 100 / 3})
    assert vcr_accuracy.summary([Right(True, None)]) == {"Q->A": 100}
    assert vcr_accuracy.summary([]) == {}
