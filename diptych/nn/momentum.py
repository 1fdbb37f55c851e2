"""A copy of modules that follows them slowly: the key encoder of MoCo (He et al., CVPR 2020), and teachers of its kind.

    after each successful step:   copy <- m * copy + (1 - m) * original        parameters only

The copy's parameters are buffers, so no optimiser, gradient or weight decay finds them, and they are saved and resumed with the
system. What batch normalisation keeps running is the copy's own and is not averaged, as in the published code. The copy starts
equal to the original *at its first use*, not when it is built: an original may be filled from another run in between (`--init`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn


class Momentum(nn.Module):
    age: Tensor  # commits so far

    def __init__(self, originals: Mapping[str, nn.Module], m: float):
        super().__init__()
        self.m = m
        for name, original in originals.items():
            self.add_module(name, _with_buffers(original))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def begin(self, originals: Mapping[str, nn.Module]) -> None:
        """Called in `forward`, before the copy is used: equal to the originals until the first commit."""
        if self.age == 0:
            for copy, original in self._pairs(originals):
                copy.copy_(original)

    @torch.no_grad()
    def commit(self, originals: Mapping[str, nn.Module]) -> None:
        for copy, original in self._pairs(originals):
            copy.lerp_(original, 1 - self.m)
        self.age += 1

    def _pairs(self, originals: Mapping[str, nn.Module]) -> Iterator[tuple[Tensor, Tensor]]:
        for name, original in originals.items():
            copies = dict(self.get_submodule(name).named_buffers())
            for path, parameter in original.named_parameters():
                yield copies[path], parameter


def _with_buffers(original: nn.Module) -> nn.Module:
    """A deep copy in which every parameter is a buffer of the same name."""
    copy = deepcopy(original)
    for module in copy.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return copy
