"""VinVL: Oscar+ on a better detector's regions (Zhang et al., CVPR 2021; Oscar: Li et al., ECCV 2020).

    [CLS] caption [SEP] tags [SEP]      -> embedding -------- \\                       -> masked words of caption and tags   (mlm)
       tags: what the detector calls                           BERT, one stream
       the regions                                            /                       -> which of the three is wrong   (contrast3)
    regions, [feature ; box] -> Linear --------------------- /

The tags are the anchor between the two sides: words, but told by the picture. In half of the rows the caption or the tags are
another picture's (objectives/contrast3.py); words are hidden in both, whether they match or not. Regions and their classes come
from a store (`--regions STORE`); no pixel is read. Whatever the task, the tags are put behind its text here, in `fuse`.

    difference from the released code       here
    a corpus of caption-tag-image triples   tags are made of the store's likeliest classes, a word or more a region, surest first
    answers in the place of captions, and   captions and tags alone
      tags for question-answer pairs
    caption and tags share 35 tokens        `text.max_tokens` for the caption, `tags` for the tags
    rows of one batch lend wrong ones       samples of other global indices; tags that are the same stay a match
    no type embedding on regions            one, added by the hinge
    BERT as a start                         `--init text=RUN`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TextConfig, TrainConfig, UserError
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Reader, Sample, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.image.regions import MISSING, RegionLinear, class_names, of_detector
from diptych.objectives.contrast3 import FALSE_TAGS, MATCH, Contrast3
from diptych.objectives.mlm import MLM
from diptych.text.embedding import TextEmbedding
from diptych.text.names import name_tokens

NONE = -1  # the class of a region that is not there


class VinVL(System):
    reads_regions: ClassVar[bool] = True
    negatives: int = 2  # one lends its caption, one its tags
    _name_KL: Tensor

    class Config(config.Config):
        kind: Literal["vinvl"] = "vinvl"
        width: PositiveInt = 768
        image: RegionLinear.Config = RegionLinear.Config()
        names: tuple[str, ...] = Field(default=(), repr=False)  # the detector's classes; taken from the region store where empty
        tags: PositiveInt = 16  # tokens of tags at most; a tag goes whole or not at all
        text: TextEmbedding.Config = TextEmbedding.Config(positions=64)
        fusion: SingleStream.Config | DualStream.Config = Field(
            default=SingleStream.Config(norm="post", eps=1e-12, attention_dropout=0.1), discriminator="kind"
        )
        mlm: MLM.Config = MLM.Config(unit="token", tied=True)
        contrast3: Contrast3.Config = Contrast3.Config()
        mask_on_polluted: bool = True  # ask hidden words of rows whose caption or tags are another picture's too

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        """The detector's width and the names of its classes, where the configuration leaves them open."""
        keys = ("image.features", "names")
        features, _ = of_detector(readers, config.image.features, len(config.names), keys)
        image = config.image.model_copy(update={"features": features})
        return config.model_copy(update={"image": image, "names": class_names(readers, config.names)})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        if not config.names:
            raise UserError("system.names is empty: training takes them from the region store (--regions STORE)")
        self.config, self._sep, self._pad = config, tokenizer.sep_id, tokenizer.pad_id
        self.register_buffer("_name_KL", name_tokens(config.names, tokenizer), persistent=False)
        self.image = config.image.build(config.width)
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(config.width)
        self.mlm = config.mlm.build(config.width, tokenizer)
        self.contrast3 = config.contrast3.build(config.width)

    # ------------------------------------------------------------------------------------------------------- the tags

    def classes(self, batch: Batch) -> Tensor:
        """[B, R] what the detector calls each region of a row's picture(s), NONE in the padding."""
        regions, picture_BN = batch.regions, batch.image_of_BN
        if regions is None or regions.soft_label_IRK is None or picture_BN is None:
            raise UserError(MISSING)
        class_IR = self._likeliest(regions.soft_label_IRK).masked_fill(~regions.mask_IR, NONE)
        return class_IR[picture_BN.clamp(min=0)].masked_fill((picture_BN < 0)[..., None], NONE).flatten(1)

    def _likeliest(self, soft_label: Tensor) -> Tensor:
        if soft_label.shape[-1] != len(self.config.names):
            known = len(self.config.names)
            raise UserError(f"regions of {soft_label.shape[-1]} classes, but this VinVL knows {known}: another detector's")
        return soft_label[..., 1:].argmax(-1) + 1

    def with_tags(self, batch: Batch, class_BR: Tensor) -> Batch:
        """The rows with tags and a [SEP] behind their text, in segment 1. A row without regions stays as it is."""
        name_BRL = self._name_KL[class_BR.clamp(min=0)]
        is_token_BRL = (name_BRL >= 0) & (class_BR != NONE)[..., None]
        rank_BRL = is_token_BRL.flatten(1).cumsum(1).view_as(name_BRL) - 1
        is_token_BRL &= rank_BRL.amax(2, keepdim=True) < self.config.tags  # ranks rise: behind a tag that is cut off all are
        tokens_B, length_B = is_token_BRL.sum((1, 2)), batch.text_mask_BT.sum(1)
        end_B = length_B + tokens_B + (tokens_B > 0)
        more = int(end_B.max()) - batch.text_BT.shape[1]
        text_BT, segment_BT, word_BT = (
            F.pad(part, (0, max(more, 0)), value=value)
            for part, value in ((batch.text_BT, self._pad), (batch.segment_BT, 0), (batch.word_BT, NONE))
        )
        b_P, r_P, l_P = is_token_BRL.nonzero(as_tuple=True)
        place_P = length_B[b_P] + rank_BRL[b_P, r_P, l_P]
        first_B = batch.word_BT.amax(1) + 1  # tags are words after those of the text
        text_BT[b_P, place_P] = name_BRL[b_P, r_P, l_P]
        word_BT[b_P, place_P] = first_B[b_P] + r_P
        closed_P = tokens_B.nonzero()[:, 0]
        text_BT[closed_P, end_B[closed_P] - 1] = self._sep
        place_T = torch.arange(text_BT.shape[1], device=text_BT.device)
        mask_BT = place_T < end_B[:, None]
        segment_BT = torch.where(mask_BT & (place_T >= length_B[:, None]), 1, segment_BT)
        return replace(batch, text_BT=text_BT, text_mask_BT=mask_BT, segment_BT=segment_BT, word_BT=word_BT)

    # ---------------------------------------------------------------------------------------------------- pre-training

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Wrong tags or a wrong caption, then hidden words in what came of it."""
        class_BR = self.classes(batch)
        other_BR = self._of_others(batch)
        batch = self.contrast3.corrupt(batch, draw, differs(class_BR, other_BR))
        is_polluted_B = batch.labels["contrast3"] == FALSE_TAGS
        most = max(class_BR.shape[1], other_BR.shape[1])
        class_BR, other_BR = (F.pad(part, (0, most - part.shape[1]), value=NONE) for part in (class_BR, other_BR))
        batch = self.mlm.corrupt(self.with_tags(batch, torch.where(is_polluted_B[:, None], other_BR, class_BR)), draw)
        if self.config.mask_on_polluted:
            return batch
        label_BT = batch.labels["mlm"].masked_fill((batch.labels["contrast3"] != MATCH)[:, None], IGNORE)
        counts = {**batch.counts, "mlm": float((label_BT != IGNORE).sum())}
        return replace(batch, labels={**batch.labels, "mlm": label_BT}, counts=counts)

    def _of_others(self, batch: Batch) -> Tensor:
        """[B, R] the classes seen in another sample's picture; NONE throughout where none is at hand."""
        others = [next((s for s in reversed(own) if s.regions), None) for own in batch.others] or [None] * len(batch)
        lists = [self._likeliest(_soft_labels(sample)) if sample else torch.zeros(0, dtype=torch.int64) for sample in others]
        return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=NONE)

    def see(self, batch: Batch) -> Visual:
        return self.image(batch.regions)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        """The states of the text as it came; of pre-training's batches that is the text with its tags."""
        length = batch.text_BT.shape[1]
        tagged = batch if "contrast3" in batch.labels else self.with_tags(batch, self.classes(batch))
        more = tagged.text_BT.shape[1] - length
        read_BT = read_BT if read_BT is None else F.pad(read_BT, (0, more))
        assert tagged.image_of_BN is not None
        text_BTD = self.text(tagged.text_BT, tagged.segment_BT)
        fused = self.fusion(text_BTD, tagged.text_mask_BT, visual or self.see(batch), tagged.image_of_BN, read_BT, read_BV)
        if tagged is batch:
            return fused
        own_BTD = fused.text_BTD[:, :length] * batch.text_mask_BT[..., None]
        middle_BTD = None if fused.middle_BTD is None else fused.middle_BTD[:, :length]
        return fused._replace(text_BTD=own_BTD, text_mask_BT=batch.text_mask_BT, middle_BTD=middle_BTD)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """One pass for both."""
        fused = self.fuse(batch, read_BT=batch.labels["mlm"] != IGNORE)
        return {"mlm": self.mlm(fused, batch, self.text.word.weight), "contrast3": self.contrast3(fused, batch)}

    def words(self, x_PD: Tensor) -> Tensor:
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        return self.contrast3.logit(fused)


