"""Supervised naming: which thing is this? The one-modality root of the picture side.

    dense     every picture token that lies mostly under a box says the box's name and its attributes;
              a box counts once, however many tokens it covers: L = mean over boxes of the mean over its tokens
    picture   the whole-picture token (or the mean of all tokens) says the picture's label, the names in it, or its texts

    L(token) = -log p(name | token) - attribute_weight * mean over its attributes of log p(attribute | token)

What an ImageNet classifier is to ViLT and a detector with attributes (Anderson et al., CVPR 2018) to VinVL, with cells in the place
of proposals. Names and attributes are taken from the training data (`prepare`), most frequent first, and travel with the weights.

With `by="words"` a class is the mean of its tokens' word embeddings, so picture tokens come to lie where the words lie, and a
fusion encoder that compares the two starts with eyes open. With `by="classes"` every class has a vector of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Box, Images, LossTerm, Reader, Regions, Sample, Tokenizer, Visual
from diptych.nn.box import coverage
from diptych.nn.packing import at_length
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows


class Naming(nn.Module):
    piece_KW: Tensor
    weight_KW: Tensor

    class Config(config.Config):
        unit: Literal["dense", "picture"] = "dense"
        by: Literal["words", "classes"] = "classes"
        names: tuple[str, ...] = Field(default=(), repr=False)  # taken from the training data where empty
        attributes: tuple[str, ...] = Field(default=(), repr=False)
        most_names: PositiveInt = 1600  # BUTD's vocabulary: 1,600 objects and 400 attributes
        most_attributes: PositiveInt = 400
        pool: Literal["first", "mean"] = "first"  # what stands for the whole picture: its first token, or all of them
        least_cover: float = Field(default=0.5, gt=0, le=1)  # share of a token that must lie under the box
        attribute_weight: float = Field(default=1.0, ge=0)
        weight: PositiveFloat = 1.0

        def build(self, width: int, tokenizer: Tokenizer | None = None) -> Naming:
            return Naming(self, width, tokenizer)

    @staticmethod
    def prepare(config: Config, readers: Sequence[Reader], asks: str = "naming") -> Config:
        """Names and attributes of the training data; `asks`: who needs them, for the refusal."""
        if config.names:
            return config
        name_count: Counter[str] = Counter()
        attribute_count: Counter[str] = Counter()
        for reader in readers:
            for sample in (reader[i] for i in range(len(reader))):
                if config.unit == "picture":
                    name_count.update(names_of(sample))
                else:
                    name_count.update(box.name for box in sample.boxes)
                    attribute_count.update(a for box in sample.boxes for a in box.attributes)
        names = _most_frequent(name_count, config.most_names)
        if len(names) < 2:
            what = "boxes with names" if config.unit == "dense" else "pictures with names"
            raise UserError(
                f"{asks} needs {what}, of two names at least; the training data has {len(names)} (--data scenes has more)"
            )
        return config.model_copy(update={"names": names, "attributes": _most_frequent(attribute_count, config.most_attributes)})

    def __init__(self, config: Config, width: int, tokenizer: Tokenizer | None = None):
        super().__init__()
        if not config.names:
            raise UserError("naming.names is empty: training fills it from the data")
        self.config = config
        self._name_place = {name: k for k, name in enumerate(config.names)}
        self._attribute_place = {name: k for k, name in enumerate(config.attributes)}
        classes = [*config.names, *config.attributes]
        self.bias = nn.Parameter(torch.zeros(len(classes)))
        self.vector = self.log_scale = None
        if config.by == "classes":
            self.vector = nn.Linear(width, len(classes), bias=False)
            self.apply(initialise)
        else:
            if tokenizer is None:
                raise ValueError("naming by words needs the tokenizer")
            self.log_scale = nn.Parameter(torch.zeros(()))  # of the scores, so that words need not grow to be told apart
            pieces = [[i for word in name.split() for i in tokenizer.ids_of(word)] or [tokenizer.unk_id] for name in classes]
            longest = max(map(len, pieces))
            piece_KW = torch.tensor([ids + [ids[0]] * (longest - len(ids)) for ids in pieces])
            weight_KW = torch.tensor([[1 / len(ids)] * len(ids) + [0.0] * (longest - len(ids)) for ids in pieces])
            self.register_buffer("piece_KW", piece_KW, persistent=False)
            self.register_buffer("weight_KW", weight_KW, persistent=False)

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """`naming` [I, R]: the class of each box (`picture`: of each of the picture's names), IGNORE where it has no known one.

        `naming_attributes` [I, R, K], bool: the attributes it has.
        """
        assert batch.images is not None and batch.image_of_BN is not None
        things: list[Sequence[Box]] = [()] * len(batch.images.pixel_I3HW)
        for i, sample in zip(batch.image_of_BN[:, 0].tolist(), batch.samples, strict=True):
            if i < 0:  # a text without a picture
                continue
            things[i] = sample.boxes if self.config.unit == "dense" else [Box((0, 0, 0, 0), name) for name in names_of(sample)]
        name_IR, attribute_IRK = places_of(things, self._name_place, self._attribute_place)
        is_asked = name_IR != IGNORE
        if self.config.unit == "dense":
            if batch.regions is not None:  # a box without area keeps its place, but nothing lies under it
                is_asked &= batch.regions.mask_IR
                name_IR.masked_fill_(~is_asked, IGNORE)
            count = is_asked.sum()
        else:
            count = is_asked.any(1).sum()
        return replace(
            batch,
            image_labels={**batch.image_labels, "naming": name_IR, "naming_attributes": attribute_IRK},
            counts={**batch.counts, "naming": float(count)},
        )

    # --------------------------------------------------------------------------------------------------- training

    def logits(self, x_PD: Tensor, word_KD: Tensor | None = None) -> Tensor:
        """[..., K] of all names, then all attributes. `word_KD`: the word embeddings, where classes are words."""
        if self.vector is not None:
            return self.vector(x_PD) + self.bias
        if word_KD is None or self.log_scale is None:
            raise ValueError("naming by words needs the word embeddings: naming(visual, batch, embedding.weight)")
        class_KD = (word_KD[self.piece_KW] * self.weight_KW[..., None]).sum(1)
        return F.linear(x_PD, class_KD * self.log_scale.exp()) + self.bias

    def forward(self, visual: Visual, batch: Batch, word_KD: Tensor | None = None) -> LossTerm:
        """Tokens that no box asks about are not decoded."""
        name_IR, attribute_IRK = batch.image_labels["naming"], batch.image_labels["naming_attributes"]
        if self.config.unit == "dense":
            i_P, r_P, v_P, share_P = self.tokens_of_boxes(visual, batch)
            x_PD = visual.token_IVD[i_P, v_P]
        else:
            i_P, r_P = (name_IR != IGNORE).nonzero(as_tuple=True)
            share_P = 1 / (name_IR != IGNORE).sum(1)[i_P].float()
            x_PD = self.pooled(visual)[i_P]
        logits_PK = at_length(lambda x_PD: self.logits(x_PD, word_KD), x_PD).float()
        name_PK, attribute_PK = logits_PK.split([len(self.config.names), len(self.config.attributes)], 1)
        label_P, has_PK = name_IR[i_P, r_P], attribute_IRK[i_P, r_P].float()
        loss_P = F.cross_entropy(name_PK, label_P, reduction="none")
        if self.config.attributes:
            each_P = -(attribute_PK.log_softmax(1) * has_PK).sum(1) / has_PK.sum(1).clamp(min=1)
            loss_P = loss_P + self.config.attribute_weight * each_P
        right = ((name_PK.detach().argmax(1) == label_P) * share_P).sum()
        count = batch.counts["naming"]
        return LossTerm((loss_P * share_P).sum(), count, self.config.weight, {"accuracy": (right, count)})

    def tokens_of_boxes(self, visual: Visual, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(picture, box, token, share of the box's loss) of every token that speaks for a box: those mostly under it.

        A box too small for that has the token it covers most.
        """
        assert batch.regions is not None
        cover_IRV = coverage(batch.regions.box_IR4, visual.box_IV4) * visual.mask_IV[:, None]
        least_IR1 = cover_IRV.amax(2, keepdim=True).clamp(min=1e-6, max=self.config.least_cover)
        speaks_IRV = (cover_IRV >= least_IR1) & (batch.image_labels["naming"] != IGNORE)[..., None]
        i_P, r_P, v_P = speaks_IRV.nonzero(as_tuple=True)
        return i_P, r_P, v_P, 1 / speaks_IRV.sum(2)[i_P, r_P].float()

    def pooled(self, visual: Visual) -> Tensor:
        """[I, D]"""
        return visual.token_IVD[:, 0] if self.config.pool == "first" else visual.mean()


def places_of(
    things: Sequence[Sequence[Box]], name_place: Mapping[str, int], attribute_place: Mapping[str, int]
) -> tuple[Tensor, Tensor]:
    """[I, R] the class of each box of each picture, IGNORE where it has no known one; [I, R, K], bool: its attributes."""
    most = max(1, *map(len, things))
    name_IR = torch.full((len(things), most), IGNORE)
    attribute_IRK = torch.zeros(len(things), most, len(attribute_place), dtype=torch.bool)
    for i, boxes in enumerate(things):
        for r, box in enumerate(boxes):
            name_IR[i, r] = name_place.get(box.name, IGNORE)
            attribute_IRK[i, r, [attribute_place[a] for a in box.attributes if a in attribute_place]] = True
    return name_IR, attribute_IRK


def names_of(sample: Sample) -> list[str]:
    """What a picture as a whole may be called: its label, or else the names of its boxes, or else its texts."""
    if "label" in sample.labels:
        return [str(sample.labels["label"])]
    return list(dict.fromkeys([box.name for box in sample.boxes if box.name] or sample.texts))


def _most_frequent(count: Counter[str], most: int) -> tuple[str, ...]:
    return tuple(sorted((name for name in count if name), key=lambda name: (-count[name], name))[:most])


def example() -> tuple[Naming, Visual, Batch]:
    batch = example_rows.batch()
    assert batch.image_of_BN is not None
    boxes = [
        (Box((0, 0, 9, 8), "dog", ("red",)), Box((9, 0, 16, 8), "cat")),
        (Box((3, 0, 5, 8), "cat", ("big", "red")), Box((0, 0, 3, 8), "something else")),
        (),
    ]
    corner_IR4 = torch.zeros(3, 2, 4)
    for i, own in enumerate(boxes):
        for r, box in enumerate(own):
            corner_IR4[i, r] = torch.tensor(box.xyxy) / torch.tensor([16, 8, 16, 8])
    batch = replace(
        batch,
        images=Images(torch.zeros(3, 3, 8, 16, dtype=torch.uint8), torch.ones(3, 8, 16, dtype=torch.bool)),
        regions=Regions(corner_IR4, corner_IR4.any(2)),
        samples=tuple(Sample(key, boxes=boxes[i]) for key, i in zip(batch.keys, batch.image_of_BN[:, 0].tolist(), strict=True)),
    )
    config = Naming.Config(names=("cat", "dog"), attributes=("red", "big"))
    return Naming(config, example_rows.WIDTH), example_rows.visual(), batch
