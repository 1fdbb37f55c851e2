"""Optimal transport between two sets of tokens by IPOT (Xie et al., UAI 2019), as UNITER and ViLT use it for word-patch alignment.

Text tokens t and visual tokens v both carry a total mass of 1, spread evenly; moving mass from t to v costs 1 - cos(t, v).
The plan that moves it most cheaply is found by a proximal point iteration (T text tokens, V visual tokens):

    kernel = exp(-cost / beta)          plan = 1          sigma = 1 / T
    repeat:  q = kernel * plan          delta = 1 / (V q' sigma)          sigma = 1 / (T q delta)          plan = sigma q delta'
    distance = sum(cost * plan)

The plan is a constant for the gradient, which reaches the tokens through the cost alone, and is computed in fp32 whatever the
precision of the model: fifty rounds of products and quotients do not survive less.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.nn.exact import exact

_FAR = 1e4  # added to the denominators of padding: its scale becomes 1e-4 of nothing, never a division by 0


class Transport(NamedTuple):
    distance_B: Tensor
    plan_BTV: Tensor  # how much of each text token's mass lies on each visual token; sums to 1; no gradient


def cosine_cost(text_BTD: Tensor, visual_BVD: Tensor) -> Tensor:
    """[B, T, V] in [0, 2], fp32."""
    with exact(text_BTD):
        return 1 - F.normalize(text_BTD.float(), dim=-1, eps=1e-5) @ F.normalize(visual_BVD.float(), dim=-1, eps=1e-5).mT


@torch.no_grad()
def ipot(cost_BTV: Tensor, text_mask_BT: Tensor, visual_mask_BV: Tensor, beta: float = 0.5, rounds: int = 50) -> Tensor:
    """The plan [B, T, V]; zero wherever either side is padding, and in rows where a side is nothing else (an empty caption)."""
    is_both_B1 = (text_mask_BT.any(1) & visual_mask_BV.any(1))[:, None]
    text_mask_BT, visual_mask_BV = text_mask_BT & is_both_B1, visual_mask_BV & is_both_B1
    both_BTV = text_mask_BT[:, :, None] & visual_mask_BV[:, None, :]
    text_B11 = text_mask_BT.sum(1).clamp(min=1).float()[:, None, None]
    visual_B11 = visual_mask_BV.sum(1).clamp(min=1).float()[:, None, None]
    text_far_BT1 = ~text_mask_BT[:, :, None] * _FAR
    visual_far_BV1 = ~visual_mask_BV[:, :, None] * _FAR
    with exact(cost_BTV):
        kernel_BTV = torch.exp(-cost_BTV.float() / beta) * both_BTV
        plan_BTV = both_BTV.float()
        sigma_BT1 = text_mask_BT[:, :, None] / text_B11
        for _ in range(rounds):
            q_BTV = kernel_BTV * plan_BTV
            delta_BV1 = 1 / (visual_B11 * (q_BTV.mT @ sigma_BT1) + visual_far_BV1)
            sigma_BT1 = 1 / (text_B11 * (q_BTV @ delta_BV1) + text_far_BT1)
            plan_BTV = sigma_BT1 * q_BTV * delta_BV1.mT
    return plan_BTV


def transport(
    text_BTD: Tensor, text_mask_BT: Tensor, visual_BVD: Tensor, visual_mask_BV: Tensor, beta: float = 0.5, rounds: int = 50
) -> Transport:
    """Distance of each row's text from its picture, and the plan that shows which word lies where."""
    cost_BTV = cosine_cost(text_BTD, visual_BVD)
    plan_BTV = ipot(cost_BTV, text_mask_BT, visual_mask_BV, beta, rounds)
    return Transport((cost_BTV * plan_BTV).sum((1, 2)), plan_BTV)
