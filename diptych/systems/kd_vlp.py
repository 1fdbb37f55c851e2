"""KD-VLP: end-to-end, taught by a detector that is gone afterwards (Liu et al., 2021, Findings of NAACL 2022).

    words   -> embedding -------------------------------- \\                      -> masked words                           (mlm)
                                                           Transformer            -> match or mismatch                      (itm)
    picture -> CNN -> cells -> [cells of one object hidden] /                     -> that object's feature and class       (omvm)
                                 + place                                          -> which object does a phrase mean        (pra)
                       |
       teacher: boxes, features and classes of a region store, in pre-training alone

Region systems know objects and are slow, for a detector stands before them; grids are quick and know none. Here the detector says
in pre-training where objects are, what they look like and what they are called, and is not needed again: fine-tuning, evaluation
and questions take pictures as they are. One pass serves all four objectives, so a phrase may mean the very object that is hidden.

A reconstruction: no code was published and the paper's text was not at hand. Known are the abstract and the sketch of both
objectives (objectives/omvm.py and objectives/pra.py say what is ours). Also ours: one masked pass for all objectives, words and
objects of mismatched pairs hidden but not asked for, places by nn/place.py, equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TextConfig, TrainConfig, UserError
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Reader, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.pictures import of_rows
from diptych.fusion.single_stream import SingleStream
from diptych.image.grid_cnn import GridCNN
from diptych.image.regions import MISSING, class_names, of_detector
from diptych.image.resnet import ResNet
from diptych.nn import batch_norm
from diptych.nn.place import Place
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.omvm import ASKED, HIDDEN, OMVM
from diptych.objectives.pra import PRA
from diptych.text.embedding import TextEmbedding
from diptych.text.names import name_tokens


class KDVLP(System):
    taught_by_regions: ClassVar[bool] = True

    class Config(config.Config):
        kind: Literal["kd_vlp"] = "kd_vlp"
        width: PositiveInt = 768
        image: ResNet.Config | GridCNN.Config = Field(
            default=ResNet.Config(depth=101, norm="frozen", frozen=2, pool=True, project=True), discriminator="kind"
        )
        features: NonNegativeInt = 0  # width of the teacher's features; 0: as the training data's region store has them
        names: tuple[str, ...] = Field(default=(), repr=False)  # the teacher's classes; taken from the region store where empty
        text: TextEmbedding.Config = TextEmbedding.Config()
        fusion: SingleStream.Config | DualStream.Config = Field(
            default=SingleStream.Config(norm="post", eps=1e-12, attention_dropout=0.1), discriminator="kind"
        )
        mlm: MLM.Config = MLM.Config(unit="token", tied=True)
        itm: ITM.Config = ITM.Config()
        omvm: OMVM.Config | None = OMVM.Config()
        pra: PRA.Config | None = PRA.Config()

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        """The teacher's width and class names, where the configuration leaves them open and the data brings a teacher."""
        if not any(reader[0].regions for reader in readers):
            return config  # pupils are fine-tuned without
        features, _ = of_detector(readers, config.features, len(config.names), ("features", "names"))
        return config.model_copy(update={"features": features, "names": class_names(readers, config.names)})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        has_teacher = bool(config.features and config.names)  # if not, it can be fine-tuned, and `corrupt` says why not pre-trained
        self.config = config
        self.image = config.image.build(config.width)
        self.place = Place(config.width)
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(config.width)
        self.mlm = config.mlm.build(config.width, tokenizer)
        self.itm = config.itm.build(config.width)
        self.omvm = config.omvm.build(config.width, config.features, len(config.names)) if config.omvm and has_teacher else None
        self.pra = config.pra.build(name_tokens(config.names, tokenizer)) if config.pra and has_teacher else None

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        if (self.config.omvm or self.config.pra) and (batch.regions is None or batch.regions.feature_IRD is None):
            raise UserError(MISSING)
        batch = self.itm.corrupt(batch, draw)
        batch = self.pra.corrupt(batch, draw) if self.pra else batch
        batch = self.mlm.corrupt(batch, draw)
        batch = self.omvm.corrupt(batch, draw) if self.omvm else batch
        return ask_matches_only(batch)

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.placed(self.image(batch.images))

    def placed(self, cells: Visual) -> Visual:
        return cells._replace(token_IVD=cells.token_IVD + self.place(cells.box_IV4))

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        assert batch.image_of_BN is not None
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """One pass over words and cells, both with gaps. Texts of a picture hide different objects: each has its own copy of it."""
        assert batch.images is not None and batch.image_of_BN is not None
        if self.omvm is None:
            fused = self.fuse(batch)
        else:
            row = of_rows(self.image(batch.images), batch.image_of_BN)
            token_BVD = self.omvm.hide(row.token_BVD, row.mask_BV, row.box_BV4, batch)
            own = replace(batch, image_of_BN=torch.arange(len(batch), device=token_BVD.device)[:, None])
            fused = self.fuse(own, self.placed(Visual(token_BVD, row.mask_BV, row.box_BV4)))
        terms = {"mlm": self.mlm(fused, batch, self.text.word.weight), "itm": self.itm(fused, batch)}
        terms |= {"omvm": self.omvm(fused, batch)} if self.omvm else {}
        return terms | ({"pra": self.pra(fused, batch, self.text.word.weight)} if self.pra else {})

    def words(self, x_PD: Tensor) -> Tensor:
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        return self.itm.logit(fused)

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def ask_matches_only(batch: Batch) -> Batch:
    """What is hidden beside another picture's text stays hidden, for no gaps would mean no match; but nobody asks for it."""
    is_false_B1 = (batch.labels["itm"] == 0)[:, None]
    label_BT = batch.labels["mlm"].masked_fill(is_false_B1, IGNORE)
    labels, counts = {**batch.labels, "mlm": label_BT}, {**batch.counts, "mlm": float((label_BT != IGNORE).sum())}
    if "omvm" in labels:
        label_BR = labels["omvm"]
        labels["omvm"] = torch.where(is_false_B1 & (label_BR == ASKED), HIDDEN, label_BR)
        counts["omvm"] = float((labels["omvm"] == ASKED).sum())
    return replace(batch, labels=labels, counts=counts)


