"""Contrast: each embedding finds its partner among all others (SimCLR, Chen et al., ICML 2020; MoCo, He et al., CVPR 2020; ALIGN).

    two sides a, b, L2-normalised; s(x, y) = x.y / temperature; row i of a belongs to row i of b

    InfoNCE              L = - 1/2N sum_i [ log softmax_j s(a_i, b_j) at j = i  +  log softmax_j s(b_i, a_j) at j = i ]
    NT-Xent (`within`)   the same with more negatives: beside all b_j, a_i also sees every a_j but itself; b_i likewise
    against a queue      L = - 1/N sum_i log [ exp s(a_i, b_i) / (exp s(a_i, b_i) + sum_k exp s(a_i, queue_k)) ]     (MoCo)

Negatives come from all ranks (`dist.gather_rows`), so a batch cut over ranks has the loss and the gradient of the whole batch; with
`train.accumulate` they come from the micro-step. The first two are means over both directions, as SimCLR's paper has it: SimCLR's
code sums the two (weight 2), ALIGN's paper too. `smoothing` spreads a share of the target evenly over all that an anchor sees
(ALIGN: 0.1).

Rows of one picture are the same thing seen again and never each other's negatives, in a batch or in a queue: a small data set
comes round soon. Rows without a picture ask nothing and are nobody's negatives. The temperature travels with the `Towers`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config, dist
from diptych.contracts import IGNORE, ROWS_PER_SAMPLE, Batch, LossTerm, Sample, Towers
from diptych.draw import Draw
from diptych.nn.pieces import in_pieces
from diptych.objectives import example_rows

ANCHORS = 1024  # that are compared with all others at a time; of more, the scores are computed again in the backward pass
_NO_PICTURE = -1  # of a key that the queue started with: a negative for all


class Contrast(nn.Module):
    name: ClassVar[str] = "contrast"  # of its labels and counts
    fixed: Tensor

    class Config(config.Config):
        within: bool = False  # negatives from an anchor's own side too
        temperature: PositiveFloat = 0.1  # at the start, where it is learnt
        learnable: bool = False
        least: PositiveFloat = 0.01  # a learnt temperature stays above it
        smoothing: float = Field(default=0.0, ge=0, lt=1)
        weight: PositiveFloat = 1.0

        def build(self) -> Contrast:
            return Contrast(self)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature))) if config.learnable else None
        self.register_buffer("fixed", torch.tensor(config.temperature), persistent=False)

    @property
    def temperature(self) -> Tensor:
        return self.fixed if self.log_temperature is None else self.log_temperature.exp().clamp(min=self.config.least)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Nothing is changed; rows are told apart (labels [B]) and counted."""
        label_B = self.number(batch)
        count = float((label_B != IGNORE).sum())
        return replace(batch, labels={**batch.labels, self.name: label_B}, counts={**batch.counts, self.name: count})

    def number(self, batch: Batch) -> Tensor:
        """[B] a number of each row's picture."""
        assert batch.image_of_BN is not None
        label_B = batch.row_B // ROWS_PER_SAMPLE
        if batch.samples:
            label_B = torch.tensor([number_of(_picture(sample)) for sample in batch.samples], dtype=torch.int64)
        return label_B.masked_fill(batch.image_of_BN[:, 0] < 0, IGNORE)

    def forward(self, towers: Towers, batch: Batch) -> LossTerm:
        """Both sides ask; negatives are the rows of all ranks."""
        a_BE, b_BE = towers.a_BE.float(), towers.b_BE.float()
        (a_CE, first), (b_CE, _) = dist.gather_rows(a_BE), dist.gather_rows(b_BE)
        label_B = batch.labels[self.name]
        label_C, _ = dist.gather_rows(label_B)
        own_B, place_C = (torch.arange(len(label), device=label.device) for label in (label_B, label_C))
        own_B = own_B + first

        def ask(anchor_BE: Tensor, own_B: Tensor, label_B: Tensor, other_CE: Tensor, same_CE: Tensor) -> Tensor:
            is_negative_BC = (label_B[:, None] != label_C) & (label_C != IGNORE)
            hidden_BC = ~(is_negative_BC | (own_B[:, None] == place_C))
            score_BC = (anchor_BE @ other_CE.T / towers.temperature).masked_fill(hidden_BC, -torch.inf)
            if self.config.within:
                within_BC = (anchor_BE @ same_CE.T / towers.temperature).masked_fill(~is_negative_BC, -torch.inf)
                score_BC = torch.cat([score_BC, within_BC], 1)
            return torch.stack(self._ask(score_BC, own_B, label_B), 1)

        total, right = a_BE.sum() * 0, 0.0
        for anchor_BE, other_CE, same_CE in ((a_BE, b_CE, a_CE), (b_BE, a_CE, b_CE)):
            asked = partial(ask, other_CE=other_CE, same_CE=same_CE)
            loss, found = in_pieces(asked, ANCHORS, anchor_BE, own_B, label_B).sum(0)
            total, right = total + loss / 2, right + found.detach() / 2
        count = batch.counts[self.name]
        return LossTerm(total, count, self.config.weight, {"accuracy": (right, count)})

    def against(self, towers: Towers, queue: Queue, batch: Batch) -> LossTerm:
        """Side a asks; negatives are the queue's."""
        a_BE, b_BE, label_B = towers.a_BE.float(), towers.b_BE.float(), batch.labels[self.name]
        score_B1 = (a_BE * b_BE).sum(1, keepdim=True)
        score_BK = (a_BE @ queue.key_KE.T).masked_fill(label_B[:, None] == queue.label_K, -torch.inf)
        score_BK = torch.cat([score_B1, score_BK], 1) / towers.temperature
        loss, right = (each_B.sum() for each_B in self._ask(score_BK, torch.zeros_like(label_B), label_B))
        count = batch.counts[self.name]
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})

    def _ask(self, score_BC: Tensor, own_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """Of each anchor: the cross-entropy, and 1 where its partner is nearest; 0 for anchors that do not ask."""
        is_asked_B = label_B != IGNORE
        loss_B = score_BC.logsumexp(1) - score_BC.gather(1, own_B[:, None])[:, 0]
        if self.config.smoothing:  # the mean over what an anchor sees; what is hidden is at -inf, and no target
            is_seen_BC = score_BC.isfinite()
            even_B = score_BC.logsumexp(1) - score_BC.masked_fill(~is_seen_BC, 0).sum(1) / is_seen_BC.sum(1)
            loss_B = torch.lerp(loss_B, even_B, self.config.smoothing)
        is_right_B = (score_BC.detach().argmax(1) == own_B) & is_asked_B
        return torch.where(is_asked_B, loss_B, 0 * loss_B), is_right_B.to(loss_B.dtype)


class Queue(nn.Module):
    """Keys of past batches, the oldest overwritten first: MoCo's negatives. It starts with random directions, as published.

    `stage` in `forward`, `commit` once per successful step: the keys of all its micro-steps and all ranks, in rank order.
    """

    key_KE: Tensor
    label_K: Tensor  # the picture of each key
    place: Tensor  # where the next key goes

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("key_KE", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("label_K", torch.full((size,), _NO_PICTURE))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._staged: list[tuple[Tensor, Tensor]] = []

    def stage(self, key_BE: Tensor, label_B: Tensor) -> None:
        is_real_B = label_B != IGNORE
        self._staged.append((key_BE.detach().float()[is_real_B], label_B[is_real_B]))

    @torch.no_grad()
    def commit(self) -> None:
        if self._staged:
            size = len(self.key_KE)
            key_CE, label_C = (dist.gather_rows(torch.cat(parts))[0] for parts in zip(*self._staged, strict=True))
            to_C = ((self.place + torch.arange(len(key_CE), device=key_CE.device)) % size)[-size:]
            self.key_KE[to_C], self.label_K[to_C] = key_CE[-size:], label_C[-size:]  # of more than it holds, the last
            self.place.copy_((self.place + len(key_CE)) % size)
            self._staged.clear()

    def discard(self) -> None:
        self._staged.clear()


def number_of(content: bytes) -> int:
    """63 bits of a digest."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _picture(sample: Sample) -> bytes:
    """The picture's file name, or its bytes: two samples may show one picture."""
    source = next(iter(sample.images), b"")
    return source if isinstance(source, bytes) else str(source).encode()


def example() -> tuple[Contrast, Towers, Batch]:
    random = torch.Generator().manual_seed(5)
    a_BE, b_BE = (F.normalize(torch.randn(6, example_rows.WIDTH, generator=random), dim=1) for _ in range(2))
    objective = Contrast(Contrast.Config(within=True, smoothing=0.1))
    return objective, Towers(a_BE, b_BE, objective.temperature), example_rows.batch()
