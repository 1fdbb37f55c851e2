"""The transformer encoder (Vaswani et al., 2017) with the norm before (ViT, ViLT) or after (BERT) each part.

    pre:   x = x + part(norm(x)), one more norm at the very end
    post:  x = norm(x + part(x))

The parts of a layer: self-attention; attention to a second source, if the layer has it; a two-layer perceptron with exact GELU.
Dropout acts on what each part adds and, by its own rate, on the attention probabilities.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.nn.attention import Attention


def initialise(module: nn.Module) -> None:
    """BERT's start, for `Module.apply`: weights from a normal of deviation .02 cut at two deviations, no biases."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
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


class Layer(nn.Module):
    class Config(config.Config):
        heads: PositiveInt = 12
        ffn_ratio: PositiveFloat = 4.0  # hidden width of the perceptron over the layer's width
        norm: Literal["pre", "post"] = "pre"
        eps: PositiveFloat = 1e-6
        dropout: float = Field(default=0.1, ge=0, lt=1)
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)

    def __init__(self, config: Config, width: int, cross: bool = False):
        super().__init__()
        self.is_pre = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(width, config.eps)
        self.attention = Attention(width, config.heads, config.attention_dropout)
        if cross:
            self.cross_norm = nn.LayerNorm(width, config.eps)
            self.cross = Attention(width, config.heads, config.attention_dropout)
        self.has_cross = cross
        self.ffn_norm = nn.LayerNorm(width, config.eps)
        self.ffn = FeedForward(width, int(width * config.ffn_ratio))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTD: Tensor, mask: Tensor | None = None, source_BSD: Tensor | None = None, source_mask_BS: Tensor | None = None
    ) -> Tensor:
        """`mask` as in `Attention`. A layer built with `cross` needs a source, one built without has no use for it."""
        drop = self.dropout
        if self.is_pre:
            x_BTD = x_BTD + drop(self.attention(self.attention_norm(x_BTD), mask))
            if self.has_cross:
                x_BTD = x_BTD + drop(self.cross(self.cross_norm(x_BTD), None, source_BSD, source_mask_BS))
            return x_BTD + drop(self.ffn(self.ffn_norm(x_BTD)))
        x_BTD = self.attention_norm(x_BTD + drop(self.attention(x_BTD, mask)))
        if self.has_cross:
            x_BTD = self.cross_norm(x_BTD + drop(self.cross(x_BTD, None, source_BSD, source_mask_BS)))
        return self.ffn_norm(x_BTD + drop(self.ffn(x_BTD)))


class Transformer(nn.Module):
    """A stack of layers; for pre-norm with the norm that closes it."""

    class Config(Layer.Config):
        layers: PositiveInt = 12

    def __init__(self, config: Config, width: int, cross: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, width, cross) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.eps) if config.norm == "pre" else nn.Identity()
        self.apply(initialise)

    def forward(
        self, x_BTD: Tensor, mask: Tensor | None = None, source_BSD: Tensor | None = None, source_mask_BS: Tensor | None = None
    ) -> Tensor:
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask, source_BSD, source_mask_BS)
        return self.norm(x_BTD)
