"""Sine positions in two directions (DETR, Carion et al., 2020; SOHO): half of the width tells y, the other half x.

    sin, cos of  2 pi y / 10000^(2i / (D / 2)),  i = 0, 1, ...      y, x the lower right corner of the box, in [0, 1]

For a grid whose last cells are whole this is DETR's count of cells over their number; a cell that reaches over the picture's edge
ends where the picture does, so its neighbours lie a little further out than there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine(box_IV4: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """[..., D] from boxes xyxy in [0, 1]; D is a multiple of 4."""
    half = width // 2
    slow_D = temperature ** (torch.arange(0, half, 2, device=box_IV4.device) / half)
    halves = []
    for side in (3, 2):
        angle_IVD = 2 * math.pi * box_IV4[..., side, None].float() / slow_D
        halves.append(torch.stack([angle_IVD.sin(), angle_IVD.cos()], -1).flatten(-2))
    return torch.cat(halves, -1)
