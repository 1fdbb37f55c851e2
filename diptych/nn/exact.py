"""Numbers that autocast must leave alone: distances that tie in bf16, sums that lose their small parts, costs that nearly equal."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact(like: Tensor) -> AbstractContextManager[object]:
    """No autocast inside, on the device where `like` lies; a tensor without content (train/rehearse.py) has none to begin with."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)
