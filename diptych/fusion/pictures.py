"""The pictures of each row, laid one after the other: where "encoded once" meets "used by many texts"."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diptych.contracts import Visual


class RowPictures(NamedTuple):
    token_BVD: Tensor
    mask_BV: Tensor
    slot_BV: Tensor  # int64: which of the row's N pictures
    box_BV4: Tensor


def of_rows(visual: Visual, image_of_BN: Tensor) -> RowPictures:
    """Gather by row; a slot of -1 holds no picture and is masked. V becomes N times the V of one picture."""
    picture_BN = image_of_BN.clamp(min=0)
    mask_BNV = visual.mask_IV[picture_BN] & (image_of_BN >= 0)[:, :, None]
    slot_N = torch.arange(image_of_BN.shape[1], device=image_of_BN.device)
    return RowPictures(
        visual.token_IVD[picture_BN].flatten(1, 2),
        mask_BNV.flatten(1),
        slot_N[None, :, None].expand(mask_BNV.shape).flatten(1),
        visual.box_IV4[picture_BN].flatten(1, 2),
    )
