"""Sources of pre-training as a recipe asks for them, by what its `data` section says of samples and their texts.

    data.languages, data.evenly    which samples, how often      (data/by_language.py)
    data.noun_phrases              what their texts name         (data/phrases.py)
    data.noise                     how many texts are spoilt     (data/noise.py)   in training alone

In this order: a language is chosen of what is there, phrases are found in what was written, and noise takes both away. A task asks
its questions as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diptych.config import Recipe
from diptych.data.by_language import by_language
from diptych.data.mixture import Source
from diptych.data.noise import Noisy
from diptych.data.phrases import marked
from diptych.draw import Draw


def as_asked(sources: Sequence[Source], recipe: Recipe, *, training: bool) -> list[Source]:
    """To learn from; or, not training, to be measured on.

    Raises `UserError` for a language that no sample is in, and where spaCy or the pipeline named is missing.
    """
    data = recipe.data
    asked = marked(by_language(sources, data, training), data)
    if training and data.noise:
        asked = [replace(source, reader=Noisy(source.reader, data.noise, Draw(recipe.train.seed))) for source in asked]
    return asked
