"""Intervals by resampling groups, against a slow loop and against the formula where one exists."""

import numpy as np
import pytest

from diptych.train import evaluate
from diptych.train.evaluate import difference, intervals


def questions(groups: int = 60, seed: int = 0, gain: float = 0.0) -> list[dict]:
    """Scenes with a common difficulty, each asked three kinds of question."""
    rng = np.random.default_rng(seed)
    items = []
    for g in range(groups):
        ease = rng.random()
        for kind, count in (("colour", 1), ("count", 2), ("exist", 3)):
            for n in range(count):
                score = float(rng.random() < min(1, ease + gain))
                items.append({"key": f"{g}-{kind}-{n}", "group": str(g), "type": kind, "score": score})
    return items


def test_estimates_are_the_plain_means():
    items = questions()
    found = intervals(items)
    by_type = {t: 100 * np.mean([i["score"] for i in items if i["type"] == t]) for t in ("colour", "count", "exist")}
    assert found["accuracy"].value == pytest.approx(100 * np.mean([item["score"] for item in items]))
    assert found["macro"].value == pytest.approx(np.mean(list(by_type.values())))
    assert {name: found[f"question_type/{name}"].value for name in by_type} == pytest.approx(by_type)
    assert found == intervals(items)


def test_replicates_equal_a_loop_over_drawn_groups(monkeypatch):
    monkeypatch.setattr(evaluate, "REPLICATES", 25)
    items = questions(12)
    replicates = evaluate._replicates(items, seed=4)
    weight_RG = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), 25)
    for r, weight_G in enumerate(weight_RG):
        drawn = [item for g, times in enumerate(weight_G) for item in items if item["group"] == str(g) for _ in range(times)]
        assert replicates["accuracy"][r + 1] == pytest.approx(100 * np.mean([item["score"] for item in drawn]))
        kinds = [[i["score"] for i in drawn if i["type"] == t] for t in ("colour", "count", "exist")]
        assert replicates["macro"][r + 1] == pytest.approx(100 * np.mean([np.mean(scores) for scores in kinds]))


def test_independent_questions_give_the_binomial_interval_and_groups_a_wider_one():
    items = questions(400)
    alone = intervals([{"key": item["key"], "score": item["score"]} for item in items])["accuracy"]
    p = alone.value / 100
    assert alone.high - alone.low == pytest.approx(2 * 196 * np.sqrt(p * (1 - p) / len(items)), rel=0.1)
    together = intervals(items)["accuracy"]
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_a_paired_difference_is_sharper_than_two_intervals():
    ours, theirs = questions(gain=0.15), questions()
    found = difference(ours, list(reversed(theirs)))["macro"]
    a, b = intervals(ours)["macro"], intervals(theirs)["macro"]
    assert found.value == pytest.approx(a.value - b.value)
    assert found.low > 0
    assert found.high - found.low < min(a.high - a.low, b.high - b.low)
    assert difference(theirs, theirs)["accuracy"] == (0, 0, 0)


def test_items_with_several_scores_are_metrics_by_name():
    items = [{"key": str(n), "scores": {"txt_r1": n % 2, "txt_r5": 1.0}} for n in range(50)]
    found = intervals(items)
    assert set(found) == {"txt_r1", "txt_r5"}
    assert found["txt_r1"].low < found["txt_r1"].value == 50 < found["txt_r1"].high
    assert found["txt_r5"] == (100, 100, 100)
    assert intervals([]) == {}


def runs(seeds: int, gain: float = 0.0) -> list[list[dict]]:
    """The same questions, answered by models that differ in their seed."""
    return [questions(12, seed, gain) for seed in range(seeds)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_gain_over_seeds_equals_a_loop_over_drawn_groups_and_then_seeds(monkeypatch, seeds):
    monkeypatch.setattr(evaluate, "REPLICATES", 25)
    ours, theirs = runs(seeds, 0.2), runs(seeds)
    names = sorted({item["key"] for item in ours[0]})
    groups = list(dict.fromkeys(key.partition("-")[0] for key in names))  # in the order in which sorted questions name them
    weight_RG = np.random.default_rng(4).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), 25)
    drawn_RS = np.random.default_rng([4, seeds]).integers(seeds, size=(26, seeds))[1:]

    def macro(items: list[dict], weight_G) -> float:
        weights = dict(zip(groups, weight_G, strict=True))
        kinds = []
        for kind in ("colour", "count", "exist"):
            scores = [item["score"] for item in items if item["type"] == kind for _ in range(weights[item["group"]])]
            kinds.append(np.mean(scores))
        return 100 * float(np.mean(kinds))

    values = [
        np.mean([macro(ours[s], weight_G) - macro(theirs[s], weight_G) for s in drawn_S])
        for weight_G, drawn_S in zip(weight_RG, drawn_RS, strict=True)
    ]
    found = evaluate.gain(ours, [list(reversed(run)) for run in theirs], seed=4)
    ones = np.ones(len(groups), int)
    assert found.value == pytest.approx(np.mean([macro(a, ones) - macro(b, ones) for a, b in zip(ours, theirs, strict=True)]))
    assert found[1:] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert evaluate.gain(ours, ours) == (0, 0, 0)


def test_one_seed_is_the_paired_difference_and_the_headline_takes_the_score_whatever_else_an_item_has():
    ours, theirs = questions(gain=0.15), questions()
    assert evaluate.gain([ours], [theirs]) == pytest.approx(difference(ours, theirs)["macro"])
    assert evaluate.headline(ours) == pytest.approx(intervals(ours)["macro"])
    ranked = [{**item, "scores": {"img_r1": 0.0}} for item in ours]
    assert evaluate.headline(ranked) == evaluate.headline(ours)
    assert evaluate.headline(ours, ours).value == pytest.approx(evaluate.headline(ours).value)


def test_questions_that_one_run_lacks_are_left_out_of_all():
    ours, theirs = questions(20), questions(20, seed=1)
    few = [item for item in ours if item["type"] != "count"]
    assert evaluate.gain([few], [theirs]) == evaluate.gain([few], [[i for i in theirs if i["type"] != "count"]])
