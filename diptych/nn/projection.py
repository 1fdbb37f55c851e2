"""What stands between an encoder and a contrast in pre-training, and is thrown away after it.

    Linear - [BatchNorm] - ReLU - ... - Linear - [BatchNorm]

With `norm`, SimCLR's head: batch normalisation after every layer, the last included, and no biases beside it. Without, MoCo v2's.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.nn.batch_norm import BatchNorm


class Projection(nn.Module):
    class Config(config.Config):
        layers: PositiveInt = 2
        hidden: PositiveInt = 2048
        out: PositiveInt = 128
        norm: bool = True

        def build(self, width: int) -> Projection:
            return Projection(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        widths = (width, *(config.hidden,) * (config.layers - 1), config.out)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=not config.norm) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(b) for b in widths[1:]) if config.norm else None

    def forward(self, x_ID: Tensor) -> Tensor:
        """[I, E], not yet of length one."""
        for n, layer in enumerate(self.layers):
            x_ID = layer(F.relu(x_ID) if n else x_ID)
            if self.norms is not None:
                x_ID = self.norms[n](x_ID[:, :, None, None])[:, :, 0, 0]
        return x_ID
