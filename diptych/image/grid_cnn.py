"""A small convolutional network whose last feature map is the picture's tokens: one for each cell of a grid.

    picture -> [ conv 5x5/4 - norm - ReLU ] -> [ conv 3x3/2 ] -> [ conv 3x3/2 ] -> [ conv 3x3 ] x 2 -> LayerNorm -> cells row by row

With the default strides a cell covers 16 x 16 pixels: 128 px give 8 x 8 cells. It is no paper's; it is here because it learns to
see small drawn things in minutes on a CPU, where patches need many more pictures. Resolution falls early, for that is what a step
costs: with the second layer at 32 x 32 a step took half as long again and learnt less from as many pictures (LOG.md). Cells do not
know where they lie unless `place` is set: a dual stream can add that to what is read. Padding stays zero between layers, so in
evaluation a picture's cells do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.pixels import Channels, normalise
from diptych.nn.batch_norm import BatchNorm
from diptych.nn.place import Place


class GridCNN(nn.Module):
    class Config(config.Config):
        kind: Literal["grid_cnn"] = "grid_cnn"
        channels: tuple[PositiveInt, ...] = (32, 64, 96, 96)  # one more layer leads to the system's width
        strides: tuple[PositiveInt, ...] = (4, 2, 2, 1)
        place: bool = False  # tell each cell where it lies: for a fusion encoder that does not
        eps: PositiveFloat = 1e-6
        mean: Channels = (0.5, 0.5, 0.5)
        std: Channels = (0.5, 0.5, 0.5)

        @model_validator(mode="after")
        def _aligned(self) -> GridCNN.Config:
            if len(self.channels) != len(self.strides):
                raise ValueError(f"{len(self.channels)} channels, but {len(self.strides)} strides")
            return self

        @property
        def cell(self) -> int:
            """Pixels from one cell to the next."""
            return math.prod(self.strides)

        def build(self, width: int) -> GridCNN:
            return GridCNN(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        channels, strides = (3, *config.channels, width), (*config.strides, 1)
        self.blocks = nn.ModuleList(
            Block(channels[n], channels[n + 1], kernel=5 if n == 0 else 3, stride=stride) for n, stride in enumerate(strides)
        )
        self.norm = nn.LayerNorm(width, config.eps)
        self.place = Place(width) if config.place else None

    def forward(self, images: Images) -> Visual:
        cell = self.config.cell
        x_ICHW = normalise(images, self.config.mean, self.config.std)
        height, width = x_ICHW.shape[-2:]
        margin = (0, -width % cell, 0, -height % cell)
        # the faster layout for small convolutions. Not for the weights: torch's fused AdamW on CPUs reads memory in order, and
        # moments that come back from a checkpoint are laid out plainly
        x_ICHW = F.pad(x_ICHW, margin).contiguous(memory_format=torch.channels_last)
        is_padded = any(margin) or not bool(images.mask_IHW.all())
        mask_IHW = F.pad(images.mask_IHW, margin) if is_padded else None
        for block in self.blocks:
            x_ICHW, mask_IHW = block(x_ICHW, mask_IHW)
        rows, cols = x_ICHW.shape[-2:]
        token_IVD = self.norm(x_ICHW.flatten(2).transpose(1, 2))
        box_IV4, mask_IV = cells(images.size_I2, rows, cols, cell)
        if self.place is not None:
            token_IVD = token_IVD + self.place(box_IV4)
        return Visual(token_IVD, mask_IV, box_IV4)


def cells(size_I2: Tensor, rows: int, cols: int, side: int) -> tuple[Tensor, Tensor]:
    """The box of every cell of `side` pixels, relative to its own picture, and which cells hold any of it."""
    row_V = torch.arange(rows, device=size_I2.device).repeat_interleave(cols)
    col_V = torch.arange(cols, device=size_I2.device).repeat(rows)
    corner_V4 = torch.stack([col_V, row_V, col_V + 1, row_V + 1], 1) * side
    size_I14 = size_I2.flip(1).repeat(1, 2)[:, None]  # width, height, width, height
    box_IV4 = torch.minimum(corner_V4, size_I14) / size_I14
    mask_IV = (corner_V4[:, :2] < size_I14[..., :2]).all(-1)
    return box_IV4 * mask_IV[..., None], mask_IV


class Block(nn.Module):
    """Convolution - batch norm - ReLU, with the mask of real pixels shrinking alongside."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.norm = BatchNorm(out)

    def forward(self, x_ICHW: Tensor, mask_IHW: Tensor | None) -> tuple[Tensor, Tensor | None]:
        stride = self.conv.stride[0]
        mask_IHW = None if mask_IHW is None else mask_IHW[:, ::stride, ::stride]
        x_ICHW = F.relu(self.norm(self.conv(x_ICHW), mask_IHW))
        return x_ICHW if mask_IHW is None else x_ICHW * mask_IHW[:, None], mask_IHW
