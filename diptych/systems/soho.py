"""SOHO: Seeing Out of tHe bOx, end-to-end pre-training with a visual dictionary (Huang et al., CVPR 2021).

    words   -> embedding ---------------------------------------------------------\\                -> masked words        (mlm)
                                                                                   BERT, one stream -> masked visual word  (mvm)
    picture -> CNN -> cells -> nearest words -> gate -> [mask] -> + place -> norm -/                -> match or mismatch   (itm)
                            \\------- cells ----/

No detector: a convolutional grid is trained with everything else, and a dictionary of K vectors, which follows the cells by
moving averages, gathers cells that look alike under one index. The index is what a masked cell is asked for. One masked pass
serves all three objectives: a text is swapped or not, then words of it are hidden, then all cells of one visual word, also where
text and picture do not match (`mask_on_negatives`). The survey counts SOHO as dual-stream, its code joins the streams:
`fusion.kind` is either.

    difference from the released code        here
    words of the dictionary move within      between steps, over all ranks (image/visual_dictionary.py)
      the forward pass
    moving averages start at zero            at the words, or else unused ones become zero vectors; `released` starts at zero
    decay .4, MVM in .015 of the rows        .99 and all rows, as the paper reads; `released` has the code's
    one cell is drawn for the whole batch    one for each row, from its own id
    width of the mask from the height        its own: masks of pictures that are not square are right
    losses of MLM and MVM over all hidden    MLM so; MVM a mean a row first, for what it hides is known only in the forward pass
    a mismatch has the first caption of      any caption of another picture, half of the rows on average (objectives/itm.py)
      another picture, in half of a batch
    match head without bias                  with one
    BERT and an ImageNet ResNet as a start   `--init image=RUN` (weights/resnet.py), or SOHO's own weights (weights/soho.py)
    fp16                                     bf16 where the device has it

The text of the paper was not at hand: docs/systems/soho.md says which numbers of `paper` are known from where.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TextConfig, TrainConfig
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, ParamGroup, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.pictures import of_rows
from diptych.fusion.single_stream import SingleStream
from diptych.image.gated_neck import GatedNeck
from diptych.image.grid_cnn import GridCNN
from diptych.image.resnet import ResNet
from diptych.image.visual_dictionary import VisualDictionary
from diptych.nn import batch_norm
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.mvm import MVM
from diptych.text.embedding import TextEmbedding


class ImageOptimizer(config.Config):
    """Of the CNN; everything else learns by AdamW at `train.lr`."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr_factor: PositiveFloat = 100.0
    weight_decay: NonNegativeFloat = 1e-4


def resnet(depth: Literal[18, 34, 50, 101, 152]) -> ResNet.Config:
    """ImageNet's network under cells of 64 pixels: its norms, stem and first stage stay as they are."""
    return ResNet.Config(depth=depth, norm="frozen", frozen=2, pool=True, project=True)


class SOHO(System):
    class Config(config.Config):
        kind: Literal["soho"] = "soho"
        width: PositiveInt = 768
        image: ResNet.Config | GridCNN.Config = Field(default=resnet(101), discriminator="kind")
        dictionary: VisualDictionary.Config | None = VisualDictionary.Config()  # None: cells go into the stream as they are
        neck: GatedNeck.Config = GatedNeck.Config()
        text: TextEmbedding.Config = TextEmbedding.Config(positions=512)
        fusion: SingleStream.Config | DualStream.Config = Field(
            default=SingleStream.Config(norm="post", eps=1e-12, attention_dropout=0.1, pooler=False), discriminator="kind"
        )
        mlm: MLM.Config = MLM.Config(unit="token", tied=True, plain=True)
        mvm: MVM.Config | None = MVM.Config()  # None: the dictionary still stands between picture and text
        itm: ITM.Config = ITM.Config()
        mask_on_negatives: bool = True  # ask hidden words and cells of mismatched pairs too
        image_optimizer: ImageOptimizer = ImageOptimizer()

        @model_validator(mode="after")
        def _words(self) -> SOHO.Config:
            if self.mvm and not self.dictionary:
                raise ValueError("mvm asks for words of the dictionary: keep both, or set mvm=null too")
            return self

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.dictionary = config.dictionary.build(config.width) if config.dictionary else None
        self.neck = config.neck.build(config.width, has_words=self.dictionary is not None)
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(config.width)
        self.mlm = config.mlm.build(config.width, tokenizer)
        self.mvm = config.mvm.build(config.width) if config.mvm else None
        self.itm = config.itm.build(config.width)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        batch = self.mlm.corrupt(self.itm.corrupt(batch, draw), draw)
        batch = self.mvm.corrupt(batch, draw) if self.mvm else batch
        return batch if self.config.mask_on_negatives else ask_matches_only(batch)

    def spell(self, batch: Batch) -> tuple[Visual, Tensor]:
        """Each distinct picture once: cells mixed with the words they are nearest to, and which words [I, V]."""
        assert batch.images is not None and self.dictionary is not None
        cells = self.image(batch.images)
        spelled = self.dictionary(cells.token_IVD, cells.mask_IV)
        return self.neck(cells, spelled.word_IVD), spelled.index_IV

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.neck.placed(self.image(batch.images) if self.dictionary is None else self.spell(batch)[0])

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        assert batch.image_of_BN is not None
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """One pass over words and cells, both with gaps; captions of one picture may hide different cells of it."""
        if self.mvm is None:
            return self.of_texts(self.fuse(batch, read_BT=batch.labels["mlm"] != IGNORE), batch)
        assert batch.image_of_BN is not None and self.dictionary is not None
        mixed, index_IV = self.spell(batch)
        row = of_rows(mixed, batch.image_of_BN)
        index_BV = index_IV[batch.image_of_BN.clamp(min=0)].flatten(1)
        token_BVD, word_BV = self.mvm.hide(row.token_BVD, index_BV, row.mask_BV, batch)
        if not self.config.mask_on_negatives:  # only now: a picture without a gap would say that its text is another's
            word_BV = word_BV.masked_fill((batch.labels["itm"] == 0)[:, None], IGNORE)
        own = replace(batch, image_of_BN=torch.arange(len(batch), device=index_BV.device)[:, None])
        visual = self.neck.placed(Visual(token_BVD, row.mask_BV, row.box_BV4))
        fused = self.fuse(own, visual, read_BT=batch.labels["mlm"] != IGNORE, read_BV=word_BV != IGNORE)
        mvm = self.mvm(fused, batch, word_BV, self.dictionary.word_KD)
        mvm = replace(mvm, metrics={**mvm.metrics, **self.dictionary.metrics()})
        return {"mvm": mvm, **self.of_texts(fused, batch)}

    def of_texts(self, fused: Fused, batch: Batch) -> dict[str, LossTerm]:
        return {"mlm": self.mlm(fused, batch, self.text.word.weight), "itm": self.itm(fused, batch)}

    def words(self, x_PD: Tensor) -> Tensor:
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        return self.itm.logit(fused)

    def param_groups(self) -> list[ParamGroup]:
        settings, cnn = self.config.image_optimizer, [p for p in self.image.parameters() if p.requires_grad]
        of_cnn = set(cnn)  # for look-ups; the list keeps an order, which the norm of the gradient depends on in its last bit
        rest = [group._replace(params=[p for p in group.params if p not in of_cnn]) for group in super().param_groups()]
        return [ParamGroup(cnn, "cnn", settings.lr_factor, settings.weight_decay, settings.optimizer), *rest]

    def after_step(self) -> None:
        if self.dictionary:
            self.dictionary.commit()
        batch_norm.commit(self)

    def discard_step(self) -> None:
        if self.dictionary:
            self.dictionary.discard()
        batch_norm.discard(self)


