"""UNITER: UNiversal Image-TExt Representation (Chen et al., ECCV 2020).

    words                     -> embedding ------------- \\                       -> masked words, all regions seen       (mlm)
                                                          Transformer, one stream -> hidden regions, all words seen:
    regions from a detector,  -> LN(LN(W f) + LN(W' 7)) - /                          feature (mrfr), class (mrc, mrc_kl)
      with their 7-number boxes                                                   -> match; words near regions      (itm, wpa)

Conditional masking: a step hides words or regions, never both, so that what is hidden can be told from the whole of the other side.
With `masking=joint`, what the paper compares that with, the other side is hidden too, at its own rate, and not asked for.
One objective is drawn for each step, the same on all ranks, in the published in-domain proportions (`mix`: itm 2, mlm 2, mrfr 1,
mrc_kl 1). Regions come from a store (`diptych regions extract`, then `--regions STORE`): no pixel is read.

    difference from the released code       here
    batches of 10,240 tokens                of so many pairs (`train.batch_size`)
    type embedding inside the regions'      added by the hinge, after it
      last LayerNorm
    the picture is swapped for a mismatch   the text is swapped (objectives/itm.py)
    KL averaged over classes too            over regions alone, as the paper's formula; mrc_kl.per_class=true in `paper`
    BERT as a start                         `--init text=RUN`
    dropout also inside the perceptron      on what each part adds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig, UserError
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Reader, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.image.regions import MISSING, RegionTokens, of_detector, of_rows
from diptych.objectives.hidden_regions import hide
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.mrc import MRC
from diptych.objectives.mrc_kl import MRCKL
from diptych.objectives.mrfr import MRFR
from diptych.objectives.wpa import WPA
from diptych.text.embedding import TextEmbedding

OF_REGIONS = ("mrfr", "mrc", "mrc_kl")  # objectives that hide regions


class Mix(config.Config):
    """How often each objective is drawn, relative to the others; 0 leaves it out."""

    mlm: NonNegativeFloat = 2
    itm: NonNegativeFloat = 2
    mrfr: NonNegativeFloat = 1
    mrc: NonNegativeFloat = 0
    mrc_kl: NonNegativeFloat = 1

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if not any(self.model_dump().values()):
            raise ValueError("every share is 0: nothing is left to pre-train with")
        return self


class UNITER(System):
    reads_regions: ClassVar[bool] = True

    class Config(config.Config):
        kind: Literal["uniter"] = "uniter"
        width: PositiveInt = 768
        image: RegionTokens.Config = RegionTokens.Config()
        classes: NonNegativeInt = 0  # of the detector; 0: as the training data's region store has them
        text: TextEmbedding.Config = TextEmbedding.Config()
        fusion: SingleStream.Config | DualStream.Config = Field(default=SingleStream.Config(norm="post"), discriminator="kind")
        mix: Mix = Mix()
        masking: Literal["conditional", "joint"] = "conditional"
        mlm: MLM.Config = MLM.Config(unit="token", tied=True)
        itm: ITM.Config = ITM.Config()
        wpa: WPA.Config | None = WPA.Config(special_tokens=True, whole_image=True)
        mrfr: MRFR.Config = MRFR.Config()
        mrc: MRC.Config = MRC.Config()
        mrc_kl: MRCKL.Config = MRCKL.Config()

        @model_validator(mode="after")
        def _hides_words(self) -> UNITER.Config:
            if self.masking == "joint" and not self.mix.mlm:
                raise ValueError("masking=joint hides words as mlm does: mix.mlm must be more than 0")
            return self

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        """The detector's widths, where the configuration leaves them open."""
        asked, keys = (config.image.features, config.classes), ("image.features", "classes")
        features, classes = of_detector(readers, *asked, keys)
        image = config.image.model_copy(update={"features": features})
        return config.model_copy(update={"image": image, "classes": classes})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        width, mix = config.width, config.mix
        self.image = config.image.build(width)
        self.text = config.text.build(width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(width)
        self.mlm = config.mlm.build(width, tokenizer) if mix.mlm else None
        self.itm = config.itm.build(width) if mix.itm else None
        self.wpa = config.wpa.build() if mix.itm and config.wpa else None
        self.mrfr = config.mrfr.build(width, config.image.features) if mix.mrfr else None
        self.mrc = config.mrc.build(width, config.classes) if mix.mrc else None
        self.mrc_kl = config.mrc_kl.build(width, config.classes) if mix.mrc_kl else None

    def drawn(self, step: int, draw: Draw) -> str:
        """The objective of a step, whoever asks."""
        shares = self.config.mix.model_dump()
        lot = draw.uniform("uniter/objective", step)[0, 0] * sum(shares.values())
        for name, share in shares.items():
            lot -= share
            if lot < 0:
                return name
        return next(name for name, share in reversed(shares.items()) if share)  # lost to rounding

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        name = self.drawn(batch.step, draw)
        if name in OF_REGIONS and (batch.regions is None or batch.regions.feature_IRD is None):
            raise UserError(MISSING)
        batch = getattr(self, name).corrupt(batch, draw)
        batch = self.hide_other_side(batch, name, draw) if self.config.masking == "joint" and name != "itm" else batch
        return self.wpa.corrupt(batch, draw) if name == "itm" and self.wpa else batch

    def hide_other_side(self, batch: Batch, name: str, draw: Draw) -> Batch:
        """Where words are asked for, regions (`labels["hidden"]`, at mrfr's rate), and the other way round; none is asked for."""
        if name == "mlm":
            return replace(hide("hidden", self.config.mrfr.rate, batch, draw), counts=batch.counts)
        assert self.mlm is not None
        return replace(self.mlm.corrupt(batch, draw), labels=batch.labels, counts=batch.counts)

    def see(self, batch: Batch) -> Visual:
        return self.image(batch.regions)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        assert batch.image_of_BN is not None
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def fuse_hiding(self, batch: Batch, is_hidden_BR: Tensor, read_BT: Tensor | None = None) -> Fused:
        """Each row beside a copy of its picture, for each hides regions of its own; embedding them again costs next to nothing.

        Read are the hidden regions, or else the words of `read_BT`.
        """
        assert batch.regions is not None and batch.image_of_BN is not None
        visual = self.image(of_rows(batch.regions, batch.image_of_BN), is_hidden_BR)
        own_B1 = torch.arange(len(batch), device=is_hidden_BR.device)[:, None]
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        picture_B1 = own_B1.where(batch.image_of_BN >= 0, -1)
        none_BT = torch.zeros_like(batch.text_mask_BT)
        read_BT, read_BV = (none_BT, is_hidden_BR) if read_BT is None else (read_BT, None)
        return self.fusion(text_BTD, batch.text_mask_BT, visual, picture_B1, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """The one objective that `corrupt` drew."""
        for name in OF_REGIONS:
            if name in batch.counts:
                fused = self.fuse_hiding(batch, batch.labels[name] != IGNORE)
                decoder = (self.image.feature.weight,) if name == "mrfr" and self.config.mrfr.tied else ()
                return {name: getattr(self, name)(fused, batch, *decoder)}
        if "mlm" in batch.counts:
            assert self.mlm is not None
            is_asked_BT = batch.labels["mlm"] != IGNORE
            if "hidden" in batch.labels:
                fused = self.fuse_hiding(batch, batch.labels["hidden"] != IGNORE, is_asked_BT)
            else:
                fused = self.fuse(batch, read_BT=is_asked_BT)
            return {"mlm": self.mlm(fused, batch, self.text.word.weight)}
        assert self.itm is not None
        fused = self.fuse(batch) if self.wpa else self.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT))
        return {"itm": self.itm(fused, batch)} | ({"wpa": self.wpa(fused, batch)} if self.wpa else {})

    def words(self, x_PD: Tensor) -> Tensor:
        if not self.mlm:
            raise UserError("this UNITER was built without mlm, so it does not guess words; set system.mix.mlm")
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        if not self.itm:
            raise UserError("this UNITER was built without itm, so it does not tell matches; set system.mix.itm")
        return self.itm.logit(fused)


