"""ViLT: Vision-and-Language Transformer without convolution or region supervision (Kim, Son and Kim, ICML 2021).

    words   -> embedding ----------------- + type 0 \\                                   -> masked words        (mlm)
                                                      Transformer (pre-norm), one stream -> match or mismatch   (itm)
    picture -> linear patches + position - + type 1 /                                    -> words near patches  (wpa)

Each text is seen twice a step, as published: once with masked words beside its own picture, once whole beside its own or (half
of the time) under a wrong text; word-patch alignment reads the second pass. Here both passes are rows of one batch over the
same pictures, so each picture's patches are embedded once.

    difference from the paper's code        here
    the picture is swapped for a mismatch   the text is swapped: same pairs in distribution (objectives/itm.py)
    exactly half of a batch is swapped      each row draws for itself: half on average
    patches in random order, padding re-    reading order and an explicit pixel mask: deterministic
      sampled from patches outside
    ImageNet ViT-B/32 as a start            `--init image=RUN` from systems/vit.py, or converted weights (weights/vilt.py)
    dropout also inside the perceptron      on what each part adds
    fp16                                    bf16 where the device has it
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.image.patches import Patches
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.wpa import WPA
from diptych.text.embedding import TextEmbedding


class ViLT(System):
    class Config(config.Config):
        kind: Literal["vilt"] = "vilt"
        width: PositiveInt = 768
        image: Patches.Config = Patches.Config()
        text: TextEmbedding.Config = TextEmbedding.Config()
        fusion: SingleStream.Config | DualStream.Config = Field(default=SingleStream.Config(), discriminator="kind")
        mlm: MLM.Config | None = MLM.Config()  # None switches an objective off
        itm: ITM.Config | None = ITM.Config()
        wpa: WPA.Config | None = WPA.Config()

        @model_validator(mode="after")
        def _objectives(self) -> ViLT.Config:
            if self.wpa and not self.itm:
                raise ValueError("wpa reads the pairs of itm: switch both on, or set wpa=null too")
            return self

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(config.width)
        self.mlm = config.mlm.build(config.width, tokenizer) if config.mlm else None
        self.itm = config.itm.build(config.width) if config.itm else None
        self.wpa = config.wpa.build() if config.wpa else None

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        passes = []
        if self.mlm:
            passes.append(self.mlm.corrupt(batch, draw))
        if self.itm:
            pairs = self.itm.corrupt(batch, draw)
            passes.append(self.wpa.corrupt(pairs, draw) if self.wpa else pairs)
        if not passes:
            raise config.UserError("system.mlm and system.itm are both null: nothing is left to pre-train with")
        return Batch.stack(passes)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image(batch.images)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        assert batch.image_of_BN is not None
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        is_aligned_B1 = (batch.labels["itm"] != IGNORE)[:, None] if self.wpa else torch.zeros_like(batch.text_mask_BT[:, :1])
        is_masked_BT = batch.labels["mlm"] != IGNORE if self.mlm else torch.zeros_like(batch.text_mask_BT)
        fused = self.fuse(batch, read_BT=is_masked_BT | is_aligned_B1, read_BV=is_aligned_B1)
        losses = {}
        if self.mlm:
            losses["mlm"] = self.mlm(fused, batch, self.text.word.weight)
        if self.itm:
            losses["itm"] = self.itm(fused, batch)
        if self.wpa:
            losses["wpa"] = self.wpa(fused, batch)
        return losses

    def words(self, x_PD: Tensor) -> Tensor:
        if not self.mlm:
            raise config.UserError("this ViLT was built without mlm, so it does not guess words; set system.mlm")
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        if not self.itm:
            raise config.UserError("this ViLT was built without itm, so it does not tell matches; set system.itm")
        return self.itm.logit(fused)


def tiny() -> Recipe:
    """Learns something in seconds; for tests and first steps."""
    return Recipe(
        system=ViLT.Config(
            width=64,
            image=Patches.Config(patch=16, grid=4, dropout=0),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, dropout=0),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=1e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores: patches of 16 in 128 pixels, and half of ViT-S's depth and width."""
    return Recipe(
        system=ViLT.Config(
            width=192,
            image=Patches.Config(patch=16, grid=8, dropout=0),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=6, heads=3, dropout=0, init_std=0.06),
            mlm=MLM.Config(words="phrases"),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=0.5),
        train=TrainConfig(steps=2000, batch_size=16, lr=5e-4, schedule="cosine", weight_decay=0.02),
    )


def two_streams() -> Recipe:
    """`small` with the other hinge, of the same depth and width: words and patches in streams of their own that look across.

    Not ViLT as published; for the comparison of hinges.
    """
    recipe = small()
    fusion = DualStream.Config(layers=6, heads=3, dropout=0)
    return recipe.model_copy(update={"system": recipe.system.model_copy(update={"fusion": fusion})})


def paper() -> Recipe:
    """ViLT-B/32 as published: 87 M parameters with BERT's vocabulary (`text.vocab`), 64 GPUs; 200k steps gave the best scores."""
    return Recipe(
        system=ViLT.Config(image=Patches.Config(max_patches=200)),
        data=DataConfig(image=ImageConfig(short=384, long=639, multiple=32), workers=8),
        train=TrainConfig(steps=200_000, batch_size=4096, lr=1e-4, clip=None),
    )
