"""BLEU-4 (Papineni et al., ACL 2002) of a set of captions, as the field's evaluation code computes it for the whole corpus.

BLEU-4 = min(1, exp(1 - r / c)) * (p_1 p_2 p_3 p_4) ^ (1/4)
p_n: of all candidates' n-grams, the share that is in a reference, each counted at most as often as in one reference
c: words of all candidates;  r: words of the references nearest in length (of two as near, the shorter)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from diptych.metrics.penn import words

N = 4


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """In [0, 1]; 0 where not one 4-gram of all candidates is right. Raises `ValueError` for a candidate without references."""
    if not all(references):
        raise ValueError("a text without any reference")
    right, given, written, wanted = [0] * N, [0] * N, 0, 0
    for text, texts in zip(candidates, references, strict=True):
        mine, others = words(text), [words(other) for other in texts]
        written += len(mine)
        wanted += min((abs(len(other) - len(mine)), len(other)) for other in others)[1]
        for n in range(N):
            counts, most = _grams(mine, n + 1), Counter[tuple[str, ...]]()
            for other in others:
                most |= _grams(other, n + 1)
            right[n] += sum((counts & most).values())
            given[n] += sum(counts.values())
    if not all(right):
        return 0.0
    precision = math.exp(sum(math.log(a / b) for a, b in zip(right, given, strict=True)) / N)
    return precision * min(1.0, math.exp(1 - wanted / written))


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))