def tiny() -> Recipe:
    return Recipe(
        system=KDVLP.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, dropout=0),
            pra=PRA.Config(target_temperature=0.1),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16), foreign=0.5),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, after both roots: `--init image=RUN` of `cnn:small`, `text=RUN` of `bert:small`.

    In one stream it does not match: 53 % after 48,000 pictures; in two 71 % after 32,000. Word vectors of a
    small vocabulary are near to one another: at a target temperature of 1 all regions would be meant alike.
    """
    return Recipe(
        system=KDVLP.Config(
            width=128,
            image=GridCNN.Config(),
            text=TextEmbedding.Config(word_std=0.09, position_std=0.04, dropout=0),
            fusion=DualStream.Config(layers=3, heads=4, dropout=0, start="match", place="values", init_std=0.05),
            mlm=MLM.Config(words="phrases", tied=True),
            pra=PRA.Config(target_temperature=0.1),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=0.5),
        train=TrainConfig(steps=2000, batch_size=16, lr=1e-3, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """ResNet-101 with cells of 64 pixels under 12 layers of 768, taught by 2,048 numbers and the classes of a store.

    Steps, rate and size of pictures are ours: they are not known. Meant with BERT's cased vocabulary (`text.vocab`).
    """
    return Recipe(
        system=KDVLP.Config(features=2048, text=TextEmbedding.Config(positions=512)),
        text=TextConfig(max_tokens=60),
        data=DataConfig(image=ImageConfig(short=600, long=1000, multiple=64), foreign=1.0, workers=8),
        train=TrainConfig(steps=200_000, batch_size=1024, lr=5e-5, warmup=0.05, clip=5.0),
    )
