"""Transformer decoder layers (Vaswani et al., 2017): tokens attend to one another, then look at something else.

    [ attend to one another -> look at the source -> perceptron ] x layers      norms before or after each part (nn/transformer.py)

Both streams of fusion/dual_stream.py are made of these layers. A `Decoder` is a stack of them that writes (each token attends to
those before it: `is_causal`) or answers queries in parallel, as DETR's does (Carion et al., 2020): what a query is, or where a cell
lies, is then added to queries and keys at every layer, never to values; and every layer's states come out, through one norm, so
that each can be trained. That closing norm is there for post-norm layers too, as in DETR.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych.nn.attention import Attention, is_recording, multi_head
from diptych.nn.packing import Benches, Packing, Some
from diptych.nn.recompute import Recomputed
from diptych.nn.transformer import FeedForward, Layer, initialise


class Source(NamedTuple):
    """What is looked at: S sequences of V tokens."""

    key_SVD: Tensor
    value_SVD: Tensor
    mask_SV: Tensor


class Look(nn.Module):
    """Attention of packed tokens to a source: all tokens that look at one thing do so together."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def start_as_match(self) -> None:
        """score = <R x, R y> = <x, y>, and what is found comes back as it is: out value = identity."""
        with torch.no_grad():
            nn.init.orthogonal_(self.key.weight)
            self.query.weight.copy_(self.key.weight)
            nn.init.orthogonal_(self.value.weight)
            self.out.weight.copy_(self.value.weight.T)

    def forward(self, x_PD: Tensor, source: Source, looking: Benches) -> Tensor:
        query_PD, key_SVD, value_SVD = self.query(x_PD), self.key(source.key_SVD), self.value(source.value_SVD)
        dropout = self.dropout if self.training else 0.0
        parts = []
        for group in looking.groups:
            key, value, mask = (part.index_select(0, group.bench_S) for part in (key_SVD, value_SVD, source.mask_SV))
            mixed = multi_head(self, self.heads, group.seat(query_PD), key, value, mask, dropout)
            parts.append(group.rise(mixed))
        return self.out(looking.gather(parts))


class DecoderLayer(Recomputed):
    """Its own kind, then the source, then the perceptron."""

    def __init__(self, config: Layer.Config, width: int):
        super().__init__()
        self.is_pre = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(width, config.eps)
        self.attention = Attention(width, config.heads, config.attention_dropout)
        self.look_norm = nn.LayerNorm(width, config.eps)
        self.look = Look(width, config.heads, config.attention_dropout)
        self.ffn_norm = nn.LayerNorm(width, config.eps)
        self.ffn = FeedForward(width, int(width * config.ffn_ratio))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_PD: Tensor,
        own: Benches,
        source: Source,
        looking: Benches,
        read: Some | None = None,
        place_PD: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Packed tokens that sit on `own` benches among themselves and on `looking` ones before the source.

        [R, D] of the tokens that `read` names, or [P, D] of all. `place_PD` is added to what asks and to what is found by.
        """
        reading = None if read is None else own.reading(read)
        seen_RD = self.attention(self._open(x_PD, self.attention_norm), own, read, reading, place_PD, is_causal)
        if read is not None:
            x_PD, looking = read.of_list(x_PD), looking.reading(read)
        x_PD = self._close(x_PD + self.dropout(seen_RD), self.attention_norm)
        asking_PD = self._open(x_PD, self.look_norm)
        asking_PD = asking_PD if place_PD is None else asking_PD + place_PD
        x_PD = self._close(x_PD + self.dropout(self.look(asking_PD, source, looking)), self.look_norm)
        return self._close(x_PD + self.dropout(self.ffn(self._open(x_PD, self.ffn_norm))), self.ffn_norm)

    def _open(self, x_PD: Tensor, norm: nn.Module) -> Tensor:
        return norm(x_PD) if self.is_pre else x_PD

    def _close(self, x_PD: Tensor, norm: nn.Module) -> Tensor:
        return x_PD if self.is_pre else norm(x_PD)


class Decoder(nn.Module):
    """A stack of layers, and the norm through which each layer's states come out."""

    class Config(Layer.Config):
        layers: PositiveInt = 6

        def build(self, width: int) -> Decoder:
            return Decoder(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.eps)
        self.apply(initialise)

    def forward(
        self,
        x_BTD: Tensor,
        mask_BT: Tensor,
        source: Source,
        source_of_B: Tensor,
        place_BTD: Tensor | None = None,
        is_causal: bool = False,
    ) -> list[Tensor]:
        """[B, T, D] of each layer, the last one last; zero in the padding. `source_of_B`: which source a row looks at."""
        packing = Packing.of(mask_BT)
        by_length = not is_recording()  # what is recorded is told row by row
        own, x_PD = packing.benches(by_length), packing.pack(x_BTD)
        place_PD = None if place_BTD is None else packing.pack(place_BTD)
        if by_length:
            looking = Benches.of(source_of_B[packing.row_P], len(source.mask_SV))
        else:
            source, looking = Source(*(part[source_of_B] for part in source)), own
        states = []
        for layer in self.layers:
            x_PD = layer(x_PD, own, source, looking, place_PD=place_PD, is_causal=is_causal)
            states.append(packing.unpack(self.norm(x_PD)))
        return states
