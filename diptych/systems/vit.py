"""ViT: an image root. Patches and a Transformer learn to name pictures (Dosovitskiy et al., ICLR 2021).

    picture -> linear patches + position -> [CLS_image, patch, patch, ...] -> Transformer (pre-norm) -> names            (naming)

Two ways of supervision: `naming.unit="dense"` asks every patch under a box for its name and attributes; `"picture"` asks CLS_image
what the picture shows, as ImageNet does: its label, or the names in it, or its text, whichever the data has first (a folder whose
captions are class names will do). It is what ViLT starts from: a ViT has learnt patches *and* blocks, so both are named as in ViLT
(`image.`, `fusion.encoder.`) and go there together, preset by preset:

    diptych pretrain vit --data scenes --out runs/vit
    diptych pretrain vilt --data scenes --init image=runs/vit --init fusion=runs/vit --out runs/vilt

    difference from the paper      here
    classes by a linear layer      the same; one for names, one for attributes
    a picture has one label        or several: the mean of their losses
    JFT-300M, ImageNet-21k         the names and attributes of the training data
    224 px, square                 any size: positions are stretched to each picture's grid (image/patches.py)
    7 x 7 positions at 224 px,     12 x 12 from the start, seen at 7 x 7 by pictures of 224 px
      stretched for 384 px
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveInt, model_validator
from torch import nn

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig
from diptych.contracts import Batch, LossTerm, Reader, System, Tokenizer, Visual
from diptych.image.patches import Patches
from diptych.nn.transformer import Transformer
from diptych.objectives.naming import Naming


class ViT(System):
    class Config(config.Config):
        kind: Literal["vit"] = "vit"
        width: PositiveInt = 768
        image: Patches.Config = Patches.Config()
        encoder: Transformer.Config = Transformer.Config()
        naming: Naming.Config = Naming.Config(unit="picture", pool="first")

        @model_validator(mode="after")
        def _wordless(self) -> ViT.Config:
            if self.naming.by == "words":
                raise ValueError("this system has no words; naming.by=classes is what it can do")
            return self

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        return config.model_copy(update={"naming": Naming.prepare(config.naming, readers)})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.fusion = nn.ModuleDict({"encoder": Transformer(config.encoder, config.width)})  # the name it has in ViLT
        self.naming = config.naming.build(config.width)

    def label(self, batch: Batch) -> Batch:
        return self.naming.label(batch)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        patches = self.image(batch.images)
        return patches._replace(token_IVD=self.fusion["encoder"](patches.token_IVD, patches.mask_IV))

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"naming": self.naming(self.see(batch), batch)}


def tiny() -> Recipe:
    return Recipe(
        system=ViT.Config(
            width=64,
            image=Patches.Config(patch=16, grid=4, dropout=0),
            encoder=Transformer.Config(layers=2, heads=2, dropout=0),
            naming=Naming.Config(unit="dense"),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=1e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, with the shapes of vilt:small."""
    return Recipe(
        system=ViT.Config(
            width=192,
            image=Patches.Config(patch=16, grid=8, dropout=0),
            encoder=Transformer.Config(layers=6, heads=3, dropout=0, init_std=0.06),
            naming=Naming.Config(unit="dense"),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16)),
        train=TrainConfig(steps=4000, batch_size=32, lr=1e-3, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """ViT-B/32 on ImageNet-1k as a data set of labelled pictures; 300 epochs of batch 4096 with Adam (their Table 3)."""
    return Recipe(
        system=ViT.Config(image=Patches.Config(patch=32, grid=12)),
        data=DataConfig(image=ImageConfig(short=224, long=224, multiple=32, augment="flip"), workers=8),
        train=TrainConfig(
            steps=93_000, batch_size=4096, lr=3e-3, warmup=0.1, schedule="cosine", betas=(0.9, 0.999), weight_decay=0.3
        ),
    )
