"""EfficientNet (Tan and Le, ICML 2019) whose last feature map is the picture's tokens: torchvision's blocks at any of its sizes.

    picture -> conv 3x3/2 -> seven stages of inverted bottlenecks with squeeze-and-excite, stride 32 -> [1 x 1 convolution] -> cells

One table of stages, whose widths and depths a size multiplies; L2 is the size of Noisy Student (Xie et al., CVPR 2020), which
torchvision does not name. With `top` the 1 x 1 convolution follows that quadruples the channels in front of the classifier; ALIGN's
port in transformers is without it. Names are torchvision's (`image.trunk.*`). Batch normalisation is ours (nn/batch_norm.py), with
the published 1e-3 and .99. Whole blocks are dropped by chance during training, the later the likelier, up to `drop`.

A kernel that moves two pixels at a time needs an odd number of zeros around an even side. torchvision puts one too many at the
start, TensorFlow at the end; all published ALIGNs have it at the end (`padding="late"`), which shifts each such map by a pixel.

Padding is zero before the network, not in between, as in image/resnet.py: resize to one size, or to a multiple of 32 pixels.
"""

from __future__ import annotations

from functools import partial
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

Size = Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2"]
MULTIPLY: dict[Size, tuple[float, float]] = {  # widths, depths
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "l2": (4.3, 5.3),
}
STAGES = (  # expansion, kernel, stride, channels in, channels out, blocks
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
CELL = 32  # pixels from one cell to the next


class EfficientNet(nn.Module):
    class Config(config.Config):
        kind: Literal["efficientnet"] = "efficientnet"
        size: Size = "b7"
        top: bool = False
        drop: float = Field(default=0.2, ge=0, lt=1)
        padding: Literal["even", "late"] = "even"
        mean: Channels = (0.5, 0.5, 0.5)
        std: Channels = (0.5, 0.5, 0.5)

        def build(self, width: int) -> EfficientNet:
            return EfficientNet(self, width)

    def __init__(self, config: Config, width: int):
        from torchvision.models import efficientnet  # a second to import, and only the large presets need it

        super().__init__()
        self.config = config
        wide, deep = MULTIPLY[config.size]
        stages = [efficientnet.MBConvConfig(*stage, width_mult=wide, depth_mult=deep) for stage in STAGES]
        norm = partial(BatchNorm, eps=1e-3, momentum=0.01)
        network = efficientnet.EfficientNet(stages, dropout=0.0, stochastic_depth_prob=config.drop, norm_layer=norm)
        self.trunk: nn.Module = network.features if config.top else network.features[:-1]
        if config.padding == "late":
            for parent in [*self.trunk.modules()]:
                for name, part in parent.named_children():
                    if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
                        setattr(parent, name, _Late(part))
        channels = stages[-1].out_channels * (4 if config.top else 1)
        if width != channels:
            raise UserError(
                f"system.image_width={width}, but EfficientNet-{config.size.upper()} is {channels} wide: set it to that"
            )

    def forward(self, images: Images) -> Visual:
        x_ICHW = normalise(images, self.config.mean, self.config.std)
        height, width = x_ICHW.shape[-2:]
        x_ICHW: Tensor = self.trunk(F.pad(x_ICHW, (0, -width % CELL, 0, -height % CELL)))
        rows, cols = x_ICHW.shape[-2:]
        box_IV4, mask_IV = cells(images.size_I2, rows, cols, CELL)
        return Visual(x_ICHW.flatten(2).mT, mask_IV, box_IV4)


class _Late(nn.Module):
    """A convolution of stride 2 with the weight of another, its zeros at the end of an even side."""

    def __init__(self, like: nn.Conv2d):
        super().__init__()
        self.groups, self.weight = like.groups, like.weight

    def forward(self, x_ICHW: Tensor) -> Tensor:
        after = self.weight.shape[-1] // 2
        return F.conv2d(F.pad(x_ICHW, (after - 1, after, after - 1, after)), self.weight, stride=2, groups=self.groups)
