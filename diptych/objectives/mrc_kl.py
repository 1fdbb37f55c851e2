"""Masked region classification with soft labels (UNITER, section 3.2): how sure was the detector, of which classes?

    L = mean over hidden regions of  KL( q || p ),  q the detector's probabilities, p = softmax(head(state))

The released code divides once more, by the number of classes (an element-wise mean: 1,601 times smaller); `per_class` does that.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from diptych import config
from diptych.contracts import Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.head import MLMHead
from diptych.objectives import example_rows, hidden_regions
from diptych.objectives.mrc import likeliest


class MRCKL(nn.Module):
    class Config(config.Config):
        rate: float = Field(default=0.15, gt=0, le=1)
        per_class: bool = False
        eps: PositiveFloat = 1e-12
        weight: PositiveFloat = 1.0

        def build(self, width: int, classes: int) -> MRCKL:
            return MRCKL(self, width, classes)

    def __init__(self, config: Config, width: int, classes: int):
        super().__init__()
        self.config = config
        self.head = MLMHead(width, classes, eps=config.eps)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        return hidden_regions.hide("mrc_kl", self.config.rate, batch, draw)

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        log_p_PK = self.head(hidden_regions.states("mrc_kl", fused, batch)).float().log_softmax(1)
        _, q_PK = hidden_regions.targets("mrc_kl", batch)
        divergence = (torch.special.xlogy(q_PK, q_PK) - q_PK * log_p_PK).sum()  # half precision leaves exact zeros: 0 log 0 = 0
        right = (likeliest(log_p_PK.detach()) == likeliest(q_PK)).sum()
        count = batch.counts["mrc_kl"]
        share = q_PK.shape[1] if self.config.per_class else 1
        return LossTerm(divergence / share, count, self.config.weight, {"accuracy": (right, count)})


def example() -> tuple[MRCKL, Fused, Batch]:
    return (
        MRCKL(MRCKL.Config(), example_rows.WIDTH, hidden_regions.CLASSES),
        example_rows.fused(),
        hidden_regions.rows(),
    )
