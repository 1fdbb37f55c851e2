"""Stored pixels (uint8) to what networks read, at the last moment: a picture travels to the device as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.contracts import Images

Channels = tuple[float, float, float]


def normalise(images: Images, mean: Channels, std: Channels) -> Tensor:
    """[I, 3, H, W] fp32: scaled to [0, 1], shifted and divided channel by channel; 0 in the padding."""
    pixel_I3HW = images.pixel_I3HW.float() / 255
    mean_311 = torch.tensor(mean, device=pixel_I3HW.device)[:, None, None]
    std_311 = torch.tensor(std, device=pixel_I3HW.device)[:, None, None]
    return (pixel_I3HW - mean_311) / std_311 * images.mask_IHW[:, None]
