"""Batch normalisation (Ioffe and Szegedy, 2015) that keeps a training loop's promises.

    y = (x - mean) / sqrt(var + eps) * weight + bias         mean, var by channel over pictures and real pixels

What differs from torch's: statistics leave padding out and are taken over all ranks, so that two ranks equal one process (torch's
SyncBatchNorm does not run on CPUs); and running statistics are only staged in `forward`. `commit` folds in what a successful step
has staged (the mean over its micro-steps, each of which is normalised by itself), `discard` drops it.

With `over_ranks` off, every call is a normalisation group of its own (MoCo's shuffled groups, the pieces of nn/pieces.py): what
ranks have staged meets in `commit`, which then has to be called on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from torch import Tensor, nn

_is_again: ContextVar[bool] = ContextVar("a forward pass that is done again", default=False)


class BatchNorm(nn.Module):
    running_mean_C: Tensor
    running_var_C: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.over_ranks = True
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean_C", torch.zeros(channels))
        self.register_buffer("running_var_C", torch.ones(channels))
        self._staged: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_ICHW: Tensor, mask_IHW: Tensor | None = None) -> Tensor:
        """`mask_IHW`: the real pixels; None: all are."""
        if not self.training:
            return F.batch_norm(x_ICHW, self.running_mean_C, self.running_var_C, self.weight, self.bias, eps=self.eps)
        if mask_IHW is None and (_ranks() == 1 or not self.over_ranks):
            mean_C, var_C = torch.zeros_like(self.running_mean_C), torch.zeros_like(self.running_var_C)
            # with momentum 1 torch's fused kernel leaves the batch's own statistics in these two
            y_ICHW = F.batch_norm(x_ICHW, mean_C, var_C, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            self._stage(mean_C, var_C)
            return y_ICHW
        x32_ICHW = x_ICHW.float()
        is_real_I1HW = x32_ICHW.new_ones(x_ICHW.shape[0], 1, *x_ICHW.shape[2:]) if mask_IHW is None else mask_IHW[:, None].float()
        sums_C = (x32_ICHW * is_real_I1HW).sum((0, 2, 3))
        total = _over_ranks if self.over_ranks else torch.clone
        sums = total(torch.cat([sums_C, is_real_I1HW.sum()[None]]))
        count, mean_C = sums[-1], sums[:-1] / sums[-1]
        away_ICHW = x32_ICHW - mean_C[:, None, None]
        var_C = total((away_ICHW.square() * is_real_I1HW).sum((0, 2, 3))) / count
        scale_C = self.weight * (var_C + self.eps).rsqrt()
        self._stage(mean_C.detach(), var_C.detach() * count / (count - 1).clamp(min=1))
        return (away_ICHW * scale_C[:, None, None] + self.bias[:, None, None]).to(x_ICHW.dtype)

    def _stage(self, mean_C: Tensor, var_C: Tensor) -> None:
        if not _is_again.get():
            self._staged.append((mean_C, var_C))

    @torch.no_grad()
    def commit(self) -> None:
        if self._staged:
            mean_C, var_C = (torch.stack(parts).mean(0) for parts in zip(*self._staged, strict=True))
            if not self.over_ranks:
                mean_C, var_C = (_over_ranks(part) / _ranks() for part in (mean_C, var_C))
            self.running_mean_C.lerp_(mean_C, self.momentum)
            self.running_var_C.lerp_(var_C, self.momentum)
            self._staged.clear()

    def discard(self) -> None:
        self._staged.clear()


def commit(module: nn.Module) -> None:
    """Commit every BatchNorm inside: what a system's `after_step` calls."""
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.commit()


def discard(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.discard()


@contextmanager
def again() -> Iterator[None]:
    """Around a forward pass that was done before (activation checkpointing): it stages nothing a second time."""
    before = _is_again.set(True)
    try:
        yield
    finally:
        _is_again.reset(before)


def _ranks() -> int:
    return torch_dist.get_world_size() if torch_dist.is_available() and torch_dist.is_initialized() else 1


def _over_ranks(x: Tensor) -> Tensor:
    return x if _ranks() == 1 else _SumOverRanks.apply(x)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's output depends on every rank's input, so the backward pass is the same sum of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch_dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch_dist.all_reduce(total)
        return total
