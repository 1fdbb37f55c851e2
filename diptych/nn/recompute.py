"""Activation checkpointing (Chen et al., 2016): a part forgets what it computed and computes it again in the backward pass.

    kept for the backward pass      a layer's input and output, not the dozen tensors between them
    paid                            one more forward pass of those parts: about a third of a step

Gradients are the same to the last bit: the second computation draws the same dropout masks and has the same precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed(nn.Module):
    """Base of parts that are computed twice where `recomputes` is switched on and a gradient is wanted."""

    recomputes = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def switch_on(model: nn.Module) -> int:
    """Let every part of `model` that can compute its activations again do so; how many there are."""
    parts = [module for module in model.modules() if isinstance(module, Recomputed)]
    for part in parts:
        part.recomputes = True
    return len(parts)
