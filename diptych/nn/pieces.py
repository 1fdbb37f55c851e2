"""Many rows through a network in pieces, so that a batch is as large as its *embeddings* allow, not its activations.

A contrast wants all rows of a step at once, and its gradient does not separate over micro-batches. But it does over embeddings
(gradient caching: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021):

    forward     each piece is encoded; of all that was computed only its embeddings stay
    contrast    loss and gradient of all embeddings together: [rows, E] numbers, whatever the network
    backward    each piece is encoded again, with the random state it had, now keeping what its backward pass needs; then the next

The result is that of the same pieces without forgetting, to the bit on one device; the price is one more forward pass. Where batch
normalisation is, a piece is a normalisation group of its own (`separate`), so a piece's size is then part of the model. What
normalisations stage for their running statistics is staged by the first pass alone.

On torch's checkpoint, which replays random state and autocast. It looks for the devices whose random state it keeps among its
*arguments*: hence tensors are cut here and handed over, instead of an index into them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.nn import batch_norm


def in_pieces(encode: Callable[..., Tensor], size: int | None, *rows: Tensor) -> Tensor:
    """`encode(*rows)`, [B, E], from pieces of at most `size` rows; None: all at once. Every tensor of `rows` has B rows."""
    if size is None or len(rows[0]) <= size:
        return encode(*rows)
    pieces = zip(*(tensor.split(size) for tensor in rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([encode(*piece) for piece in pieces])
    return torch.cat([checkpoint(encode, *piece, use_reentrant=False, context_fn=_first_and_again) for piece in pieces])


def separate(module: nn.Module) -> None:
    """Every call of the batch normalisations inside is a group of its own, on its own rank."""
    for part in module.modules():
        if isinstance(part, batch_norm.BatchNorm):
            part.over_ranks = False


def _first_and_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), batch_norm.again()
