"""Filters for pairs from the web, counted before anything is trained: what a set of rules would leave of a data set.

    align   ALIGN (Jia et al., ICML 2021, section 3), in the order in which a pair is judged; it counts for the first rule it breaks
            picture   a short side of more than 200 pixels; sides of less than 1 : 3; at most 1,000 texts beside it; no near
                      duplicate of a picture that is evaluated on (data/sketch.py; the paper does not say how it found them)
            text      beside at most 10 pictures; 3 to 20 words; no word and no pair of neighbours but the 100 million commonest

Two passes over the texts, for what is rare or common is known at the end only. Of pictures no more than their heads are read, if
there are no evaluated ones to compare them with. The paper's last rule needs a model that knows pornography, which is not here. A
picture that cannot be read is told by `data check` itself and breaks no rule here.

Words are runs of letters and digits in lower case; where a language writes no blanks, a text is few words, and `least_words` is to
be lowered. At most so many grams are kept as `grams` says, by count and then in the order they were met.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from diptych import config
from diptych.contracts import Reader, Sample
from diptych.data.picture import BrokenPicture, upright_size
from diptych.data.sketch import Sketches, sketch

_WORD = re.compile(r"[^\W_]+")


class Align(config.Config):
    short: NonNegativeInt = 200  # pixels that the short side exceeds
    ratio: PositiveFloat = 3.0  # that the long side over the short one stays below
    texts: PositiveInt = 1000  # beside one picture, at most
    near: NonNegativeInt = 6  # of 256 bits, in which near duplicates differ at most: scenes that have nothing in common differ in 9
    pictures: PositiveInt = 10  # beside one text, at most
    least_words: NonNegativeInt = 3
    most_words: PositiveInt = 20
    grams: PositiveInt = 100_000_000  # words and pairs of neighbours that are common enough


RULES = {"align": Align}
ORDER = (
    "short side",
    "ratio of sides",
    "texts beside the picture",
    "near duplicates",
    "pictures beside the text",
    "words",
    "rare words",
)


def count(readers: Sequence[Reader], rules: Align, evaluated: Sequence[Reader] = ()) -> dict[str, int]:
    """How many pairs each rule takes away, how many there are, and how many stay; `evaluated` has no picture that is trained on."""
    grams: Counter[str] = Counter()
    pictures_of: dict[str, set[str]] = {}  # text -> pictures, up to one too many
    texts_of: Counter[str] = Counter()
    for picture, _, text in _pairs(readers):
        grams.update(_grams(text))
        texts_of[picture] += 1
        beside = pictures_of.setdefault(text, set())
        if len(beside) <= rules.pictures:
            beside.add(picture)
    common = {gram for gram, _ in grams.most_common(rules.grams)} if len(grams) > rules.grams else grams.keys()
    tested = Sketches(bits_4 for source in _pictures(evaluated) if (bits_4 := _sketch(source)) is not None)
    sizes: dict[str, tuple[int, int] | None] = {}
    is_near: dict[str, bool] = {}
    taken: Counter[str] = Counter()
    total = 0
    for picture, source, text in _pairs(readers):
        total += 1
        if picture not in sizes:
            sizes[picture] = upright_size(source)
            bits_4 = _sketch(source) if len(tested) else None
            is_near[picture] = bits_4 is not None and tested.near(bits_4, rules.near)
        size, words = sizes[picture], len(_words(text))
        is_broken = (
            size is not None and min(size) <= rules.short,
            size is not None and max(size) >= rules.ratio * min(size),
            texts_of[picture] > rules.texts,
            is_near[picture],
            len(pictures_of[text]) > rules.pictures,
            not rules.least_words <= words <= rules.most_words,
            any(gram not in common for gram in _grams(text)),
        )
        taken.update([rule for rule, broken in zip(ORDER, is_broken, strict=True) if broken][:1])
    return {"pairs": total, **{rule: taken[rule] for rule in ORDER}, "kept": total - taken.total()}


def _pairs(readers: Sequence[Reader]) -> Iterator[tuple[str, Path | bytes, str]]:
    """(name of the picture, where it is, text) of all that have both."""
    for reader in readers:
        samples: Iterator[Sample] = (reader[index] for index in range(len(reader)))
        for sample in samples:
            for source in sample.images[:1]:
                name = str(source) if isinstance(source, Path) else sample.key
                yield from ((name, source, text) for text in sample.texts)


def _pictures(readers: Sequence[Reader]) -> Iterator[Path | bytes]:
    """Each once, as far as its path tells."""
    seen: set[Path] = set()
    for reader in readers:
        samples: Iterator[Sample] = (reader[index] for index in range(len(reader)))
        for source in (source for sample in samples for source in sample.images):
            if not (isinstance(source, Path) and source in seen):
                yield source
            if isinstance(source, Path):
                seen.add(source)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(text: str) -> list[str]:
    words = _words(text)
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


def _sketch(source: Path | bytes) -> NDArray[np.uint64] | None:
    try:
        return sketch(source)
    except BrokenPicture:
        return None


def said(counts: Mapping[str, Any], name: str) -> list[str]:
    """For a person."""
    total = max(counts["pairs"], 1)
    heading = f"  cleaned by the rules of {name}: {counts['kept']:,} of {counts['pairs']:,} pairs stay"
    return [heading, *(f"    {n:>10,}  {n / total:6.1%}  {rule}" for rule, n in counts.items() if rule not in ("pairs", "kept"))]
