"""Masked region feature regression (UNITER, section 3.2): what did the detector's feature of this hidden region look like?

h = W' [ Linear - GELU - LayerNorm ](state) + b,  W the matrix that embeds features (tied), or one of its own
L = mean over hidden regions of  mean over dimensions of (h - f)^2
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.packing import at_length
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows, hidden_regions


class MRFR(nn.Module):
    class Config(config.Config):
        rate: float = Field(default=0.15, gt=0, le=1)
        tied: bool = True  # decode with the matrix that embeds features, which `forward` is then given
        eps: PositiveFloat = 1e-12
        weight: PositiveFloat = 1.0

        def build(self, width: int, features: int) -> MRFR:
            return MRFR(self, width, features)

    def __init__(self, config: Config, width: int, features: int):
        super().__init__()
        self.config = config
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.decoder = None if config.tied else nn.Linear(width, features, bias=False)
        self.bias = nn.Parameter(torch.zeros(features))
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        return hidden_regions.hide("mrfr", self.config.rate, batch, draw)

    def forward(self, fused: Fused, batch: Batch, embedding_DF: Tensor | None = None) -> LossTerm:
        """`embedding_DF`: the matrix that embeds features, for a tied decoder."""
        weight_DF = embedding_DF if self.decoder is None else self.decoder.weight.T
        if weight_DF is None:
            raise ValueError("a tied feature head needs the matrix that embeds features: mrfr(fused, batch, image.feature.weight)")
        state_PD = hidden_regions.states("mrfr", fused, batch)
        found_PF = at_length(lambda x_PD: F.linear(self.norm(F.gelu(self.dense(x_PD))), weight_DF.T, self.bias), state_PD).float()
        feature_PF, _ = hidden_regions.targets("mrfr", batch)
        return LossTerm((found_PF - feature_PF).square().mean(1).sum(), batch.counts["mrfr"], self.config.weight)


def example() -> tuple[MRFR, Fused, Batch]:
    objective = MRFR(MRFR.Config(tied=False), example_rows.WIDTH, hidden_regions.FEATURES)
    return objective, example_rows.fused(), hidden_regions.rows()
