"""ResNet (He et al., 2016) whose last feature map is the picture's tokens: what SOHO puts under a Transformer.

    picture -> ResNet, stride 32 -> [max pool 2 x 2] -> 1 x 1 convolution to the width -> batch norm -> cells row by row

torchvision's network and names (`image.trunk.*`), so its ImageNet weights fit; without such a start it makes no sense to keep its
norms and first stage as they are, which is the default as published. Padding is zero before the network and before the pool; as
in DETR, what the norms' biases make of it reaches a little way into real cells in between: resize to a multiple of `cell` pixels.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.grid_cnn import cells
from diptych.image.pixels import Channels, normalise
from diptych.nn.batch_norm import BatchNorm


class ResNetGrid(nn.Module):
    class Config(config.Config):
        kind: Literal["resnet_grid"] = "resnet_grid"
        depth: Literal[18, 34, 50, 101, 152] = 101
        frozen: int = Field(default=2, ge=0, le=5)  # how many of stem, stage 1 ... stage 4 do not learn
        pool: bool = True
        mean: Channels = (0.485, 0.456, 0.406)  # ImageNet's
        std: Channels = (0.229, 0.224, 0.225)

        @property
        def cell(self) -> int:
            """Pixels from one cell to the next."""
            return 64 if self.pool else 32

        def build(self, width: int) -> ResNetGrid:
            return ResNetGrid(self, width)

    def __init__(self, config: Config, width: int):
        from torchvision import models  # a second to import, and only the large presets need it
        from torchvision.ops import FrozenBatchNorm2d

        super().__init__()
        self.config = config
        resnet = getattr(models, f"resnet{config.depth}")(weights=None, norm_layer=FrozenBatchNorm2d)
        channels = resnet.fc.in_features
        resnet.fc = nn.Identity()
        self.trunk = resnet
        for stage in (resnet.conv1, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)[: config.frozen]:
            stage.requires_grad_(False)  # norms have no parameters here
        self.project = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = BatchNorm(width)

    def forward(self, images: Images) -> Visual:
        cell, trunk = self.config.cell, self.trunk
        x_ICHW = normalise(images, self.config.mean, self.config.std)
        height, width = x_ICHW.shape[-2:]
        x_ICHW = F.pad(x_ICHW, (0, -width % cell, 0, -height % cell))
        x_ICHW = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x_ICHW))))
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x_ICHW = stage(x_ICHW)
        if self.config.pool:
            x_ICHW = F.max_pool2d(x_ICHW * self.real(images, x_ICHW, 32)[:, None], 2)  # all are >= 0, so zeros never win
        x_ICHW = self.norm(self.project(x_ICHW), self.real(images, x_ICHW, cell))
        rows, cols = x_ICHW.shape[-2:]
        box_IV4, mask_IV = cells(images.size_I2, rows, cols, cell)
        return Visual(x_ICHW.flatten(2).mT, mask_IV, box_IV4)

    @staticmethod
    def real(images: Images, x_ICHW: Tensor, side: int) -> Tensor:
        """[I, H, W] which places of a feature map with one every `side` pixels show any of the picture."""
        rows, cols = x_ICHW.shape[-2:]
        return cells(images.size_I2, rows, cols, side)[1].unflatten(1, (rows, cols))
