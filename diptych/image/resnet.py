"""ResNet (He et al., CVPR 2016) as a grid of cells: torchvision's network without its classifier.

    picture -> conv 7x7/2 - pool/2 -> four stages of bottlenecks -> cells of 32 x 32 pixels, 2048 wide (ResNet-50, 101, 152)

Batch normalisation is ours (nn/batch_norm.py): over all ranks, committed after the step. Pictures of a batch should have one size:
unlike image/grid_cnn.py, padding is zeroed once, before the first layer.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
import torchvision
from torch import nn

from diptych import config
from diptych.contracts import Images, Visual
from diptych.image.grid_cnn import cells
from diptych.image.pixels import Channels, normalise
from diptych.nn.batch_norm import BatchNorm

CELL = 32


class ResNet(nn.Module):
    class Config(config.Config):
        kind: Literal["resnet"] = "resnet"
        layers: Literal[18, 34, 50, 101, 152] = 50
        mean: Channels = (0.485, 0.456, 0.406)  # ImageNet's
        std: Channels = (0.229, 0.224, 0.225)

        def build(self, width: int) -> ResNet:
            return ResNet(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        network = getattr(torchvision.models, f"resnet{config.layers}")(weights=None, norm_layer=BatchNorm)
        if width != network.fc.in_features:
            raise ValueError(f"ResNet-{config.layers} is {network.fc.in_features} wide: set system.width to that, not {width}")
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])

    def forward(self, images: Images) -> Visual:
        x_ICHW = normalise(images, self.config.mean, self.config.std)
        height, width = x_ICHW.shape[-2:]
        x_ICHW = self.stem(F.pad(x_ICHW, (0, -width % CELL, 0, -height % CELL)))
        for stage in self.stages:
            x_ICHW = stage(x_ICHW)
        box_IV4, mask_IV = cells(images.size_I2, *x_ICHW.shape[-2:], CELL)
        return Visual(x_ICHW.flatten(2).transpose(1, 2), mask_IV, box_IV4)