def ask_matches_only(batch: Batch) -> Batch:
    """What is hidden under a text of another picture stays hidden, and is not asked for: its words here, its cells in `forward`."""
    is_match_B = batch.labels["itm"] == 1
    label_BT = batch.labels["mlm"].masked_fill(~is_match_B[:, None], IGNORE)
    counts = {**batch.counts, "mlm": float((label_BT != IGNORE).sum())}
    if "mvm" in batch.labels:
        counts["mvm"] = float(((batch.labels["mvm"] != IGNORE) & is_match_B).sum())
    return replace(batch, labels={**batch.labels, "mlm": label_BT}, counts=counts)


def tiny() -> Recipe:
    return Recipe(
        system=SOHO.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            dictionary=VisualDictionary.Config(words=32, decay=0.9, revive=2),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, norm="post", dropout=0, pooler=False),
            mvm=MVM.Config(temperature=0.1),
            image_optimizer=ImageOptimizer(lr_factor=5),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16), foreign=1.0),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, after both roots: image from `cnn:small`, words from `bert:small`.

    In one stream 64 cells need more pictures than a quarter of an hour has: after 48,000 it still guessed from the words alone.
    """
    return Recipe(
        system=SOHO.Config(
            width=128,
            image=GridCNN.Config(),
            dictionary=VisualDictionary.Config(words=256, decay=0.95, revive=4),
            text=TextEmbedding.Config(word_std=0.09, position_std=0.04, dropout=0),
            fusion=DualStream.Config(layers=3, heads=4, dropout=0, pooler=False, start="match", place="values", init_std=0.05),
            mlm=MLM.Config(unit="token", words="phrases", tied=True, plain=True),
            mvm=MVM.Config(temperature=0.1),
            mask_on_negatives=False,
            image_optimizer=ImageOptimizer(lr_factor=10),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=1.0),
        train=TrainConfig(steps=2500, batch_size=16, lr=1e-3, schedule="steps", milestones=(0.625, 0.875), weight_decay=0.02),
    )


def paper() -> Recipe:
    """ResNet-101 and BERT-base on COCO and Visual Genome: 40 rounds of 219 000 pictures, 4096 pairs a step."""
    return Recipe(
        system=SOHO.Config(image_optimizer=ImageOptimizer(weight_decay=5e-4)),
        text=TextConfig(max_tokens=16),
        data=DataConfig(
            image=ImageConfig(short=600, long=1000, multiple=64, augment="flip"), texts_per_image=4, foreign=1.0, workers=8
        ),
        train=TrainConfig(
            steps=8555,
            batch_size=1024,
            lr=1e-4,
            warmup=1000 / 8555,
            warmup_from=1 / 3,
            schedule="steps",
            milestones=(25 / 40, 35 / 40),
            clip=10.0,
            betas=(0.9, 0.999),
        ),
    )


def released() -> Recipe:
    """The published code's own configuration: ResNet-18, three layers, a quick dictionary, few hidden visual words."""
    system = SOHO.Config(
        image=resnet(18),
        dictionary=VisualDictionary.Config(decay=0.4, start="zero"),
        fusion=SingleStream.Config(layers=3, norm="post", eps=1e-12, attention_dropout=0.1, pooler=False),
        mvm=MVM.Config(rate=0.015),
    )
    return paper().model_copy(update={"system": system})
