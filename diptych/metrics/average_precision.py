"""Average precision of detected boxes, as COCO counts it (Lin et al., ECCV 2014; its evaluation code).

    of one class, all pictures together: boxes from the surest to the least sure; each takes the annotated box of its picture and
    class that it overlaps most, among those still free, if by at least `iou`, and is right; or it takes none, and is wrong
    precision(r) = the best share of right ones at any recall >= r;   AP = its mean at r = 0, .01, ... 1
    mean over the classes that are annotated anywhere

A second box on the same thing is wrong. Boxes of equal score keep the order they are given in, pictures first: a detector that is
never sure earns what that order earns. A class that is detected and nowhere annotated costs nothing, as in COCO; nor are there
crowds or size ranges here: leave boxes that must not count out of both sides before. (Readers of COCO's files leave crowds out of
the truths, and a detection that lies on one is wrong here, where COCO would ignore it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST = 100  # boxes of one class in one picture that are looked at
IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.linspace(0, 1, 101)


class Truth(NamedTuple):
    """What is annotated in one picture."""

    box_R4: ArrayLike  # xyxy, in the same unit as the detections
    class_R: ArrayLike  # int; all equal where classes do not matter


class Detection(NamedTuple):
    """What is detected in one picture."""

    box_R4: ArrayLike
    class_R: ArrayLike
    score_R: ArrayLike  # any scale; larger is surer


def average_precision(detections: Sequence[Detection], truths: Sequence[Truth], iou: float = 0.5) -> float:
    """AP at one overlap, in percent, of pictures in the same order on both sides."""
    return _mean(by_class(detections, truths, (iou,)))


def coco(detections: Sequence[Detection], truths: Sequence[Truth]) -> dict[str, float]:
    """AP (the mean over ten overlaps from .5 to .95), AP50, AP75, in percent."""
    found = by_class(detections, truths, IOUS)
    at = {iou: _mean({name: ap_N[n : n + 1] for name, ap_N in found.items()}) for n, iou in enumerate(IOUS)}
    return {"AP": _mean(found), "AP50": at[IOUS[0]], "AP75": at[IOUS[5]]}


def by_class(detections: Sequence[Detection], truths: Sequence[Truth], ious: Sequence[float]) -> dict[int, NDArray[np.float64]]:
    """Of every annotated class, AP at each overlap, in [0, 1]."""
    if len(detections) != len(truths):
        raise ValueError(f"{len(detections)} pictures with detections, but {len(truths)} with truths")
    annotated: dict[int, int] = {}
    score: dict[int, list[NDArray]] = {}
    right: dict[int, list[NDArray]] = {}
    for detection, truth in zip(detections, truths, strict=True):
        true_S4, class_S = np.asarray(truth.box_R4, np.float64).reshape(-1, 4), np.asarray(truth.class_R, np.int64)
        box_R4, class_R = np.asarray(detection.box_R4, np.float64).reshape(-1, 4), np.asarray(detection.class_R, np.int64)
        score_R = np.asarray(detection.score_R, np.float64)
        for name, count in zip(*np.unique(class_S, return_counts=True), strict=True):
            annotated[int(name)] = annotated.get(int(name), 0) + int(count)
        for name in np.unique(class_R).tolist():
            order_R = np.flatnonzero(class_R == name)
            order_R = order_R[np.argsort(-score_R[order_R], kind="stable")][:MOST]
            score.setdefault(name, []).append(score_R[order_R])
            right.setdefault(name, []).append(_right(overlap(box_R4[order_R], true_S4[class_S == name]), ious))
    found = {}
    for name, count in sorted(annotated.items()):
        if name in score:
            order_R = np.argsort(-np.concatenate(score[name]), kind="stable")
            found[name] = np.array([_area(right_R[order_R], count) for right_R in np.concatenate(right[name], 1)])
        else:
            found[name] = np.zeros(len(ious))
    return found


def overlap(a_R4: NDArray[np.float64], b_S4: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R, S] common area over joint area; 0 where both are empty."""
    low_RS2 = np.maximum(a_R4[:, None, :2], b_S4[None, :, :2])
    high_RS2 = np.minimum(a_R4[:, None, 2:], b_S4[None, :, 2:])
    common_RS = (high_RS2 - low_RS2).clip(min=0).prod(2)
    area_R, area_S = ((box[:, 2:] - box[:, :2]).clip(min=0).prod(1) for box in (a_R4, b_S4))
    joint_RS = area_R[:, None] + area_S - common_RS
    return np.divide(common_RS, joint_RS, out=np.zeros_like(common_RS), where=joint_RS > 0)


def _right(overlap_RS: NDArray[np.float64], ious: Sequence[float]) -> NDArray[np.bool_]:
    """[N, R] at each of N overlaps, which detections take a truth; they come in the order of their score."""
    right_NR = np.zeros((len(ious), len(overlap_RS)), np.bool_)
    for n, least in enumerate(ious):
        free_RS = np.where(overlap_RS >= min(least, 1 - 1e-10), overlap_RS, -1.0)
        for r in np.flatnonzero((free_RS >= 0).any(1)):
            # of truths that are overlapped equally the last, as COCO's loop does
            s = free_RS.shape[1] - 1 - int(free_RS[r, ::-1].argmax())
            if free_RS[r, s] >= 0:
                right_NR[n, r] = True
                free_RS[:, s] = -1
    return right_NR


def _area(right_R: NDArray[np.bool_], count: int) -> float:
    found_R = right_R.cumsum()
    precision_R, recall_R = found_R / np.arange(1, len(right_R) + 1), found_R / count
    best_R = np.maximum.accumulate(precision_R[::-1])[::-1]
    at_P = np.searchsorted(recall_R, _RECALLS, side="left")
    return float(np.append(best_R, 0.0)[at_P].mean())  # beyond the last recall: 0


def _mean(found: dict[int, NDArray[np.float64]]) -> float:
    """In percent; without any annotated box there is nothing to find, and nothing is."""
    return 100 * float(np.mean([ap_N.mean() for ap_N in found.values()])) if found else 0.0