def tiny() -> Recipe:
    return Recipe(
        system=UNITER.Config(
            width=64,
            image=RegionTokens.Config(dropout=0),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, dropout=0),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, from BERT as published: `--init text=RUN --init fusion=RUN` of `bert:small`."""
    return Recipe(
        system=UNITER.Config(
            width=128,
            image=RegionTokens.Config(dropout=0),
            text=TextEmbedding.Config(word_std=0.09, position_std=0.04, dropout=0),
            fusion=SingleStream.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
            mlm=MLM.Config(words="phrases", tied=True),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=0.5),
        train=TrainConfig(steps=8000, batch_size=32, lr=1e-3, schedule="cosine", weight_decay=0.02),
    )


def mrc() -> Recipe:
    """`small` with hard labels: MRC in the place of MRFR and MRC-KL, as in the paper's ablation."""
    recipe = small()
    mix = Mix(mlm=2, itm=2, mrfr=0, mrc=2, mrc_kl=0)
    return recipe.model_copy(update={"system": recipe.system.model_copy(update={"mix": mix})})


def paper() -> Recipe:
    """UNITER-base: 12 layers of 768 on 2,048 numbers and 1,601 classes a region, with BERT's cased vocabulary (`text.vocab`).

    The pairs in a batch are ours: the paper counts 10,240 tokens.
    """
    return Recipe(
        system=UNITER.Config(
            image=RegionTokens.Config(features=2048),
            classes=1601,
            text=TextEmbedding.Config(positions=512),
            fusion=SingleStream.Config(norm="post", eps=1e-12, attention_dropout=0.1),
            mrc_kl=MRCKL.Config(per_class=True),
        ),
        data=DataConfig(image=ImageConfig(short=224, long=224), workers=8),
        train=TrainConfig(steps=200_000, batch_size=1024, lr=5e-5, warmup=0.05, clip=5.0),
    )
