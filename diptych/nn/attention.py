"""Multi-head attention (Vaswani et al., 2017), computed by whichever exact way the device does fastest, and open to inspection.

    query_BTD ---Linear---> q_BHTC \\
                                     softmax(q k' / sqrt(C)) over the S keys that are real, times v -> heads joined -> Linear
    source_BSD --Linear---> k, v    /

Letters beside the usual ones: H heads, C width of one head, S tokens attended to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.config import UserError
from diptych.nn.exact import exact
from diptych.nn.packing import Benches, Some


class Seen(NamedTuple):
    """What one attention module looked at in one call."""

    module: nn.Module  # its name: look it up in the model's `named_modules()`
    prob_BHTS: Tensor


_recording: ContextVar[list[Seen] | None] = ContextVar("recording", default=None)


@contextmanager
def record() -> Iterator[list[Seen]]:
    """Collect the attention probabilities of every call inside the block, in order, without gradient."""
    seen: list[Seen] = []
    token = _recording.set(seen)
    try:
        yield seen
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    return _recording.get() is not None


def probabilities(q_BHTC: Tensor, k_BHSC: Tensor, mask: Tensor | None) -> Tensor:
    """[B, H, T, S]. A query without any real key is spread evenly over padding: its output has to be discarded."""
    batch, heads, _, width = q_BHTC.shape
    bias = q_BHTC.new_zeros(1)
    if mask is not None:
        # the lowest finite number, not -inf: a row of nothing but -inf makes NaN, in the backward pass too
        bias = q_BHTC.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(q_BHTC.dtype).min)
        bias = bias.expand(batch, heads, -1, -1).flatten(0, 1)
    score = torch.baddbmm(bias, q_BHTC.flatten(0, 1), k_BHSC.flatten(0, 1).mT, alpha=1 / math.sqrt(width))
    # autocast would give fp32 for bf16: sums are fp32 inside either way, and the large tensors would be converted to and fro
    with exact(score):
        return score.softmax(-1).unflatten(0, (batch, heads))


def attend(q_BHTC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Weighted values [B, H, T, C]. `mask` is bool, True where a key may be seen, of shape [B, 1, 1 or T, S].

    A query without any real key gets zeros, without gradient.
    """
    if q_BHTC.device.type == "cpu" and q_BHTC.dtype == torch.bfloat16:
        # here torch's fused kernel takes as long as two products and a softmax with AMX, and 2.4 to 2.9 times as long without;
        # in fp32 it is the faster one, 1.1 to 1.5 times
        prob_BHTS = probabilities(q_BHTC, k_BHSC, mask)
        mixed_BHTC = (F.dropout(prob_BHTS, dropout) if dropout else prob_BHTS) @ v_BHSC
        has_key = mask.any(-1, keepdim=True) if mask is not None else None
        return mixed_BHTC if has_key is None or bool(has_key.all()) else mixed_BHTC * has_key
    return F.scaled_dot_product_attention(q_BHTC, k_BHSC, v_BHSC, attn_mask=mask, dropout_p=dropout)


def multi_head(
    module: nn.Module, heads: int, q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Split into heads, attend, join: [B, T, D]. `mask` is [B, S], or [B, T, S]; `module` is named in what `record` collects."""
    if mask is not None:
        mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q_BTD, k_BSD, v_BSD))
    seen = _recording.get()
    if seen is not None:
        prob_BHTS = probabilities(q, k, mask).detach().float()
        seen.append(Seen(module, prob_BHTS if mask is None else prob_BHTS * mask))
    return attend(q, k, v, mask, dropout).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention of packed tokens among those on their bench."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise UserError(f"a width of {width} does not split into {heads} heads: change system.width, or the heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)  # rows: query, key, value; one product where all three read the same tokens
        self.out = nn.Linear(width, width)

    def start_as_match(self) -> None:
        """score = <R x, R y> = <x, y>, and what is found comes back as it is: out value = identity."""
        query, key, value = self.qkv.weight.detach().chunk(3)
        nn.init.orthogonal_(key)
        query.copy_(key)
        nn.init.orthogonal_(value)
        self.out.weight.detach().copy_(value.T)

    def forward(
        self,
        x_PD: Tensor,
        benches: Benches,
        read: Some | None = None,
        reading: Benches | None = None,
        place_PD: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """[P, D]; or [R, D] of the tokens that `read` names, with `reading = benches.reading(read)`.

        `place_PD` is added to what becomes queries and keys, not to values (DETR). `is_causal`: each token sees itself and those
        before it, for tokens that are all read.
        """
        if read is not None and (is_causal or place_PD is not None):
            raise ValueError("tokens that are read alone have no places or order among themselves here")
        dropout, width = self.dropout if self.training else 0.0, x_PD.shape[-1]
        if place_PD is not None:
            asking = benches
            placed = F.linear(x_PD + place_PD, self.qkv.weight[: 2 * width], self.qkv.bias[: 2 * width])
            query_RD, key_PD = placed.chunk(2, -1)
            pair_PD = torch.cat([key_PD, F.linear(x_PD, self.qkv.weight[2 * width :], self.qkv.bias[2 * width :])], -1)
        elif read is None or reading is None:
            asking = benches
            query_RD, pair_PD = self.qkv(x_PD).split([width, 2 * width], -1)
        else:
            asking = reading
            query_RD = F.linear(read.of_list(x_PD), self.qkv.weight[:width], self.qkv.bias[:width])
            pair_PD = F.linear(x_PD, self.qkv.weight[width:], self.qkv.bias[width:])
        parts = []
        for here, ask in zip(benches.groups, asking.groups, strict=True):
            key, value = here.seat(pair_PD).chunk(2, -1)
            mask = here.mask_SN
            if is_causal:  # seats are in the order of the text
                mask = mask[:, None] & mask.new_ones(2 * mask.shape[1:]).tril()
            mixed = multi_head(self, self.heads, ask.seat(query_RD), key, value, mask, dropout)
            parts.append(ask.rise(mixed))
        return self.out(asking.gather(parts))
