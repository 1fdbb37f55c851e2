"""Names of classes as tokens: what a detector's labels become where a text reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.contracts import Tokenizer


def name_tokens(names: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    """[K, L] int64 token ids of each name without special tokens; -1 after its last."""
    ids = [[token for word in name.split() for token in tokenizer.ids_of(word)] or [tokenizer.unk_id] for name in names]
    token_KL = torch.full((len(ids), max(map(len, ids), default=1)), -1)
    for k, own in enumerate(ids):
        token_KL[k, : len(own)] = torch.tensor(own)
    return token_KL
