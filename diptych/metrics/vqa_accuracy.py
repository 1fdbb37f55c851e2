"""The accuracy of visual question answering (Antol et al., ICCV 2015) exactly as the official scorer counts it.

    accuracy(a) = mean over annotators i of min(1, #{j != i : answer_j = a} / 3)     of ten: 0 .3 .6 .9 1 for 0 1 2 3 >= 4

Published numbers depend on how strings are compared, so the official scorer's peculiarities (github.com/GT-Vision-Lab/VQA) stay:

* A prediction has its punctuation, number words, articles and contractions normalised; the annotators' answers only their
  punctuation, and not even that where all ten are identical. So "two" never matches an annotator's "two", for it becomes "2",
  and an annotator's "The Zoo" is matched by nothing.
* A punctuation mark becomes nothing where it stands beside a blank somewhere in the answer, and a blank otherwise; one comma
  between digits anywhere makes every mark become nothing.
* At most 32 periods are removed (a flag given where a count is expected), those not followed by a digit.
* A contraction whose entry has a capital (Im, Ive) is never completed, because the words are in lower case by then.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MARKS = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the look-ahead "(?!<=" was meant as a look-behind: it excludes nothing
_PERIODS = int(re.UNICODE)  # 32
_COMMA = re.compile(r"\d,\d")
_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(n) for n, word in enumerate(_WORDS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}

# Completed where any single apostrophe is missing; the rest of the official table is irregular or without effect.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
    how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
    'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
_COMPLETED = {
    full[:at] + full[at + 1 :]: full for full in _CONTRACTIONS.split() for at, letter in enumerate(full) if letter == "'"
} | {"somebody'd": "somebodyd"}


def without_punctuation(text: str) -> str:
    is_number = _COMMA.search(text) is not None
    stripped = text
    for mark in _MARKS:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_blank or is_number else " ")
    return _PERIOD.sub("", stripped, count=_PERIODS)


def normalised(answer: str) -> str:
    """A prediction as the scorer sees it."""
    words = [
        _NUMBERS.get(word, word)
        for word in without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    ]
    return " ".join(_COMPLETED.get(word, word) for word in words if word not in _ARTICLES)


def truths(answers: Sequence[str]) -> list[str]:
    """The annotators' answers as the scorer sees them."""
    return [without_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else list(answers)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Of one question, in [0, 1]. Raises `ValueError` for one that nobody has answered."""
    if not answers:
        raise ValueError("a question that no annotator has answered has no accuracy")
    return share(truths(answers).count(normalised(prediction)), len(answers))


def share(agreeing: int, annotators: int = 10) -> float:
    """The leave-one-out mean in closed form: `agreeing` annotators see one agreement less than the others do."""
    others = annotators - agreeing
    return (agreeing * min(1.0, max(agreeing - 1, 0) / 3) + others * min(1.0, agreeing / 3)) / annotators


def ten(answers: Sequence[str]) -> tuple[str, ...]:
    """Ten annotators from the few answers of own data, each in turn: one answer ten times, or two that are both fully right."""
    return tuple(answers[n % len(answers)] for n in range(10)) if len(answers) < 10 else tuple(answers)


def by(kind: Sequence[str], score: NDArray[np.float64]) -> dict[str, float]:
    """Mean score of each kind, in percent, by name; questions of no kind are left out."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(kind, score.tolist(), strict=True):
        if name:
            groups[name].append(value)
    return {name: 100 * float(np.mean(values)) for name, values in sorted(groups.items())}


def of_pairs(pair: Sequence[str], score: NDArray[np.float64]) -> dict[str, float]:
    """Of each complementary pair that is complete, the lower of its two scores: right only where both pictures were looked at."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(pair, score.tolist(), strict=True):
        if name:
            groups[name].append(value)
    return {name: min(values) for name, values in groups.items() if len(values) == 2}


def summary(
    score: Sequence[float], question_type: Sequence[str], answer_type: Sequence[str], pair: Sequence[str]
) -> dict[str, float]:
    """Everything that is reported of one split, in percent.

    accuracy: the official overall number. macro: mean over question types, where types differ in size or chance.
    pair: complementary pairs with both answers right. Raises `ValueError` for no question.
    """
    score_Q = np.asarray(score, dtype=np.float64)
    if not len(score_Q):
        raise ValueError("an accuracy of no question")
    metrics = {"accuracy": 100 * float(score_Q.mean())}
    types = by(question_type, score_Q)
    if types:
        metrics["macro"] = float(np.mean(list(types.values())))
    pairs = of_pairs(pair, score_Q)
    if pairs:
        metrics["pair"] = 100 * float(np.mean(list(pairs.values())))
    metrics |= {f"answer_type/{name}": value for name, value in by(answer_type, score_Q).items()}
    return metrics | {f"question_type/{name}": value for name, value in types.items()}
