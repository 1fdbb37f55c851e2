"""Regions as picture tokens: what a detector saw in each box, and where.

    RegionTokens (UNITER, section 3)    LN( LN(W f) + LN(W' [x1 y1 x2 y2 w h w*h]) ) -> dropout
                                        hidden: f becomes 0 + a learned vector, before W
    RegionLinear (Oscar, VinVL)         W [f x1 y1 x2 y2 w h] [-> LN] -> dropout      f: the feature; coordinates in [0, 1]

The boxes and features come with the batch (regions/store.py); no pixel is read. UNITER adds its type embedding inside the outer
LayerNorm; here the hinge adds it, as it does for every kind of picture token. A picture without any region has one token that says
nothing but where it lies: everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.contracts import Reader, Regions, Visual
from diptych.nn.box import area
from diptych.nn.transformer import initialise

MISSING = "this system reads region features and the data has none: --regions STORE (`diptych regions extract` makes one)"


class RegionTokens(nn.Module):
    class Config(config.Config):
        kind: Literal["regions"] = "regions"
        features: NonNegativeInt = 0  # width of the region features; 0: as the training data's region store has them
        eps: PositiveFloat = 1e-12
        dropout: float = Field(default=0.1, ge=0, lt=1)

        def build(self, width: int) -> RegionTokens:
            return RegionTokens(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        if not config.features:
            raise UserError("system.image.features is 0: training takes it from the region store (--regions STORE)")
        self.config = config
        self.feature = nn.Linear(config.features, width)
        self.feature_norm = nn.LayerNorm(width, config.eps)
        self.place = nn.Linear(7, width)
        self.place_norm = nn.LayerNorm(width, config.eps)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Parameter(torch.empty(config.features))
        self.apply(initialise)
        nn.init.trunc_normal_(self.hidden, std=0.02)

    def forward(self, regions: Regions | None, is_hidden_IR: Tensor | None = None) -> Visual:
        feature_IRD, mask_IR, box_IR4 = features_of(regions, self.config.features)
        if is_hidden_IR is not None:
            feature_IRD = torch.where(is_hidden_IR[..., None], self.hidden, feature_IRD)
        place_IRD = self.place_norm(self.place(seven(box_IR4)))
        token_IRD = self.norm(self.feature_norm(self.feature(feature_IRD)) + place_IRD)
        return Visual(self.dropout(token_IRD), mask_IR, box_IR4)


class RegionLinear(nn.Module):
    class Config(config.Config):
        kind: Literal["region_linear"] = "region_linear"
        features: NonNegativeInt = (
            0  # width of the region features without the box; 0: as the training data's region store has them
        )
        norm: bool = False  # the released code's use_img_layernorm
        eps: PositiveFloat = 1e-12
        dropout: float = Field(default=0.1, ge=0, lt=1)

        def build(self, width: int) -> RegionLinear:
            return RegionLinear(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        if not config.features:
            raise UserError("system.image.features is 0: training takes it from the region store (--regions STORE)")
        self.config = config
        self.project = nn.Linear(config.features + 6, width)
        self.norm = nn.LayerNorm(width, config.eps) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.apply(initialise)

    def forward(self, regions: Regions | None) -> Visual:
        feature_IRD, mask_IR, box_IR4 = features_of(regions, self.config.features)
        token_IRD = self.norm(self.project(torch.cat([feature_IRD, seven(box_IR4)[..., :6]], -1)))
        return Visual(self.dropout(token_IRD), mask_IR, box_IR4)


def features_of(regions: Regions | None, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(feature, mask, box) of a batch's regions; a picture without any has one that covers everything and shows nothing."""
    if regions is None or regions.feature_IRD is None:
        raise UserError(MISSING)
    if (there := regions.feature_IRD.shape[-1]) != width:
        raise UserError(f"region features are {there} wide, but system.image.features={width}: another detector's")
    mask_IR = regions.mask_IR
    is_first_R = torch.arange(mask_IR.shape[1], device=mask_IR.device) == 0
    is_bare_IR = is_first_R & ~mask_IR.any(1, keepdim=True)
    box_IR4 = torch.where(is_bare_IR[..., None], box_of_all(regions.box_IR4), regions.box_IR4)
    return regions.feature_IRD, mask_IR | is_bare_IR, box_IR4


def of_detector(readers: Sequence[Reader], features: int, classes: int, keys: tuple[str, str]) -> tuple[int, int]:
    """Width and number of classes (with background) of the detector that the training data was seen by; 0 leaves one open."""
    for reader in readers:
        regions = reader[0].regions
        if not regions:
            raise UserError(MISSING)
        there = regions[0].feature_RD.shape[1], regions[0].soft_label_RK.shape[1]
        features, classes = features or there[0], classes or there[1]
        for key, asked, own in zip(keys, (features, classes), there, strict=True):
            if asked != own:
                raise UserError(f"system.{key}: {asked} given, but the region store has {own}: another detector's")
    return features, classes


@runtime_checkable
class NamesClasses(Protocol):
    """A reader of what a detector saw, which knows the names of its classes."""

    @property
    def region_classes(self) -> Sequence[str]:
        """ "background" first."""
        ...


def class_names(readers: Sequence[Reader], names: tuple[str, ...]) -> tuple[str, ...]:
    """What the detector's classes are called, "background" first; `names`, where they are not empty, must be the same."""
    for reader in readers:
        if not isinstance(reader, NamesClasses):
            raise UserError(MISSING)
        names = names or tuple(reader.region_classes)
        if names != tuple(reader.region_classes):
            raise UserError("system.names are not the classes of the region store: another detector's")
    return names


def seven(box_R4: Tensor) -> Tensor:
    """[..., 7] corners, width, height, area."""
    return torch.cat([box_R4, box_R4[..., 2:] - box_R4[..., :2], area(box_R4)[..., None]], -1)


def box_of_all(like: Tensor) -> Tensor:
    return like.new_tensor([0.0, 0.0, 1.0, 1.0])


def of_rows(regions: Regions, image_of_BN: Tensor) -> Regions:
    """The regions of each row's own picture, where rows hide different ones; a row without a picture has none."""
    if image_of_BN.shape[1] != 1:
        raise ValueError(f"rows of {image_of_BN.shape[1]} pictures: regions are hidden in rows of one")
    picture_B = image_of_BN[:, 0].clamp(min=0)
    feature_IRD, soft_label_IRK = regions.feature_IRD, regions.soft_label_IRK
    return Regions(
        regions.box_IR4[picture_B],
        regions.mask_IR[picture_B] & (image_of_BN >= 0),
        None if feature_IRD is None else feature_IRD[picture_B],
        None if soft_label_IRK is None else soft_label_IRK[picture_B],
    )
