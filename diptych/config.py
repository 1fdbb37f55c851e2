"""Configuration: what a run is made of, as data that is checked before anything starts.

Every part owns a `Config` (unknown keys are refused) and is built from it by `config.build(...)`. A preset is a function that
returns a `Recipe`; a YAML file and `--set a.b=c` change it; the resolved recipe is saved as `config.json` and can be fed back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny


class UserError(Exception):
    """A user's mistake, said in one line that names the place and the nearest valid name; the command exits with 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """ "; did you mean 'x'?" or, when nothing is near, the valid names."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(valid) or 'none'}"


class Config(BaseModel):
    """Base of every part's configuration: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TextConfig(Config):
    vocab: str = "atelier"  # the shipped vocabulary of the embedded data, or a path: vocab.txt (WordPiece) or tokenizer.json
    max_tokens: PositiveInt = 40


class ImageConfig(Config):
    """Resize so that the short side is `short` and the long side at most `long`, then down to a multiple of `multiple`."""

    short: PositiveInt = 128
    long: PositiveInt = 128
    multiple: PositiveInt = 32
    augment: Literal["none", "flip", "randaugment"] = "none"  # randaugment: N = 2, M = 9, without inversion and cutout


class DataConfig(Config):
    image: ImageConfig = ImageConfig()
    texts_per_image: PositiveInt = 1  # rows drawn from one picture's texts; they share its encoding
    workers: NonNegativeInt = 0
    limit: PositiveInt | None = None  # use the first so many samples
    max_broken: float = Field(default=0.01, ge=0, le=1)  # refuse the run above this share of unreadable pictures


class TrainConfig(Config):
    steps: PositiveInt  # optimiser steps
    batch_size: PositiveInt  # samples per optimiser step, over all ranks and micro-steps
    accumulate: PositiveInt = 1  # micro-steps per optimiser step
    lr: PositiveFloat
    warmup: float = Field(default=0.1, ge=0, le=1)  # share of the steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0.01, ge=0)
    clip: PositiveFloat | None = 1.0  # global norm of the gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device multiplies it faster
    freeze: tuple[str, ...] = ()  # prefixes of parameter names
    seed: int = 0
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50


class Recipe(Config):
    """Everything that decides a run, except where its files lie."""

    system: SerializeAsAny[Config]
    task: SerializeAsAny[Config] | None = None
    text: TextConfig = TextConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig
