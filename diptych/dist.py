"""Several processes as one: what Diptych needs of `torch.distributed`, and the same calls in a plain single process.

Started by torchrun, each process is a rank; `process_group()` joins them. Three kinds of things cross ranks:

    values     small JSON values (counts, losses, decisions) as bytes over gloo: `gather`, `sum_counts`, `on_first`.
               Every rank computes with all ranks' values in rank order, so all take the same decision with the same bits,
               and ranks that know different objectives cannot deadlock on tensors of different lengths.
    gradients  `sum_gradients`, once per optimiser step.
    rows       tensors of which each rank holds some, for objectives that compare every row with every other: `gather_rows`.

Why not DistributedDataParallel: it divides by the number of ranks, reduces at the last backward pass it expects and waits for
ever for a parameter that one rank did not use. Here each rank's loss is already divided by the global count, so gradients are
*summed*, after all micro-steps. The rule for unused parameters: a parameter that no rank used keeps no gradient (the optimiser
leaves it alone, as in one process); one that some rank used counts as zero on the others. Communication does not overlap with
the backward pass, which costs little next to accumulation and is the price of that exactness.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor

from diptych.config import UserError

BUCKET_BYTES = 32 * 2**20
T = TypeVar("T")


def rank() -> int:
    return torch_dist.get_rank() if torch_dist.is_initialized() else 0


def size() -> int:
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


@contextmanager
def process_group(timeout: timedelta = timedelta(minutes=30)) -> Iterator[None]:
    """Join the processes that torchrun started. Does nothing in a plain process or inside another `process_group`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch_dist.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    torch_dist.init_process_group(backend, timeout=timeout)
    try:
        yield
    except RuntimeError as error:
        if "by peer" not in str(error):  # gloo's words: connection closed, or reset, by peer
            raise
        raise UserError(f"rank {rank()} waited for another process of this run, which has ended: see what that one said") from error
    finally:
        torch_dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """The JSON value of every rank, in rank order, on every rank."""
    if size() == 1:
        return [value]
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size())]
    torch_dist.all_gather(lengths, torch.tensor([len(mine)]))
    longest = max(int(length) for length in lengths)
    buffers = [torch.zeros(longest, dtype=torch.uint8) for _ in range(size())]
    torch_dist.all_gather(buffers, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [json.loads(bytes(buffer[: int(length)].tolist())) for buffer, length in zip(buffers, lengths, strict=True)]


def add_counts(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums by name, in the order given; a name that a part lacks adds nothing."""
    total: dict[str, float] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0.0) + count
    return total


def sum_counts(counts: Mapping[str, float]) -> dict[str, float]:
    """Sums by name over all ranks."""
    return add_counts(gather(dict(counts)))


def on_first(do: Callable[[], T]) -> T | None:
    """Run `do` on rank 0 while the others wait; its result there, None elsewhere. A user's error is raised on every rank."""
    result, refusal = None, None
    if is_first():
        try:
            result = do()
        except UserError as error:
            refusal = error
    told = gather(None if refusal is None else str(refusal))[0]
    if refusal is not None:
        raise refusal
    if told is not None:
        raise UserError(told)
    return result


def sum_tensor(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place; for state that `after_step` commits (visual dictionary, queue)."""
    if size() > 1:
        torch_dist.all_reduce(tensor)
    return tensor


def gather_rows(x_BE: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks in rank order, however many each has, and the place of this rank's first among them.

    Differentiable: every rank's loss may read every row, so the gradient of a row is the sum of what all ranks say of it. Losses
    are summed over ranks too (`sum_gradients`), which makes this the gradient that one process on all rows would have.
    """
    if size() == 1:
        return x_BE, 0
    lengths = gather(len(x_BE))
    return _GatherRows.apply(x_BE, lengths), sum(lengths[: rank()])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BE: Tensor, lengths: list[int]) -> Tensor:
        ctx.before, ctx.length = sum(lengths[: rank()]), len(x_BE)
        padded = x_BE.new_zeros(max(lengths), *x_BE.shape[1:])
        padded[: len(x_BE)] = x_BE
        parts = [torch.empty_like(padded) for _ in lengths]
        torch_dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        torch_dist.all_reduce(total)
        return total[ctx.before : ctx.before + ctx.length], None


def sum_gradients(params: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over ranks; see the rule for unused parameters above."""
    if size() == 1:
        return
    used = torch.tensor([param.grad is not None for param in params], dtype=torch.uint8)
    torch_dist.all_reduce(used, op=torch_dist.ReduceOp.MAX)
    gradients = []
    for param, is_used in zip(params, used.tolist(), strict=True):
        if is_used:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            gradients.append(param.grad)
    _sum_in_buckets(gradients)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over ranks."""
    if size() > 1:
        _sum_in_buckets(tensors)
        for tensor in tensors:
            tensor /= size()


def _sum_in_buckets(tensors: Sequence[Tensor]) -> None:
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        torch_dist.all_reduce(flat)
        for tensor, piece in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(piece.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype and device, at most BUCKET_BYTES together: many small messages as few large ones."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (
            filled + tensor.nbytes > BUCKET_BYTES or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)
        ):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket
