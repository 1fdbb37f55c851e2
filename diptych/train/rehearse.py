"""A training step without numbers: what it multiplies and how much memory it holds, told by shapes alone, in seconds.

    weights, pixels, features      on torch's `meta` device: a shape, a type, no content
    ids, masks, boxes, labels      real: packing and objectives look at them to decide what is computed
    what a value decides           as if it were 0 (which query answers to which box); what a mask decides, as if all were True

So the very code of the system runs, forward and backward. Products and convolutions are counted as torch counts them, two for a
multiplication with its addition. Memory is followed allocation by allocation: the most that is alive at any moment beside weights
and gradients, with attention as GPUs compute it (nothing of [T, S] is kept). With bf16 products take halves and norms, softmax and
losses take fp32, as under autocast on a GPU. Not seen: what an allocator loses in gaps, and work space of kernels.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from diptych.contracts import Batch, Trainable

aten = torch.ops.aten


class Cost(NamedTuple):
    """Of one step of a batch."""

    forward: int  # FLOPs
    flops: int  # with the backward pass
    activations: int  # bytes, the most that is alive at once beside weights and gradients

    @property
    def backward(self) -> int:
        return self.flops - self.forward


def build(make: Callable[[], nn.Module]) -> Any:
    """A module whose weights have shapes only; its tables of whole numbers are real."""
    with _Shapes(building=True):
        return make()


def rehearse(model: Trainable, batch: Batch, precision: torch.dtype = torch.float32) -> Cost:
    """One step of `batch`, labelled and corrupted, by a model that `build` has made. Gradients are left where they were: absent."""
    batch = _without_numbers(batch)
    shapes = _Shapes(known=[*model.parameters(), *model.buffers()])
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(lambda p: shapes.forget(p.grad)) for parameter in learning]
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with ExitStack() as stack:
        for mode in (shapes, counter, _AsOnGPU(precision)):
            stack.enter_context(mode)
        total = torch.stack([torch.as_tensor(term.weight * term.sum).to("meta") for term in model(batch).values()]).sum()
        forward = counter.get_total_flops()
        # not total.backward(): what is computed again on the way back would then be computed outside of the last mode
        _engine_run_backward((total,), (torch.ones_like(total),), False, False, allow_unreachable=True, accumulate_grad=True)
    for hook in hooks:
        hook.remove()
    for parameter in model.parameters():
        parameter.grad = None
    model.discard_step()
    return Cost(forward, counter.get_total_flops(), shapes.most)


def _without_numbers(batch: Batch) -> Batch:
    images, regions = batch.images, batch.regions
    if images is not None:
        images = replace(images, pixel_I3HW=images.pixel_I3HW.to("meta"))
    if regions is not None and regions.feature_IRD is not None:
        regions = replace(regions, feature_IRD=regions.feature_IRD.to("meta"))
    return replace(batch, images=images, regions=regions, samples=(), phrases=(), others=())


class _Shapes(TorchDispatchMode):
    """Whatever meets a tensor without content becomes one; and a book of what is alive."""

    def __init__(self, known: list[Tensor] | None = None, building: bool = False):
        super().__init__()
        self.building = building
        self.size_of: dict[int, int] = {}  # by storage
        self.ours = {_storage(tensor)._cdata for tensor in known or ()}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        device, is_whole = kwargs.get("device"), _makes_whole_numbers(args, kwargs)
        if self.building and func.overloadpacket in _FACTORIES and not is_whole and device in (None, torch.device("cpu")):
            return func(*args, **{**kwargs, "device": "meta"})
        if is_whole and device == torch.device("meta"):  # whole numbers stay real, wherever they are told to go
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if not any(leaf.is_meta for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
            return self._note(func(*args, **kwargs))
        if func is aten._local_scalar_dense.default:
            return 0
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.nonzero.default:
            return torch.ones(args[0].shape).nonzero()
        if func.name() == "torchvision::nms":
            return torch.arange(len(args[0]))
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        return self._note(func(*tree_map(_as_shape, args), **tree_map(_as_shape, kwargs)))

    def _note(self, found: Any) -> Any:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                storage = _storage(tensor)
                key = storage._cdata
                if key not in self.size_of and key not in self.ours:
                    self.size_of[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, key)
        self.most = max(self.most, self.now)
        return found

    def _gone(self, key: int) -> None:
        self.now -= self.size_of.pop(key, 0)

    def forget(self, tensor: Tensor | None) -> None:
        """A gradient that is finished is none of the activations."""
        if tensor is not None:
            self._gone(_storage(tensor)._cdata)


_FACTORIES = {aten.empty, aten.zeros, aten.ones, aten.full, aten.rand, aten.randn, aten.empty_strided, aten.new_empty}


def _makes_whole_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Of a factory, or of a copy of a real tensor."""
    if isinstance(first := next(iter(args), None), Tensor):
        return not first.is_meta and not (kwargs.get("dtype") or first.dtype).is_floating_point
    if kwargs.get("dtype") is None:  # torch.arange(3) counts and torch.full([2], 3) holds what counts; torch.zeros([3]) does not
        numbers = [arg for arg in args if not isinstance(arg, list | tuple)]
        return bool(numbers) and all(isinstance(number, int) for number in numbers)
    return not kwargs["dtype"].is_floating_point


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _as_shape(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and not leaf.is_meta else leaf


def _places(index: Tensor | None) -> Iterator[Tensor | None]:
    """A mask as the places it names: how many there are is the shape of what comes out."""
    if index is not None and index.dtype == torch.bool:
        yield from (torch.ones(index.shape) if index.is_meta else index).nonzero(as_tuple=True)
    else:
        yield index


class _AsOnGPU(TorchFunctionMode):
    """Attention by the fused kernel, and bf16 as autocast has it there."""

    def __init__(self, precision: torch.dtype):
        super().__init__()
        self.is_half = precision == torch.bfloat16

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        named: dict[str, Any] = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.tensor:  # numbers that are written down are real, wherever they are told to go
            return func(*args, **{**named, "device": "cpu"})
        if self.is_half and name in _HALVES | _WHOLES:
            to = torch.bfloat16 if name in _HALVES else torch.float32
            args, named = tree_map(lambda leaf: _cast(leaf, to), args), tree_map(lambda leaf: _cast(leaf, to), named)
        if name == "scaled_dot_product_attention":
            query, key, value, *_ = args
            mask, dropout = named.get("attn_mask"), named.get("dropout_p", 0.0)
            bias = None if mask is None else mask.to(query.device).to(query.dtype).expand(*query.shape[:3], key.shape[2])
            return aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout)[0]
        return func(*args, **named)


# what autocast on CUDA takes in bf16 and in fp32, of what this package calls
_HALVES = {"linear", "conv2d", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention"}
_WHOLES = {"layer_norm", "softmax", "log_softmax", "cross_entropy", "logsumexp", "normalize", "norm", "cumsum", "sum", "exp", "log"}


def _cast(leaf: Any, to: torch.dtype) -> Any:
    return leaf.to(to) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _convolution_back(back: Any, _: Any, weight: Any, *rest: Any, **__: Any) -> int:
    """Once the forward pass for each side that asks; torch's own count forgets that groups of channels are apart."""
    return sum(rest[-1][:2]) * 2 * back[0] * math.prod(back[2:]) * math.prod(weight)


def _attention_back(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Four products, twice the forward's two; a kernel that computes the scores again is not paid for what it saves in memory."""
    *batch, asked, width = query
    return 4 * 2 * math.prod(batch) * asked * key[-2] * width


_FORMULAS = {
    aten.convolution_backward: _convolution_back,
    aten._scaled_dot_product_efficient_attention_backward: _attention_back,
}
