"""Where a picture token lies, as a vector: straight coordinates and a few waves of its box, through one linear layer.

    [centre x y, width, height, sin and cos of centre x y at .5, 1 and 2 periods a picture] -> Linear

Unlike a learned table of positions it fits any grid, patches or regions, and straight coordinates make "left of" a difference that
one layer can read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PERIODS = (0.5, 1.0, 2.0)


class Place(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        numbers = 4 + 4 * len(PERIODS)
        self.project = nn.Linear(numbers, width)
        nn.init.normal_(self.project.weight, std=(2 / numbers) ** 0.5)  # about as loud as the normalised tokens it is added to
        nn.init.zeros_(self.project.bias)

    def forward(self, box_IV4: Tensor) -> Tensor:
        """[..., D] from boxes xyxy in [0, 1]."""
        centre = box_IV4[..., :2] + box_IV4[..., 2:] - 1  # in [-1, 1]
        size = box_IV4[..., 2:] - box_IV4[..., :2]
        waves = [wave(math.pi * periods * centre) for periods in PERIODS for wave in (torch.sin, torch.cos)]
        return self.project(torch.cat([centre, size, *waves], -1))
