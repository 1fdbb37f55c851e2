"""Next sentence prediction (Devlin et al., 2019): does the second part of a text follow the first, or is it another document's?

    in about half of the rows the pair [A ; next B] is replaced by [A ; B of another document]        (data/pairs.py makes both)
    L = mean over rows of -log p(label | A, B),  p = softmax(Linear(pooled)),  label 0 = next, 1 = random, as published

A row whose document ends with A is always shown the other document's part; one for which none was found keeps its own. Where
neither is there, nothing is asked.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows


class NSP(nn.Module):
    class Config(config.Config):
        random: float = Field(default=0.5, ge=0, le=1)  # share of rows whose second part is another document's
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> NSP:
            return NSP(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.head = nn.Linear(width, 2)  # rows: next, random
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        lot_B = torch.from_numpy(draw.uniform("nsp/random", batch.row_B.numpy())[:, 0])
        has_next_B = (batch.segment_BT == 1).any(1)
        is_random_B = torch.zeros_like(has_next_B)
        if batch.false_text is not None:
            is_random_B = batch.false_text.mask_BT.any(1) & ((lot_B < self.config.random) | ~has_next_B)
            batch = batch.with_false_text(is_random_B)
        label_B = is_random_B.long().masked_fill(~(is_random_B | has_next_B), IGNORE)
        count = float((label_B != IGNORE).sum())
        return replace(batch, labels={**batch.labels, "nsp": label_B}, counts={**batch.counts, "nsp": count})

    def logits(self, fused: Fused) -> Tensor:
        """[B, 2] next, random."""
        return self.head(fused.pooled_BD).float()

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        logits_B2, label_B, count = self.logits(fused), batch.labels["nsp"], batch.counts["nsp"]
        right = (logits_B2.detach().argmax(-1) == label_B).sum()  # IGNORE equals neither
        loss = F.cross_entropy(logits_B2, label_B, ignore_index=IGNORE, reduction="sum")
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


def example() -> tuple[NSP, Fused, Batch]:
    """Rows in two halves, the first of them without a second half."""
    batch = example_rows.batch()
    is_second_BT = batch.text_mask_BT & (torch.arange(batch.text_BT.shape[1]) >= 3)
    is_second_BT[0] = False
    return NSP(NSP.Config(), example_rows.WIDTH), example_rows.fused(), replace(batch, segment_BT=is_second_BT.long())
