"""Scores with their uncertainty: bootstrap over groups, for one model or for the difference of two.

Questions about one scene are not independent, so *groups* are drawn with replacement, not questions (a cluster bootstrap; Davison
and Hinkley, "Bootstrap methods and their application", 1997, section 3.8). For each replicate of weights w over groups,

    mean of a type t = sum_g w_g S_gt / sum_g w_g C_gt        S, C: sum and number of the scores of type t in group g
    macro            = mean over types

and the interval runs from the 2.5th to the 97.5th percentile. The difference of two models is paired: both are scored with the
same replicates, on the questions that both answered.

Where a model was trained several times, with other seeds, a replicate draws groups first and then, with replacement, as many seeds
as there are; what is drawn is the same for both sides. (Few seeds say little of seeds: with three, a replicate is one and the same
run three times in a ninth of the cases.) One score serves all tasks alike, `headline`: the mean over types of the items' `score`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REPLICATES = 2000
ALL, MACRO, BY_TYPE = "accuracy", "macro", "question_type/"  # over all questions; mean over types; of one type

Item = Mapping[str, Any]  # key, group, type, and score in [0, 1] or scores {metric: in [0, 1]}


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def interval(values: NDArray[np.float64]) -> Interval:
    """The first value is the estimate itself, the others are replicates."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def intervals(items: Sequence[Item], seed: int = 0) -> dict[str, Interval]:
    """In percent: each metric of `scores`; for plain `score` over all, by type and macro."""
    return {name: interval(values) for name, values in _replicates(items, seed).items()}


def difference(ours: Sequence[Item], theirs: Sequence[Item], seed: int = 0) -> dict[str, Interval]:
    """Ours minus theirs, in points, for everything `intervals` gives."""
    common = {item["key"] for item in ours} & {item["key"] for item in theirs}
    a, b = (_replicates(sorted((i for i in items if i["key"] in common), key=_identity), seed) for items in (ours, theirs))
    return {name: interval(a[name] - b[name]) for name in a if name in b}


def headline(*runs: Sequence[Item], seed: int = 0) -> Interval:
    """In percent: the mean over types of the items' `score`, and over runs that differ in their seed."""
    return interval(_over_seeds(np.array([_headline(run, seed) for run in _of_all(runs)]), seed))


def gain(ours: Sequence[Sequence[Item]], theirs: Sequence[Sequence[Item]], seed: int = 0) -> Interval:
    """Ours minus theirs, in points of `headline`; run by run of the same seed, on the questions that all runs answered."""
    return contrast([(1.0, ours), (-1.0, theirs)], seed)


def contrast(sides: Sequence[tuple[float, Sequence[Sequence[Item]]]], seed: int = 0) -> Interval:
    """The sum over sides of share x `headline`, as `gain` has it of two: (share, runs by seed) of each."""
    shares, by_side = zip(*sides, strict=True)
    runs = _of_all([run for of_seed in zip(*by_side, strict=True) for run in of_seed])
    value_SNR = np.array([_headline(run, seed) for run in runs]).reshape(len(by_side[0]), len(sides), -1)
    return interval(_over_seeds(np.einsum("snr,n->sr", value_SNR, np.array(shares)), seed))


def _of_all(runs: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """Of each run the questions that all of them answered, in one order; a run alone stays as it is."""
    if len(runs) == 1:
        return [list(runs[0])]
    common = set.intersection(*({_identity(item) for item in run} for run in runs))
    return [sorted((item for item in run if _identity(item) in common), key=_identity) for run in runs]


def _headline(items: Sequence[Item], seed: int) -> NDArray[np.float64]:
    """[1 + REPLICATES]"""
    means = _replicates([{name: value for name, value in item.items() if name != "scores"} for item in items], seed)
    return means[MACRO] if MACRO in means else means[ALL]


def _over_seeds(value_SR: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[1 + REPLICATES] means over seeds: all of them first, then drawn ones."""
    seeds, columns = value_SR.shape
    drawn_RS = np.random.default_rng([seed, seeds]).integers(seeds, size=(columns, seeds))
    drawn_RS[0] = np.arange(seeds)
    return np.take_along_axis(value_SR.T, drawn_RS, axis=1).mean(1)


def _identity(item: Item) -> tuple[str, str]:
    return str(item["key"]), str(item.get("type", ""))


def _replicates(items: Sequence[Item], seed: int) -> dict[str, NDArray[np.float64]]:
    """Name -> [1 + REPLICATES] percentages; the first with every group once."""
    if not items:
        return {}
    groups = {name: g for g, name in enumerate(dict.fromkeys(str(item.get("group") or item["key"]) for item in items))}
    weight_RG = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), REPLICATES)
    weight_RG = np.concatenate([np.ones((1, len(groups))), weight_RG])
    columns: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}  # name -> sum and number of scores by group
    for item in items:
        g = groups[str(item.get("group") or item["key"])]
        for name, score in _scores(item).items():
            sum_G, count_G = columns.setdefault(name, (np.zeros(len(groups)), np.zeros(len(groups))))
            sum_G[g] += score
            count_G[g] += 1
    with np.errstate(invalid="ignore"):  # a replicate without any question of a rare type
        means = {name: 100 * (weight_RG @ sum_G) / (weight_RG @ count_G) for name, (sum_G, count_G) in columns.items()}
    types = [name for name in means if name.startswith(BY_TYPE)]
    if types:
        means[MACRO] = np.nanmean([means[name] for name in types], axis=0)  # of many types a replicate lacks some
    return means


def _scores(item: Item) -> Mapping[str, float]:
    if "scores" in item:
        return item["scores"]
    return {ALL: item["score"]} | ({f"{BY_TYPE}{item['type']}": item["score"]} if item.get("type") else {})
