"""ResNet (He et al., CVPR 2016) whose last feature map is the picture's tokens: torchvision's network without its classifier.

    picture -> conv 7x7/2 - pool/2 -> four stages, stride 32 -> [max pool 2 x 2] -> [1 x 1 convolution - batch norm] -> cells

As it is, a cell covers 32 pixels and is as wide as the network (2048 from ResNet-50 on): SimCLR, MoCo. SOHO pools once more and
projects to its own width. Names are torchvision's (`image.trunk.*`). Batch normalisation inside the network is either

    learned   ours (nn/batch_norm.py), over all ranks, committed after the step: for a network that starts from nothing
    frozen    factors and statistics as they were loaded: for a start from ImageNet's weights (weights/resnet.py); without one, and
              the same is true of frozen stages, it makes no sense

Padding is zero before the network and before the second pool, not in between: unlike image/grid_cnn.py, what norms make of it
reaches a little way into real cells. Resize to a multiple of `cell` pixels, or to one size.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.contracts import Images, Visual
from diptych.image.grid_cnn import cells
from diptych.image.pixels import Channels, normalise
from diptych.nn.batch_norm import BatchNorm


class ResNet(nn.Module):
    class Config(config.Config):
        kind: Literal["resnet"] = "resnet"
        depth: Literal[18, 34, 50, 101, 152] = 50
        norm: Literal["learned", "frozen"] = "learned"
        frozen: int = Field(default=0, ge=0, le=5)  # how many of stem, stage 1 ... stage 4 do not learn
        pool: bool = False
        project: bool = False  # to the system's width, whatever the network's
        mean: Channels = (0.485, 0.456, 0.406)  # ImageNet's
        std: Channels = (0.229, 0.224, 0.225)

        @property
        def cell(self) -> int:
            """Pixels from one cell to the next."""
            return 64 if self.pool else 32

        def build(self, width: int) -> ResNet:
            return ResNet(self, width)

    def __init__(self, config: Config, width: int):
        from torchvision import models  # a second to import, and only the large presets need it
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__()
        self.config = config
        norm = BatchNorm if config.norm == "learned" else FrozenBatchNorm2d
        resnet = getattr(models, f"resnet{config.depth}")(weights=None, norm_layer=norm)
        channels = resnet.fc.in_features
        if width != channels and not config.project:
            remedy = f"set system.width={channels}, or system.image.project=true"
            raise UserError(f"system.width={width}, but ResNet-{config.depth} is {channels} wide: {remedy}")
        resnet.fc = nn.Identity()
        self.trunk = resnet
        stages = (nn.ModuleList([resnet.conv1, resnet.bn1]), resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        for stage in stages[: config.frozen]:
            stage.requires_grad_(False)
        self.project = nn.Conv2d(channels, width, 1, bias=False) if config.project else None
        self.norm = BatchNorm(width) if config.project else None

    def forward(self, images: Images) -> Visual:
        cell, trunk = self.config.cell, self.trunk
        x_ICHW = normalise(images, self.config.mean, self.config.std)
        height, width = x_ICHW.shape[-2:]
        x_ICHW = F.pad(x_ICHW, (0, -width % cell, 0, -height % cell))
        x_ICHW = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x_ICHW))))
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x_ICHW = stage(x_ICHW)
        if self.config.pool:
            x_ICHW = F.max_pool2d(x_ICHW * real(images, x_ICHW, 32)[:, None], 2)  # all are >= 0, so zeros never win
        if self.project is not None and self.norm is not None:
            x_ICHW = self.norm(self.project(x_ICHW), real(images, x_ICHW, cell))
        rows, cols = x_ICHW.shape[-2:]
        box_IV4, mask_IV = cells(images.size_I2, rows, cols, cell)
        return Visual(x_ICHW.flatten(2).mT, mask_IV, box_IV4)


def real(images: Images, x_ICHW: Tensor, side: int) -> Tensor:
    """[I, H, W] which places of a feature map with one every `side` pixels show any of the picture."""
    rows, cols = x_ICHW.shape[-2:]
    return cells(images.size_I2, rows, cols, side)[1].unflatten(1, (rows, cols))
