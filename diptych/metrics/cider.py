"""CIDEr-D (Vedantam et al., CVPR 2015), as the field's evaluation code computes what it prints as "CIDEr".

    g_n(c) = of each n-gram: count * (log(pictures) - log(max(1, pictures with it in any reference)))              n = 1 ... 4
    sim_n(c, r) = sum over n-grams of min(g_n(c), g_n(r)) g_n(r) / (|g_n(c)| |g_n(r)|) * exp(-(l_c - l_r)^2 / (2 * 6^2))
    CIDEr-D = 10 * mean over pictures of the mean over references of the mean over n of sim_n

Peculiarities of that code which published numbers depend on, and which are kept:

* The document frequencies are those of the references that are scored: a score is one of a *set*, and one picture alone scores 0.
* The lengths l in the penalty count bigrams, not words.
* An n-gram that no reference has weighs as much as one that a single picture's have.

Words are those of its tokeniser (metrics/penn.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from diptych.metrics.penn import words

N, SIGMA = 4, 6.0


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Of each picture, its candidate against its references; the mean is what is reported, times 100 as papers print it."""
    candidate_I = [_grams(words(text)) for text in candidates]
    reference_I = [[_grams(words(text)) for text in texts] for texts in references]
    if len(candidate_I) != len(reference_I) or not all(reference_I):
        raise ValueError(f"{len(candidate_I)} candidates for {len(reference_I)} pictures, each with at least one reference")
    seen_in = Counter(gram for texts in reference_I for gram in {gram for text in texts for gram in text})
    pictures = math.log(max(len(reference_I), 1))
    weight = {gram: pictures - math.log(count) for gram, count in seen_in.items()}
    scores = []
    for candidate, texts in zip(candidate_I, reference_I, strict=True):
        mine = _weighed(candidate, weight, pictures)
        each = [_similarity(mine, _length(candidate), _weighed(text, weight, pictures), _length(text)) for text in texts]
        scores.append(10 * sum(each) / len(each))
    return scores


Gram = tuple[str, ...]


def _grams(tokens: Sequence[str]) -> Counter[Gram]:
    return Counter(tuple(tokens[at : at + n]) for n in range(1, N + 1) for at in range(len(tokens) - n + 1))


def _length(grams: Counter[Gram]) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _weighed(grams: Counter[Gram], weight: dict[Gram, float], unseen: float) -> list[dict[Gram, float]]:
    parts: list[dict[Gram, float]] = [{} for _ in range(N)]
    for gram, count in grams.items():
        parts[len(gram) - 1][gram] = count * weight.get(gram, unseen)
    return parts


def _similarity(candidate: list[dict[Gram, float]], length: int, reference: list[dict[Gram, float]], other: int) -> float:
    total = 0.0
    for c, r in zip(candidate, reference, strict=True):
        norms = math.sqrt(sum(v * v for v in c.values())) * math.sqrt(sum(v * v for v in r.values()))
        if norms:
            total += sum(min(v, r[gram]) * r[gram] for gram, v in c.items() if gram in r) / norms
    return total / N * math.exp(-((length - other) ** 2) / (2 * SIGMA**2))
