"""The official scorer's strings, and its leave-one-out mean against the loop that the paper writes down."""

import random

import pytest

from diptych.metrics import vqa_accuracy
from diptych.metrics.vqa_accuracy import accuracy, normalised, share, summary, ten


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Yes", "yes"),
        ("  the Red\tdog\n", "red dog"),
        ("two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes are missing
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("Im", "im"),  # the entry has a capital
        ("t-shirt", "t shirt"),  # a mark between letters becomes a blank
        ("red - blue", "red blue"),  # beside a blank it vanishes
        ("left-hand side - no", "lefthand side no"),  # one such mark decides for all of its kind
        ("1,000", "1000"),
        ("1,000 t-shirts/day", "1000 tshirtsday"),  # a comma between digits makes every mark vanish
        ("3.5 p.m.", "3.5 pm"),
        ("." * 40 + "x", "." * 8 + "x"),  # 32 periods at most
        ("what's up?", "what's up"),  # apostrophes and colons are no punctuation here
        ("10:30", "10:30"),
        ("a an the", ""),
    ],
)
def test_predictions_are_normalised_as_officially(given, expected):
    assert normalised(given) == expected


def test_annotators_are_normalised_only_where_they_differ():
    assert accuracy("t-shirt", ["t-shirt"] * 10) == 0, "identical answers keep their mark, the prediction loses it"
    assert accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert accuracy("two", ["two"] * 10) == 0, "the prediction becomes 2, the annotators' answer does not"
    assert accuracy("two", ["2"] * 10) == 1
    assert accuracy("The Zoo", ["Zoo"] * 5 + ["zoo"] * 5) == 1


def leave_one_out(prediction, answers):
    """As the paper writes it."""
    scores = []
    for left_out in range(len(answers)):
        agreeing = sum(answer == prediction for i, answer in enumerate(answers) if i != left_out)
        scores.append(min(1, agreeing / 3))
    return sum(scores) / len(scores)


def test_the_closed_form_equals_the_loop():
    rng = random.Random(0)
    for _ in range(200):
        answers = [rng.choice("rgb") for _ in range(rng.choice([10, 10, 7, 3]))]
        assert accuracy("r", answers) == pytest.approx(leave_one_out("r", answers))
    assert [share(n) for n in range(6)] == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_few_answers_stand_for_ten():
    assert ten(["red"]) == ("red",) * 10
    assert accuracy("red", ten(["red", "crimson"])) == accuracy("crimson", ten(["red", "crimson"])) == 1
    assert ten(list("abcdefghijk")) == tuple("abcdefghijk")


def test_the_summary_by_hand():
    metrics = summary(
        [1, 0.3, 1, 0, 1], ["is", "is", "is", "how", ""], ["yes/no", "yes/no", "other", "number", ""], ["a", "a", "b", "c", "b"]
    )
    assert metrics == pytest.approx(
        {
            "accuracy": 66.0,
            "macro": (100 * 2.3 / 3 + 0) / 2,
            "pair": (30 + 100) / 2,  # c is not complete
            "answer_type/number": 0.0,
            "answer_type/other": 100.0,
            "answer_type/yes/no": 65.0,
            "question_type/how": 0.0,
            "question_type/is": 100 * 2.3 / 3,
        }
    )
    assert list(summary([1.0], [""], [""], [""])) == ["accuracy"]


def test_contractions_are_those_with_one_apostrophe_missing():
    table = vqa_accuracy._COMPLETED
    assert len(table) == 114
    assert all(full.replace("'", "") == short.replace("'", "") for short, full in table.items())
    assert "shed" not in table, "a word of its own"
    assert "ill" not in table
