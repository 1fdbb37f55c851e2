"""Regions as picture tokens (UNITER, section 3): what a detector saw in each box, and where.

    token = LN( LN(W f) + LN(W' [x1 y1 x2 y2 w h w*h]) ) -> dropout       f: the region's feature; coordinates in [0, 1]
    hidden: f becomes 0 + a learned vector, before W

The boxes and features come with the batch (regions/store.py); no pixel is read. UNITER adds its type embedding inside the outer
LayerNorm; here the hinge adds it, as it does for every kind of picture token. A picture without any region has one token that says
nothing but where it lies: everywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.contracts import Regions, Visual
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
        if regions is None or regions.feature_IRD is None:
            raise UserError(MISSING)
        if (width := regions.feature_IRD.shape[-1]) != self.config.features:
            raise UserError(
                f"region features are {width} wide, but system.image.features={self.config.features}: another detector's"
            )
        feature_IRD, mask_IR = regions.feature_IRD, regions.mask_IR
        if is_hidden_IR is not None:
            feature_IRD = torch.where(is_hidden_IR[..., None], self.hidden, feature_IRD)
        is_first_R = torch.arange(mask_IR.shape[1], device=mask_IR.device) == 0
        is_bare_IR = is_first_R & ~mask_IR.any(1, keepdim=True)
        box_IR4 = torch.where(is_bare_IR[..., None], box_of_all(regions.box_IR4), regions.box_IR4)
        place_IRD = self.place_norm(self.place(seven(box_IR4)))
        token_IRD = self.norm(self.feature_norm(self.feature(feature_IRD)) + place_IRD)
        return Visual(self.dropout(token_IRD), mask_IR | is_bare_IR, box_IR4)


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