def differs(class_BR: Tensor, other_BR: Tensor) -> Tensor:
    """[B] rows for which the other picture has tags, and not the same ones."""
    own, other = ([sorted(k for k in row if k != NONE) for row in part.tolist()] for part in (class_BR, other_BR))
    return torch.tensor([bool(theirs) and theirs != ours for ours, theirs in zip(own, other, strict=True)], dtype=torch.bool)


def _soft_labels(sample: Sample) -> Tensor:
    """[R, K] of its first picture."""
    return torch.from_numpy(sample.regions[0].soft_label_RK.astype("float32"))


def tiny() -> Recipe:
    return Recipe(
        system=VinVL.Config(
            width=64,
            image=RegionLinear.Config(dropout=0),
            text=TextEmbedding.Config(positions=64, dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, dropout=0),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16), foreign=1.0),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, from BERT as published: `--init text=RUN --init fusion=RUN` of `bert:small`."""
    return Recipe(
        system=VinVL.Config(
            width=128,
            image=RegionLinear.Config(norm=True, dropout=0),
            text=TextEmbedding.Config(positions=64, word_std=0.09, position_std=0.04, dropout=0),
            fusion=SingleStream.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
            mlm=MLM.Config(unit="token", words="phrases", tied=True),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=0.5),
        train=TrainConfig(steps=4000, batch_size=32, lr=1e-3, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """Oscar+ base: 12 layers of 768 on 2,054 numbers a region and at most 50 regions (the store's), with BERT's uncased vocabulary.

    A million steps of 1,024 triples. Text and tags share 35 tokens there; 20 and 15 here.
    """
    return Recipe(
        system=VinVL.Config(image=RegionLinear.Config(features=2048), tags=14, text=TextEmbedding.Config(positions=512)),
        text=TextConfig(max_tokens=20),
        data=DataConfig(image=ImageConfig(short=224, long=224), foreign=1.0, workers=8),
        train=TrainConfig(steps=1_000_000, batch_size=1024, lr=1e-4, warmup=0.01, weight_decay=0.01, clip=10.0, betas=(0.9, 0.999)),
    )


def paper_large() -> Recipe:
    """Oscar+ large: 24 layers of 1,024 at a third of the rate."""
    recipe = paper()
    fusion = SingleStream.Config(layers=24, heads=16, norm="post", eps=1e-12, attention_dropout=0.1)
    system = recipe.system.model_copy(update={"width": 1024, "fusion": fusion})
    return recipe.model_copy(update={"system": system, "train": recipe.train.model_copy(update={"lr": 3e-5})})
