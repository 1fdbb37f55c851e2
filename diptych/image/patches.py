"""Pictures as linear projections of their patches (ViT, Dosovitskiy et al., 2021), in ViLT's form: no other image encoder.

    picture, any size -> P x P patches -> Linear -> + position -> [CLS_image, patch, patch, ...]

Positions are learned on a square grid and stretched to each picture's own grid (bilinear, corners on corners), so that pictures of
different sizes and shapes meet in one batch. A picture's patches lie row by row at the start of its line; what follows is padding.
Padding is read from the explicit pixel mask: ViLT's code infers it from black pixels, and loses those of black pictures.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.pixels import Channels, normalise
from diptych.nn.packing import Packing
from diptych.nn.transformer import initialise


class Layout(NamedTuple):
    """The tokens of one picture: [CLS_image, patches row by row]."""

    place_P: Tensor  # of each patch in the canvas that all pictures of a batch share; P = V - 1
    position_VD: Tensor
    box_V4: Tensor


class Patches(nn.Module):
    class Config(config.Config):
        kind: Literal["patches"] = "patches"
        patch: PositiveInt = 32  # side of a patch, in pixels
        grid: PositiveInt = 12  # learned positions: grid x grid; best where most pictures have about so many patches a side
        max_patches: PositiveInt | None = None  # in training, keep a random sample of at most so many (ViLT: 200); all otherwise
        dropout: float = Field(default=0.1, ge=0, lt=1)
        mean: Channels = (0.5, 0.5, 0.5)
        std: Channels = (0.5, 0.5, 0.5)

        def build(self, width: int) -> Patches:
            return Patches(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        # as published files hold it, and computed as a product over the patches that are there: a convolution also goes over the
        # padding, and its backward pass on CPUs takes 5 times as long in bf16
        self.project = nn.Conv2d(3, width, config.patch, config.patch)
        self.cls = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(1 + config.grid**2, width))  # first the CLS token's, then the grid's by rows
        self.dropout = nn.Dropout(config.dropout)
        self.apply(initialise)
        for vector in (self.cls, self.position):
            nn.init.trunc_normal_(vector, std=0.02, a=-0.04, b=0.04)

    def forward(self, images: Images) -> Visual:
        side = self.config.patch
        pixel_I3HW = normalise(images, self.config.mean, self.config.std)
        height, width = pixel_I3HW.shape[-2:]
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        pixel_I3HW = F.pad(pixel_I3HW, (0, -width % side, 0, -height % side))
        canvas_IRC3SS = pixel_I3HW.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
        sizes = [(h, w) for h, w in images.size_I2.tolist()]
        layout_of = {size: self.layout(*size, columns) for size in set(sizes)}
        layouts = [self.sample(layout_of[size]) for size in sizes]
        length_I = torch.tensor([len(layout.place_P) for layout in layouts], device=pixel_I3HW.device)
        packing = Packing.of(torch.arange(int(length_I.max()), device=length_I.device) < length_I[:, None])
        place_P = packing.pack(pad_sequence([layout.place_P for layout in layouts], batch_first=True)[..., None])[:, 0]
        patch_P3SS = canvas_IRC3SS[packing.place.index_R // packing.mask_BT.shape[1], place_P // columns, place_P % columns]
        patch_IPD = packing.unpack(F.linear(patch_P3SS.flatten(1), self.project.weight.flatten(1), self.project.bias))
        token_IVD = torch.cat([self.cls.expand(len(sizes), 1, -1), patch_IPD], 1)
        return Visual(
            self.dropout(token_IVD + pad_sequence([layout.position_VD for layout in layouts], batch_first=True)),
            F.pad(packing.mask_BT, (1, 0), value=True),
            pad_sequence([layout.box_V4 for layout in layouts], batch_first=True),
        )

    def layout(self, height: int, width: int, columns: int) -> Layout:
        """All tokens of a picture of this size (pixels), on a canvas of so many columns (patches)."""
        side, device = self.config.patch, self.position.device
        rows, cols = math.ceil(height / side), math.ceil(width / side)
        row_P = torch.arange(rows, device=device).repeat_interleave(cols)
        col_P = torch.arange(cols, device=device).repeat(rows)
        cls_1D, grid_GD = self.position[:1], self.position[1:]
        grid_1DGG = grid_GD.T.unflatten(1, (self.config.grid, self.config.grid))[None]
        position_PD = F.interpolate(grid_1DGG, (rows, cols), mode="bilinear", align_corners=True)[0].flatten(1).T
        corner_P4 = torch.stack([col_P, row_P, col_P + 1, row_P + 1], 1) * side
        size_4 = torch.tensor([width, height, width, height], device=device)
        box_P4 = torch.minimum(corner_P4, size_4) / size_4
        whole_14 = box_P4.new_tensor([[0, 0, 1, 1]])
        return Layout(row_P * columns + col_P, torch.cat([cls_1D, position_PD]), torch.cat([whole_14, box_P4]))

    def sample(self, layout: Layout) -> Layout:
        """In training, at most `max_patches` patches: drawn like dropout, kept in reading order."""
        most = self.config.max_patches
        if most is None or not self.training or len(layout.place_P) <= most:
            return layout
        kept_P = torch.rand(len(layout.place_P), device=layout.place_P.device).argsort()[:most].sort().values
        kept_V = torch.cat([kept_P.new_zeros(1), kept_P + 1])
        return Layout(layout.place_P[kept_P], layout.position_VD[kept_V], layout.box_V4[kept_V])
