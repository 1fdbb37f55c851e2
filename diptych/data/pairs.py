"""Sentences of documents packed into pairs, as BERT is trained on (Devlin et al., 2019, appendix A.2).

    document   s1 s2 s3 s4 s5 s6       sentences from a drawn one on that fill `max_tokens`, two at least: s2 s3 s4
    true       [CLS] s2 [SEP] s3 s4 [SEP]          cut at a drawn sentence
    false      [CLS] s2 [SEP] t4 t5 [SEP]          in the second part as many sentences of another document
    segment        0 0   0    1 1 1

Too long a pair loses tokens of its longer part, from the front or the end by a coin. Both pairs are made; objectives/nsp.py decides
which one a row shows. A document of one sentence has no next one: its true pair is that sentence alone, in segment 0.

    difference from google-research/bert's script      here
    all pairs are written to a file, several times     each draw packs one, by (seed, row) alone: no two epochs are alike
    chunks lie one after the other from sentence 1     a chunk begins at any sentence but the last
    a chunk of one long sentence is never followed     a chunk has two, and loses tokens
      by its next
    the false part fills what is left of the length,   the false part has as many sentences as the true one, so that
      where a true one may end with its document         lengths tell nothing in short documents
    sentences that a false pair leaves over are put    they come in other draws
      back for the next chunk
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diptych.contracts import Encoding, Sample

SPECIAL = 3  # [CLS] and twice [SEP]


class Pair(NamedTuple):
    encoding: Encoding  # without offsets: it is of no one text
    second: int  # place where segment 1 begins; the length where there is none


class _Token(NamedTuple):
    id: int
    word: int  # of its sentence; -1 for special tokens
    sentence: int


def pack(
    document: Sample,
    others: Sequence[Sample],
    encode: Callable[[str], Encoding],
    max_tokens: int,
    short: float,
    random: np.random.Generator,
) -> tuple[Pair, Pair | None]:
    """(true, false) pair of a document, `short` of the time in fewer tokens; no false one where `others` are all this document."""
    most = max(max_tokens - SPECIAL, 2)
    target = int(random.integers(2, most + 1)) if random.random() < short else most
    sentences = document.texts or ("",)
    chunk = _fill(sentences, int(random.integers(max(len(sentences) - 1, 1))), target, encode)
    cut = int(random.integers(1, max(len(chunk), 2)))
    first, second = chunk[:cut], chunk[cut:]
    cls, *_, sep = encode("").ids
    true = _join(first, second, target, cls, sep, random)
    other = next((other for other in others if other.texts and _name(other) != _name(document)), None)
    if other is None:
        return true, None
    wanted = max(len(second), 1)
    start = int(random.integers(max(len(other.texts) - wanted, 0) + 1))
    foreign = [_tokens(other.texts, place, encode) for place in range(start, min(start + wanted, len(other.texts)))]
    return true, _join(first, foreign, target, cls, sep, random)


def _name(sample: Sample) -> str:
    return sample.group or sample.key


def _fill(sentences: Sequence[str], start: int, target: int, encode: Callable[[str], Encoding]) -> list[list[_Token]]:
    """Sentences from `start` on until they hold `target` tokens; two at least, if there are two."""
    chunk: list[list[_Token]] = []
    length = 0
    for place in range(start, len(sentences)):
        chunk.append(_tokens(sentences, place, encode))
        length += len(chunk[-1])
        if length >= target and len(chunk) > 1:
            break
    return chunk


def _tokens(sentences: Sequence[str], place: int, encode: Callable[[str], Encoding]) -> list[_Token]:
    found = encode(sentences[place])
    return [_Token(i, word, place) for i, word in zip(found.ids[1:-1], found.words[1:-1], strict=True)]


def _join(
    first: Sequence[Sequence[_Token]],
    second: Sequence[Sequence[_Token]],
    target: int,
    cls: int,
    sep: int,
    random: np.random.Generator,
) -> Pair:
    a, b = ([token for sentence in part for token in sentence] for part in (first, second))
    while len(a) + len(b) > target:
        longer = a if len(a) > len(b) else b
        del longer[0 if random.random() < 0.5 else -1]
    ids = [cls, *(token.id for token in a), sep]
    words = [-1, *_numbered(a, 0), -1]
    place = len(ids)
    if b:
        ids += [*(token.id for token in b), sep]
        words += [*_numbered(b, 1 + max(words)), -1]
    return Pair(Encoding(ids, words, [(0, 0)] * len(ids)), place)


def _numbered(tokens: Sequence[_Token], start: int) -> list[int]:
    """Words counted from `start` without gaps, whatever was cut away between them."""
    number: dict[tuple[int, int], int] = {}
    return [-1 if token.word < 0 else number.setdefault((token.sentence, token.word), start + len(number)) for token in tokens]
