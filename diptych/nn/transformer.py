"""The transformer encoder (Vaswani et al., 2017) with the norm before (ViT, ViLT) or after (BERT) each part.

    pre:   x = x + part(norm(x)), one more norm at the very end
    post:  x = norm(x + part(x))

The parts of a layer: self-attention and a two-layer perceptron with exact GELU. Dropout acts on what each part adds and, by its own
rate, on the attention probabilities. Nothing is computed on padding (nn/packing.py), and the last layer answers only for the
tokens that somebody reads: masked words and [CLS], most often.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.nn.attention import Attention, is_recording
from diptych.nn.packing import Benches, Packing, Some
from diptych.nn.recompute import Recomputed


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """BERT's start, for `Module.apply`: weights from a normal of deviation .02 cut at two deviations, no biases."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Layer(Recomputed):
    class Config(config.Config):
        heads: PositiveInt = 12
        ffn_ratio: PositiveFloat = 4.0  # hidden width of the perceptron over the layer's width
        norm: Literal["pre", "post"] = "pre"
        eps: PositiveFloat = 1e-6
        dropout: float = Field(default=0.1, ge=0, lt=1)
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.is_pre = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(width, config.eps)
        self.attention = Attention(width, config.heads, config.attention_dropout)
        self.ffn_norm = nn.LayerNorm(width, config.eps)
        self.ffn = FeedForward(width, int(width * config.ffn_ratio))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_PD: Tensor, benches: Benches, read: Some | None = None) -> Tensor:
        """Packed tokens among those on their bench: [P, D], or [R, D] of the tokens that `read` names."""
        reading = None if read is None else benches.reading(read)
        attended = self.attention(self.attention_norm(x_PD) if self.is_pre else x_PD, benches, read, reading)
        x_PD = (x_PD if read is None else read.of_list(x_PD)) + self.dropout(attended)
        if self.is_pre:
            return x_PD + self.dropout(self.ffn(self.ffn_norm(x_PD)))
        x_PD = self.attention_norm(x_PD)
        return self.ffn_norm(x_PD + self.dropout(self.ffn(x_PD)))


class Transformer(nn.Module):
    """A stack of layers; for pre-norm with the norm that closes it."""

    class Config(Layer.Config):
        layers: PositiveInt = 12
        init_std: PositiveFloat = 0.02  # BERT's, for a width of 768; narrow layers learn sooner from a wider one

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.eps) if config.norm == "pre" else nn.Identity()
        self.apply(partial(initialise, std=config.init_std))

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, read_BT: Tensor | None = None) -> Tensor:
        """[B, T, D], zero in the padding. `read_BT`: the only states that are wanted; others come out zero."""
        by_length = not is_recording()  # what is recorded is told row by row
        packing = Packing.where_it_pays(mask_BT) if by_length else Packing.of(mask_BT)
        benches, x_PD = packing.benches(by_length), packing.pack(x_BTD)
        for layer in self.layers[:-1]:
            x_PD = layer(x_PD, benches)
        read = None if read_BT is None or not by_length else packing.which(read_BT)
        x_PD = self.layers[-1](x_PD, benches, read)
        return (packing if read is None else packing.only(read)).unpack(self.norm(x_PD))
