"""CNN: an image root. A small grid of cells learns to name what lies under each, before any text is read.

    picture -> GridCNN -> cells [8 x 8] -> of each box: category and attributes                                      (naming)

The one-modality start of systems/crossgrid.py, as an ImageNet classifier is ViLT's and a detector with attributes is VinVL's:

    diptych pretrain cnn --data scenes --out runs/root
    diptych pretrain crossgrid --data scenes --init image=runs/root --init text=runs/root --out runs/crossgrid

It is no paper's. Classes are word embeddings of the names, which is what `--init text=` hands on: cells then lie where words lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig
from diptych.contracts import Batch, LossTerm, Reader, Regions, System, Tokenizer, Visual
from diptych.image.grid_cnn import GridCNN
from diptych.nn import batch_norm
from diptych.nn.box import pool
from diptych.objectives.naming import Naming


class CNN(System):
    class Config(config.Config):
        kind: Literal["cnn"] = "cnn"
        width: PositiveInt = 128
        image: GridCNN.Config = GridCNN.Config()
        naming: Naming.Config = Naming.Config(by="words", pool="mean")

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        return config.model_copy(update={"naming": Naming.prepare(config.naming, readers)})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.naming = config.naming.build(config.width, tokenizer)
        self.text: nn.ModuleDict | None = None
        if config.naming.by == "words":
            word = nn.Embedding(tokenizer.vocab_size, config.width)
            nn.init.normal_(word.weight, std=config.width**-0.5)
            self.text = nn.ModuleDict({"word": word})  # the name it has in systems that read

    def label(self, batch: Batch) -> Batch:
        return self.naming.label(batch)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image(batch.images)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"naming": self.naming(self.see(batch), batch, self._word_KD())}

    @property
    def region_width(self) -> int:
        return self.config.width

    @property
    def region_classes(self) -> tuple[str, ...]:
        return ("background", *self.config.naming.names)

    def describe(self, batch: Batch, regions: Regions) -> Regions:
        """Given boxes as region features (regions/extract.py): the mean of the cells under each, and what it would be named."""
        visual = self.see(batch)
        feature_IRD = pool(visual.token_IVD, visual.mask_IV, visual.box_IV4, regions.box_IR4)
        names = len(self.config.naming.names)
        name_IRK = self.naming.logits(feature_IRD, self._word_KD())[..., :names].float().softmax(-1)
        return replace(regions, feature_IRD=feature_IRD, soft_label_IRK=F.pad(name_IRK, (1, 0)))

    def _word_KD(self) -> Tensor | None:
        return None if self.text is None else self.text.get_parameter("word.weight")

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def tiny() -> Recipe:
    return Recipe(
        system=CNN.Config(width=32, image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2))),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=3e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on one core: a minute."""
    return Recipe(
        system=CNN.Config(),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16)),
        train=TrainConfig(steps=1500, batch_size=32, lr=3e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )
