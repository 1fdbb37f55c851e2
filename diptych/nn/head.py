"""What sits on top of encoded tokens: BERT's pooler and masked-word head, and the two-layer classifier of ViLT's tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.nn.packing import at_length
from diptych.nn.transformer import initialise


class Pooler(nn.Module):
    """tanh(Linear(first token)): one vector for a sequence (BERT)."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.apply(initialise)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.tanh(self.dense(x_BTD[:, 0]))


class First(nn.Module):
    """The first token as it is, in a pooler's place."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD[:, 0]


class MLMHead(nn.Module):
    """Linear - GELU - LayerNorm - decoder to the vocabulary, with a bias of its own (BERT).

    The decoder has its own matrix (ViLT), or is tied to the word embeddings (BERT), which are then handed in at every call: a
    parameter belongs to one module only, so it is saved, sharded and frozen once. `plain`: nothing but the decoder (SOHO).
    """

    def __init__(self, width: int, vocab_size: int, tied: bool = False, eps: float = 1e-12, plain: bool = False):
        super().__init__()
        self.dense = None if plain else nn.Linear(width, width)
        self.norm = None if plain else nn.LayerNorm(width, eps)
        self.decoder = None if tied else nn.Linear(width, vocab_size, bias=False)
        self.bias = None if plain else nn.Parameter(torch.zeros(vocab_size))
        self.apply(initialise)

    def forward(self, x: Tensor, word_KD: Tensor | None = None) -> Tensor:
        """[..., K] logits. `word_KD`: the word embeddings, for a tied decoder."""
        weight_KD = word_KD if self.decoder is None else self.decoder.weight
        if weight_KD is None:
            raise ValueError("a tied masked-word head needs the word embeddings: head(x, embedding.weight)")

        def logits(x_PD: Tensor) -> Tensor:
            if self.dense is not None and self.norm is not None:
                x_PD = self.norm(F.gelu(self.dense(x_PD)))
            return F.linear(x_PD, weight_KD, self.bias)

        return at_length(logits, x)


class MLP(nn.Module):
    """Linear - LayerNorm - GELU - Linear (ViLT's VQA and NLVR2 classifiers).

    `bias` of the last one: a softmax over rows does not see what all of them have.
    """

    def __init__(self, width: int, hidden: int, out: int, eps: float = 1e-5, bias: bool = True):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps)
        self.down = nn.Linear(hidden, out, bias=bias)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.norm(self.up(x))))
