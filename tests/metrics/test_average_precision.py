"""Average precision by hand, and against a loop that follows COCO's evaluation code word for word."""

import numpy as np
import pytest

from diptych.metrics.average_precision import IOUS, Detection, Truth, average_precision, by_class, coco

ONE, TWO, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)
EMPTY = np.zeros((0, 4))


def ap(boxes, scores, truths, classes=None, iou=0.5):
    classes = classes or [0] * len(boxes)
    return average_precision([Detection(boxes, classes, scores)], [Truth(truths, [0] * len(truths))], iou)


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([ONE, TWO], [0.9, 0.8], 100),
        ([ONE], [0.9], 51),  # recall .5: 51 of 101 points
        ([FAR, ONE], [0.9, 0.8], 51 / 2),
        ([ONE, FAR], [0.9, 0.8], 51),  # a wrong box after the last right one costs nothing
        ([ONE, ONE, TWO], [0.9, 0.8, 0.7], 51 + 50 * 2 / 3),  # a second box on one thing is wrong
        ([FAR, ONE, TWO], [0.5, 0.9, 0.8], 100),  # the order is that of the scores
        ([FAR, ONE, TWO], [0.5, 0.5, 0.5], 101 * 2 / 3),  # ties: the order given; precision 1/2 is lifted to the later 2/3
        ([(0, 0, 10, 5)], [0.9], 51),  # an overlap of exactly one half
        ([(0, 0, 10, 4.9)], [0.9], 0),
        (EMPTY, [], 0),
    ],
)
def test_two_things_by_hand(boxes, scores, expected):
    assert ap(boxes, scores, [ONE, TWO]) == pytest.approx(expected * 100 / 101 if expected != 100 else 100)


def test_the_surest_box_takes_the_truth_it_overlaps_most():
    near, nearer = (0, 0, 10, 8), (0, 0, 10, 9)
    assert ap([nearer, near], [0.8, 0.9], [ONE]) == pytest.approx(100), "the surer one takes it, though the other fits better"
    assert ap([nearer], [0.9], [near, ONE], iou=0.9) == pytest.approx(100 * 51 / 101)


def test_classes():
    truths = [Truth([ONE, TWO], [3, 7]), Truth(EMPTY, []), Truth([ONE], [3])]
    detections = [Detection([ONE, TWO, FAR], [3, 3, 99], [0.9, 0.8, 1.0]), Detection([ONE], [7], [0.9]), Detection(EMPTY, [], [])]
    found = by_class(detections, truths, (0.5,))
    assert {name: ap_N.tolist() for name, ap_N in found.items()} == {3: pytest.approx([51 / 101]), 7: [0.0]}
    assert average_precision(detections, truths) == pytest.approx(100 * 51 / 202), (
        "class 99 is nowhere annotated: it does not count"
    )
    assert average_precision([], []) == 0
    assert average_precision([Detection(EMPTY, [], [])], [Truth([ONE], [0])]) == 0
    with pytest.raises(ValueError, match="1 pictures with detections, but 2"):
        average_precision([Detection(EMPTY, [], [])], [Truth(EMPTY, [])] * 2)


def slow_iou(a, b):
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slow(detections, truths, iou):
    """Class by class, picture by picture, box by box."""
    aps = []
    for name in sorted({c for truth in truths for c in truth.class_R}):
        entries, count = [], 0
        for detection, truth in zip(detections, truths, strict=True):
            real = [box for box, c in zip(truth.box_R4, truth.class_R, strict=True) if c == name]
            count += len(real)
            mine = [(-s, n, box) for n, (box, c, s) in enumerate(zip(*detection, strict=True)) if c == name]
            taken = set()
            for negative, _, box in sorted(mine, key=lambda entry: entry[:2]):
                best, place = min(iou, 1 - 1e-10), None
                for g, other in enumerate(real):
                    if g not in taken and slow_iou(box, other) >= best:
                        best, place = slow_iou(box, other), g
                taken.add(place)
                entries.append((negative, place is not None))
        entries.sort(key=lambda entry: entry[0])
        right, points = 0, []
        for n, (_, hit) in enumerate(entries, start=1):
            right += hit
            points.append((right / count, right / n))
        at = [max([p for r, p in points if r >= t / 100 - 1e-12], default=0) for t in range(101)]
        aps.append(sum(at) / 101)
    return 100 * sum(aps) / len(aps)


@pytest.mark.parametrize("seed", range(6))
def test_against_a_loop(seed):
    """Boxes on a coarse lattice and few scores: many equal overlaps and ties."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        low = rng.integers(0, 4, (n, 2))
        return np.concatenate([low, low + rng.integers(1, 4, (n, 2))], 1)

    truths = [Truth(boxes(n), rng.integers(0, 3, n)) for n in rng.integers(0, 6, 12)]
    detections = [Detection(boxes(n), rng.integers(0, 4, n), rng.integers(0, 5, n) / 5) for n in rng.integers(0, 15, 12)]
    each = {iou: slow(detections, truths, iou) for iou in IOUS}
    for iou in (0.5, IOUS[5], IOUS[-1]):
        assert average_precision(detections, truths, iou) == pytest.approx(each[iou])
    assert coco(detections, truths) == pytest.approx({"AP": np.mean(list(each.values())), "AP50": each[0.5], "AP75": each[IOUS[5]]})
