"""NLVR2's two numbers (Suhr et al., ACL 2019, section 5), as the official scorer counts them.

accuracy       share of pairs told rightly
consistency    share of sentences that are told rightly of every pair they come with
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def of_sentences(is_right: Sequence[bool], sentence: Sequence[Hashable]) -> dict[Hashable, bool]:
    """Whether each sentence is told rightly of all its pairs, in the order in which they first come."""
    whole: dict[Hashable, bool] = {}
    for right, name in zip(is_right, sentence, strict=True):
        whole[name] = whole.get(name, True) and bool(right)
    return whole


def summary(is_right: Sequence[bool], sentence: Sequence[Hashable]) -> dict[str, float]:
    """In percent. Raises `ValueError` for no pair."""
    if not is_right:
        raise ValueError("an accuracy of no pair")
    whole = of_sentences(is_right, sentence)
    return {
        "accuracy": 100 * sum(map(bool, is_right)) / len(is_right),
        "consistency": 100 * sum(whole.values()) / len(whole),
    }
