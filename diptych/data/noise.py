"""Noise, on purpose: a share of the texts of pre-training made to say nothing of their picture, or too little (`data.noise`).

    a third    another sample's text
    a third    boilerplate, what the web writes beside pictures: "IMG_0412.jpg", "Click to enlarge"
    a third    cut short: the first half of the words or, of one word, of the letters

What becomes of a text depends on (seed, place of its sample, place of the text) alone, so it is spoilt the same way whenever it is
drawn. A spoilt text has no marked phrases and no near text that is false. For the question that ALIGN asks (Jia et al., 2021): many
noisy pairs, or few clean ones? The embedded names can be composed with the same noise in their files (atelier/names.py).
"""

from __future__ import annotations

from dataclasses import replace

from diptych.contracts import Reader, Sample
from diptych.data.wrapped import Wrapped
from diptych.draw import Draw

BOILERPLATE = (
    "IMG_{n:04d}.jpg",
    "DSC{n:05d}",
    "image {n}",
    "Click to enlarge",
    "Photo: private",
    "untitled-{n}",
    "© all rights reserved",
)


class Noisy(Wrapped):
    """A reader whose texts are spoilt with probability `rate`."""

    def __init__(self, reader: Reader, rate: float, draw: Draw):
        super().__init__(reader)
        self._rate, self._draw = rate, draw

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader[index]
        count = len(sample.texts)
        if not count:
            return sample
        chance_T, kind_T, which_T = (self._draw.uniform(f"noise/{of}", index, count)[0] for of in ("rate", "kind", "which"))
        texts, phrases, false_texts = list(sample.texts), list(sample.phrases), list(sample.false_texts)
        for place in (chance_T < self._rate).nonzero()[0].tolist():
            texts[place] = self._spoilt(texts[place], index, float(kind_T[place]), float(which_T[place]))
            if phrases:
                phrases[place] = ()
            if false_texts:
                false_texts[place] = ""
        return replace(sample, texts=tuple(texts), phrases=tuple(phrases), false_texts=tuple(false_texts))

    def _spoilt(self, text: str, index: int, kind: float, which: float) -> str:
        if kind < 1 / 3 and len(self) > 1:
            other = int(which * (len(self) - 1))
            lent = self.reader[other + (other >= index)].texts
            return lent[int(which * 1e6) % len(lent)] if lent else boilerplate(which)
        return boilerplate(which) if kind < 2 / 3 else cut(text)


def boilerplate(which: float) -> str:
    """By a number in [0, 1)."""
    return BOILERPLATE[int(which * len(BOILERPLATE))].format(n=int(which * 1e9) % 10_000)


def cut(text: str) -> str:
    """The first half of its words or, of one word, of its letters."""
    words = text.split()
    return " ".join(words[: len(words) // 2]) if len(words) > 1 else text[: (len(text) + 1) // 2]
