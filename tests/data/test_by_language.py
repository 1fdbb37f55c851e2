"""Some languages of many, and each as often as another."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diptych.config import DataConfig, UserError
from diptych.contracts import Sample
from diptych.data.by_language import by_language
from diptych.data.mixture import Mixture, Source
from diptych.draw import Draw


class Rows(list[Sample]):
    fingerprint = "rows"


NAMES = Rows(
    Sample(f"{language}{n}", texts=("x",), language=language)
    for language, count in (("en", 90), ("sw", 9), ("uk", 1))
    for n in range(count)
)
PAIRS = Rows(Sample(f"{pair}{n}", texts=("x", "y"), language=pair) for pair in ("en-sw", "en-uk") for n in range(4))
SOURCES = [Source("names", NAMES, 2.0), Source("pairs", PAIRS, 1.0)]


def drawn(sources: list[Source], draws: int = 6000) -> Counter[str]:
    mixture = Mixture(sources, Draw(0))
    places = zip(*mixture.locate(np.arange(draws)), strict=True)
    return Counter(sources[source].reader[int(index)].language for source, index in places)


def test_unasked_for_nothing_changes():
    assert by_language(SOURCES, DataConfig()) == SOURCES


def test_only_some():
    names, pairs = by_language(SOURCES, DataConfig(languages=("en", "uk")))
    assert {sample.language for sample in names.reader} == {"en", "uk"} and len(names.reader) == 91
    assert {sample.language for sample in pairs.reader} == {"en-uk"}, "a pair is in both of its languages"
    assert (names.weight, pairs.weight) == (2.0, 1.0)
    assert len({names.reader.fingerprint, by_language(SOURCES, DataConfig(languages=("en",)))[0].reader.fingerprint}) == 2


def test_evenly():
    sources = by_language(SOURCES, DataConfig(evenly=True))
    count = drawn(sources, draws=2 * 3 * 270)  # whole rounds: 3 languages of at most 90, at two draws in three
    wanted = {"en": 360, "sw": 360, "uk": 360, "en-sw": 270, "en-uk": 270}
    assert count.keys() == wanted.keys()
    assert all(abs(count[language] - n) <= 4 for language, n in wanted.items()), count
    assert drawn(SOURCES)["uk"] < 100
    assert {sources[0].reader[n].key for n in range(len(sources[0].reader))} == {sample.key for sample in NAMES}
    assert by_language(SOURCES, DataConfig(evenly=True), training=False) == SOURCES


def test_evenly_every_batch_is_mixed():
    mixture = Mixture(by_language(SOURCES, DataConfig(evenly=True)), Draw(0))
    source_N, _ = mixture.locate(np.arange(160))
    assert all(0 < batch.sum() < 16 for batch in np.split(source_N, 10)), "pictures and pairs in each"


def test_a_language_that_nobody_speaks():
    with pytest.raises(UserError, match=r"data.languages: no sample in 'swa'.*'sw'"):
        by_language(SOURCES, DataConfig(languages=("en", "swa")))
    with pytest.raises(UserError, match="nothing is wholly in sw"):
        by_language(SOURCES[1:], DataConfig(languages=("sw",)))
