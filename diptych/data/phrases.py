"""What a text names, found by spaCy (`data.noun_phrases`), for texts whose data mark no phrases.

    "A red dog is left of the tall trees."  ->  "red dog", "tall trees"

Noun chunks without the article or pronoun that they begin with, as phrases of no kind. Masked words are then drawn among them
(`system.mlm.words=phrases`), and KD-VLP's alignment asks of each which region it means. A text that has marks keeps them.

spaCy is not installed with this package, nor are its pipelines: `pip install 'diptych[spacy]'` and, for English,
`python -m spacy download en_core_web_sm`. Any pipeline with a parser and parts of speech serves, of any language whose noun chunks
spaCy knows; a name, or the folder of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from diptych.config import DataConfig, UserError
from diptych.contracts import Phrase, Reader, Sample
from diptych.data.mixture import Source
from diptych.data.wrapped import Wrapped

_CACHE = 1 << 16  # texts remembered: parsing one takes about a millisecond, and every epoch asks again
_WITHOUT = ("DET", "PRON", "PUNCT")  # what a phrase does not begin with, as universal parts of speech


class Marked(Wrapped):
    """A reader whose unmarked texts have the noun phrases that a pipeline of spaCy finds."""

    def __init__(self, reader: Reader, pipeline: str):
        super().__init__(reader)
        self.pipeline = pipeline

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader[index]
        own = sample.phrases or ((),) * len(sample.texts)
        found = (marks or noun_phrases(text, self.pipeline) for text, marks in zip(sample.texts, own, strict=True))
        return replace(sample, phrases=tuple(found))

    @property
    def fingerprint(self) -> str:
        meta = _loaded(self.pipeline).meta
        made = f"{meta['lang']} {meta['name']} {meta['version']}"
        return hashlib.sha256(f"{self.reader.fingerprint} noun phrases by {made}".encode()).hexdigest()


def marked(sources: Sequence[Source], data: DataConfig) -> list[Source]:
    """The sources as `data` wants them.

    Raises `UserError` where spaCy, the pipeline, or what it needs for noun chunks is missing.
    """
    if not data.noun_phrases:
        return list(sources)
    noun_phrases("A dog.", data.noun_phrases)
    return [replace(source, reader=Marked(source.reader, data.noun_phrases)) for source in sources]


@lru_cache(_CACHE)
def noun_phrases(text: str, pipeline: str) -> tuple[Phrase, ...]:
    """Spans of characters, from the left; they do not overlap."""
    try:
        chunks = [list(chunk) for chunk in _loaded(pipeline)(text).noun_chunks]
    except (ValueError, NotImplementedError) as error:  # no parser in the pipeline; a language without rules for chunks
        raise UserError(f"data.noun_phrases: {pipeline} finds no noun chunks: {_line(error)}") from None
    phrases = []
    for words in chunks:
        while words and words[0].pos_ in _WITHOUT:
            del words[0]
        if words:
            phrases.append(Phrase(words[0].idx, words[-1].idx + len(words[-1])))
    return tuple(phrases)


@lru_cache(2)
def _loaded(pipeline: str) -> Any:
    """One for each process: a loader's workers load their own."""
    try:
        import spacy
    except ImportError:
        raise UserError("data.noun_phrases needs spaCy: pip install 'diptych[spacy]'") from None
    try:
        return spacy.load(pipeline, exclude=["ner", "lemmatizer"])  # neither has a part in noun chunks
    except (OSError, ValueError) as error:
        raise UserError(f"data.noun_phrases: {_line(error)}") from None


def _line(error: Exception) -> str:
    """What spaCy says, without its code and its further lines."""
    line = str(error).partition("\n")[0]
    return line.partition("] ")[2] or line
