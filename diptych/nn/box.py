"""Boxes as tensors [..., 4], and the tokens that lie under a box.

xyxy = corners x1 y1 x2 y2; cxcywh = centre and size. Any unit, the same on both sides; in a batch [0, 1] of the unpadded picture.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_cxcywh(xyxy: Tensor) -> Tensor:
    low, high = xyxy[..., :2], xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def to_xyxy(cxcywh: Tensor) -> Tensor:
    centre, size = cxcywh[..., :2], cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def area(box: Tensor) -> Tensor:
    return (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)


def intersection(a_R4: Tensor, b_S4: Tensor) -> Tensor:
    """[..., R, S] common area of every pair; leading dimensions go together."""
    low = torch.maximum(a_R4[..., :, None, :2], b_S4[..., None, :, :2])
    high = torch.minimum(a_R4[..., :, None, 2:], b_S4[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a_R4: Tensor, b_S4: Tensor) -> Tensor:
    """[..., R, S] common area over joint area, 0 where both are empty."""
    common_RS = intersection(a_R4, b_S4)
    joint_RS = area(a_R4)[..., :, None] + area(b_S4)[..., None, :] - common_RS
    return torch.where(joint_RS > 0, common_RS / joint_RS.clamp(min=torch.finfo(joint_RS.dtype).tiny), 0.0)


def giou(a_R4: Tensor, b_S4: Tensor) -> Tensor:
    """[..., R, S] iou less the share of the smallest box around both that neither covers (Rezatofighi et al., 2019); in [-1, 1]."""
    low = torch.minimum(a_R4[..., :, None, :2], b_S4[..., None, :, :2])
    high = torch.maximum(a_R4[..., :, None, 2:], b_S4[..., None, :, 2:])
    tiny = torch.finfo(low.dtype).tiny
    around_RS = (high - low).clamp(min=0).prod(-1)
    common_RS = intersection(a_R4, b_S4)
    joint_RS = area(a_R4)[..., :, None] + area(b_S4)[..., None, :] - common_RS
    return common_RS / joint_RS.clamp(min=tiny) - (around_RS - joint_RS) / around_RS.clamp(min=tiny)


def coverage(box_R4: Tensor, token_V4: Tensor) -> Tensor:
    """[..., R, V] the share of each token's area that lies in each box: 1 for a patch inside it, little for a whole-image token."""
    size_1V = area(token_V4)[..., None, :]
    return intersection(box_R4, token_V4) / size_1V.clamp(min=torch.finfo(size_1V.dtype).tiny)


def pool(token_BVD: Tensor, mask_BV: Tensor, token_box_BV4: Tensor, box_BR4: Tensor) -> Tensor:
    """[B, R, D] mean of the real tokens under each box, weighted by coverage; zeros where a box lies on none."""
    weight_BRV = coverage(box_BR4, token_box_BV4) * mask_BV[:, None, :]
    total_BR1 = weight_BRV.sum(-1, keepdim=True)
    share_BRV = weight_BRV / total_BR1.clamp(min=torch.finfo(total_BR1.dtype).tiny)
    return share_BRV.to(token_BVD.dtype) @ token_BVD
