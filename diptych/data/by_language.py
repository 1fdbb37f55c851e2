"""Data in many languages: only some of them, and each as often as another.

    data.languages=[en,sw]     samples in these alone; a pair of texts is in both of its languages
    data.evenly=true           languages (or pairs of them) are drawn equally often, however many samples they have

A round of an even reader is as long as the largest language times the number of languages; the others begin again within it. Its
places are arithmetic, so nothing is stored and the sampler mixes and resumes it as any other. Samples of readers that know no
languages count as English.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from diptych.config import DataConfig, UserError, nearest
from diptych.contracts import Reader, Sample
from diptych.data.mixture import Source
from diptych.data.wrapped import Wrapped


class Spoken(Wrapped):
    """The samples of a reader in some of its languages."""

    def __init__(self, reader: Reader, languages: Sequence[str], index: Sequence[int]):
        super().__init__(reader)
        self.languages, self.index = languages, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        return self.reader[self.index[index]]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.reader.fingerprint} {' '.join(self.languages)}".encode()).hexdigest()


class Even(Wrapped):
    """The samples of a reader, language after language in turn."""

    def __init__(self, reader: Reader, index: Mapping[str, Sequence[int]]):
        super().__init__(reader)
        self.languages, self._index = sorted(index), [index[language] for language in sorted(index)]

    def __len__(self) -> int:
        return len(self._index) * max(map(len, self._index))

    def __getitem__(self, index: int) -> Sample:
        turn, language = divmod(index, len(self._index))
        own = self._index[language]
        return self.reader[own[turn % len(own)]]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.reader.fingerprint} evenly {' '.join(self.languages)}".encode()).hexdigest()


def by_language(sources: Sequence[Source], data: DataConfig, training: bool = True) -> list[Source]:
    """The sources as `data` wants them, with the shares that they had."""
    evenly = data.evenly and training
    if not sources or not (data.languages or evenly):
        return list(sources)
    chosen: list[Source] = []
    heard: set[str] = set()
    for source in sources:
        index: dict[str, list[int]] = {}  # by language, as samples have it
        for n in range(len(source.reader)):
            index.setdefault(source.reader[n].language, []).append(n)
        heard.update(part for language in index for part in language.split("-"))
        if data.languages:
            index = {language: own for language, own in index.items() if set(language.split("-")) <= set(data.languages)}
        if not index:
            continue
        if evenly:
            weight = sum(map(len, index.values())) if source.weight is None else source.weight
            chosen.append(Source(source.name, Even(source.reader, index), weight))
        else:
            kept = sorted(n for own in index.values() for n in own)
            chosen.append(Source(source.name, Spoken(source.reader, sorted(index), kept), source.weight))
    for language in data.languages:
        if language not in heard:
            raise UserError(f"data.languages: no sample in '{language}'{nearest(language, sorted(heard))}")
    if not chosen:
        raise UserError(f"data.languages: nothing is wholly in {', '.join(data.languages)}")
    return chosen
