"""Token ids to vectors as in BERT (Devlin et al., 2019): word + position + segment -> LayerNorm -> dropout."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.nn.transformer import initialise


class TextEmbedding(nn.Module):
    class Config(config.Config):
        kind: Literal["embedding"] = "embedding"
        positions: PositiveInt = 40  # the longest text in tokens, special ones included
        segments: PositiveInt = 2
        word_std: PositiveFloat = 0.02  # of the first word vectors; BERT's, for a width of 768
        position_std: PositiveFloat = 0.02  # of the first positions; small models learn word order sooner from larger ones
        eps: PositiveFloat = 1e-12
        dropout: float = Field(default=0.1, ge=0, lt=1)

        def build(self, width: int, vocab_size: int) -> TextEmbedding:
            return TextEmbedding(self, width, vocab_size)

    def __init__(self, config: Config, width: int, vocab_size: int):
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(config.positions, width)
        self.segment = nn.Embedding(config.segments, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.apply(initialise)
        nn.init.trunc_normal_(self.word.weight, std=config.word_std, a=-2 * config.word_std, b=2 * config.word_std)
        nn.init.normal_(self.position.weight, std=config.position_std)

    def forward(self, token_BT: Tensor, segment_BT: Tensor) -> Tensor:
        length, most = token_BT.shape[1], self.position.num_embeddings
        if length > most:
            raise UserError(f"a text has {length} tokens, but system.text.positions={most}: raise that, or lower text.max_tokens")
        position_T = torch.arange(length, device=token_BT.device)
        return self.dropout(self.norm(self.word(token_BT) + self.position(position_T) + self.segment(segment_BT)))
