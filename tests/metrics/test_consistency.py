"""NLVR2's consistency, by hand and against a loop over sentences as the official scorer runs it."""

import random

import pytest

from diptych.metrics.consistency import of_sentences, summary


def test_by_hand():
    right, sentence = [True, True, True, False, True], ["a", "b", "a", "b", "c"]
    assert of_sentences(right, sentence) == {"a": True, "b": False, "c": True}
    assert summary(right, sentence) == {"accuracy": 80.0, "consistency": pytest.approx(200 / 3)}
    assert summary([False], ["a"]) == {"accuracy": 0.0, "consistency": 0.0}


def test_the_official_way_whatever_the_order():
    chance = random.Random(0)
    rows = [(f"dev-{n // 4}-{n % 4}-{chance.randrange(2)}", chance.random() < 0.8) for n in range(200)]
    lists = {}
    for identifier, is_right in rows:  # the official code: split at "-", blank the third field, join, collect
        fields = identifier.split("-")
        fields[2] = ""
        lists.setdefault("-".join(fields), []).append(is_right)
    expected = 100 * sum(all(values) for values in lists.values()) / len(lists)
    for _ in range(3):
        chance.shuffle(rows)
        names = [f"{split}-{number}--{sentence}" for split, number, _, sentence in (name.split("-") for name, _ in rows)]
        found = summary([is_right for _, is_right in rows], names)
        assert found == {"accuracy": pytest.approx(100 * sum(r for _, r in rows) / 200), "consistency": pytest.approx(expected)}
