"""Stored pixels (uint8) to what networks read, at the last moment: a picture travels to the device as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.contracts import Images

Channels = tuple[float, float, float]


def normalise(images: Images, mean: Channels, std: Channels) -> Tensor:
    """[I, 3, H, W] fp32: scaled to [0, 1], shifted and divided channel by channel; 0 in the padding."""
    pixel_I3HW = images.pixel_I3HW.float()
    mean_311, std_311 = (torch.tensor(part, device=pixel_I3HW.device)[:, None, None] for part in (mean, std))
    # in place: three passes over fresh memory were a tenth of a small network's step
    return pixel_I3HW.mul_(1 / (255 * std_311)).sub_(mean_311 / std_311).mul_(images.mask_IHW[:, None])
