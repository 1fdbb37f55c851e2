"""ALIGN: a dual encoder on a billion noisy pairs, A Large-scale ImaGe and Noisy-text embedding (Jia et al., ICML 2021).

    picture -> EfficientNet -> cells -> mean -------- -> length 1 -> a \\
                                                                       InfoNCE both ways, negatives of all ranks      (contrast)
    text -> embedding -> Transformer -> [CLS] -> linear -> length 1 -> b /

Nothing is fused: picture and text meet in one product, so all pictures and all texts of a gallery are encoded once and compared.
(A task that has to fuse them brings a hinge of its own, which is no part of the paper: fusion/on_towers.py.)
What the paper is about is scale with little cleaning (`diptych data check --clean align`), and for a contrast scale is the batch:
with `piece`, a rank encodes so many rows at a time and forgets what it computed until their turn in the backward pass comes
(nn/pieces.py). A piece of pictures is a normalisation group of its own; without `piece` all pictures of all ranks are one.

Word embedding and Transformer are named as in BERT (`text.`, `fusion.`), so both can be started from a run of that.

    difference from the paper                         here
    the two directions are summed                     their mean; contrast.weight=2 is the sum, as in `paper`
    346 x 346 pixels, of them a random 289 x 289,     short side to 289, long side to at most 289, mirrored
      mirrored; the middle in evaluation
    norms of each core's pictures, 16 of them         `piece=16` in `paper`
    1024 TPU cores                                    ranks, and pieces within a rank
    vocabulary of 100,000 word pieces of its texts    `text.vocab`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TextConfig, TrainConfig, UserError
from diptych.contracts import Batch, Fused, Images, LossTerm, ParamGroup, System, Tokenizer, Towers, Visual
from diptych.draw import Draw
from diptych.fusion.on_towers import OnTowers
from diptych.image.efficientnet import EfficientNet
from diptych.image.grid_cnn import GridCNN
from diptych.image.resnet import ResNet
from diptych.nn import batch_norm
from diptych.nn.pieces import in_pieces, separate
from diptych.nn.transformer import Transformer, initialise
from diptych.objectives.contrast import Contrast
from diptych.text.embedding import TextEmbedding


class ALIGN(System):
    class Config(config.Config):
        kind: Literal["align"] = "align"
        width: PositiveInt = 768  # of the text tower
        image_width: PositiveInt = 640
        embedding: PositiveInt | None = None  # None: as wide as the image tower, which then needs no layer of its own
        image: GridCNN.Config | ResNet.Config | EfficientNet.Config = Field(default=EfficientNet.Config(), discriminator="kind")
        text: TextEmbedding.Config = TextEmbedding.Config(positions=64)
        encoder: Transformer.Config = Transformer.Config(norm="post", eps=1e-12, attention_dropout=0.1)
        contrast: Contrast.Config = Contrast.Config(temperature=1.0, learnable=True, smoothing=0.1)
        piece: PositiveInt | None = None  # pictures, and texts, that a rank encodes at a time; None: all of its micro-step
        optimizer: Literal["adamw", "lamb"] = "adamw"
        hinge: OnTowers.Config | None = None  # for tasks that fuse; put there when fine-tuning begins

    made_in_finetuning = ("hinge",)
    negatives = 0  # the batch is full of them

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        embedding = config.embedding or config.image_width
        self.image = config.image.build(config.image_width)
        self.image_head = nn.Linear(config.image_width, embedding) if config.embedding else nn.Identity()
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = nn.ModuleDict({"encoder": Transformer(config.encoder, config.width)})  # the name it has in systems that fuse
        self.text_head = nn.Linear(config.width, embedding)
        self.contrast = config.contrast.build()
        self.image_head.apply(initialise)
        self.text_head.apply(initialise)
        self.hinge = config.hinge.build(config.width, config.image_width) if config.hinge else None
        if config.piece:
            separate(self)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        if batch.image_of_BN is None:
            raise UserError("a contrast of pictures and texts needs pictures, and these samples have none")
        return self.contrast.corrupt(batch, draw)

    @classmethod
    def for_task(cls, config: Config, reads: Sequence[str]) -> Config:
        if config.hinge or "fuse" not in reads or "towers" in reads:
            return config
        hinge = OnTowers.Config(heads=config.encoder.heads, dropout=config.encoder.dropout)
        return config.model_copy(update={"hinge": hinge})

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        visual = self.image(batch.images)
        return self.hinge.lifted(visual) if self.hinge else visual

    def pictures(self, batch: Batch) -> Tensor:
        """[B, E] of each row, of length one; zero in rows without a picture."""
        if batch.images is None or batch.image_of_BN is None:
            return torch.zeros(len(batch), self.text_head.out_features, device=batch.text_BT.device)

        def encode(pixel_I3HW: Tensor, mask_IHW: Tensor) -> Tensor:
            return self.image(Images(pixel_I3HW, mask_IHW)).mean()

        mean_ID = in_pieces(encode, self.config.piece, batch.images.pixel_I3HW, batch.images.mask_IHW)
        side_IE, image_B = F.normalize(self.image_head(mean_ID).float(), dim=1), batch.image_of_BN[:, 0]
        return side_IE[image_B.clamp(min=0)] * (image_B >= 0)[:, None]

    def texts(self, batch: Batch) -> Tensor:
        """[B, D], the state of [CLS]."""

        def encode(text_BT: Tensor, mask_BT: Tensor, segment_BT: Tensor) -> Tensor:
            is_first_BT = (torch.arange(text_BT.shape[1], device=text_BT.device) == 0).expand_as(text_BT)
            return self.fusion["encoder"](self.text(text_BT, segment_BT), mask_BT, is_first_BT)[:, 0]

        return in_pieces(encode, self.config.piece, batch.text_BT, batch.text_mask_BT, batch.segment_BT)

    def towers(self, batch: Batch) -> Towers:
        text_BE = F.normalize(self.text_head(self.texts(batch)).float(), dim=1)
        return Towers(self.pictures(batch), text_BE, self.contrast.temperature)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        """By the hinge, on the states of all words and cells; fine-tuned runs alone have one."""
        if self.hinge is None or batch.image_of_BN is None:
            raise UserError("towers without a hinge only compare: fine-tuning on a task that fuses puts one on them")
        text_BTD = self.fusion["encoder"](self.text(batch.text_BT, batch.segment_BT), batch.text_mask_BT)
        return self.hinge(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"contrast": self.contrast(self.towers(batch), batch)}

    def param_groups(self) -> list[ParamGroup]:
        return [group._replace(optimizer=self.config.optimizer) for group in super().param_groups()]

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def tiny() -> Recipe:
    """With the encoder of crossgrid:tiny, in pieces."""
    return Recipe(
        system=ALIGN.Config(
            width=32,
            image_width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            text=TextEmbedding.Config(positions=40, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=2, heads=2, dropout=0),
            contrast=Contrast.Config(temperature=0.2, learnable=True, smoothing=0.1),
            piece=4,
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=3e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, with the encoder of crossgrid:small and the words of bert:small."""
    return Recipe(
        system=ALIGN.Config(
            width=128,
            image_width=128,
            image=GridCNN.Config(),
            text=TextEmbedding.Config(positions=40, word_std=0.09, position_std=0.04, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
            contrast=Contrast.Config(temperature=0.1, learnable=True, smoothing=0.1),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16)),
        train=TrainConfig(steps=1500, batch_size=128, lr=1e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """EfficientNet-L2 with BERT-large on 1.8 billion pairs: 12 epochs of batch 16,384 on 1024 TPUv3 cores."""
    return Recipe(
        system=ALIGN.Config(
            width=1024,
            image_width=1376,
            image=EfficientNet.Config(size="l2"),
            encoder=Transformer.Config(norm="post", eps=1e-12, attention_dropout=0.1, layers=24, heads=16),
            contrast=Contrast.Config(temperature=1.0, learnable=True, smoothing=0.1, weight=2.0),
            piece=16,
            optimizer="lamb",
        ),
        text=TextConfig(max_tokens=64),
        data=DataConfig(image=ImageConfig(short=289, long=289, multiple=1, augment="flip"), workers=8),
        train=TrainConfig(steps=1_200_000, batch_size=16_384, lr=1e-3, warmup=1 / 120, weight_decay=1e-5, clip=None),
    )


def coyo() -> Recipe:
    """EfficientNet-B7 with BERT-base, as kakaobrain's released reproduction on 700 million pairs."""
    recipe = paper()
    train = recipe.train.model_copy(update={"steps": 300_000, "batch_size": 65_536, "lr": 2e-3, "warmup": 40 / 300})
    return recipe.model_copy(update={"system": ALIGN.Config(piece=16, optimizer="lamb"), "train": train})
