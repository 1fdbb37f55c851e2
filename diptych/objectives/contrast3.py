"""Three-way contrast (Oscar+, VinVL, section 3.2): do caption, tags and picture belong together, and if not, which is wrong?

    class 0  all three match                       half of the rows
          1  the tags are another picture's        a quarter
          2  the caption is another picture's      a quarter
    L = mean over rows of -log p(class | caption, tags, regions),  p = softmax(Linear(pooled))

Classes are numbered as in the released code, where 0 is the match. Each row draws for itself, so the shares hold on average. A row
without another's caption or tags at hand stays a match. The caption is exchanged here, for the batch brings a false one; the tags
by the system, which knows what its tags are.
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

MATCH, FALSE_TAGS, FALSE_CAPTION = 0, 1, 2


class Contrast3(nn.Module):
    class Config(config.Config):
        tags: float = Field(default=0.25, ge=0, le=0.5)  # share of rows with another picture's tags
        captions: float = Field(default=0.25, ge=0, le=0.5)
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> Contrast3:
            return Contrast3(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.head = nn.Linear(width, 3)
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw, has_tags_B: Tensor | None = None) -> Batch:
        """`labels["contrast3"]`, and the caption exchanged in rows of class 2. `has_tags_B`: where another's tags are at hand."""
        lot_B = torch.from_numpy(draw.uniform("contrast3", batch.row_B.numpy())[:, 0])
        tags, captions = self.config.tags, self.config.captions
        wants_tags_B = lot_B < tags if has_tags_B is None else (lot_B < tags) & has_tags_B
        wants_caption_B = (lot_B >= tags) & (lot_B < tags + captions)
        false = batch.false_text
        wants_caption_B &= torch.zeros_like(wants_caption_B) if false is None else false.mask_BT.any(1)
        label_B = torch.full((len(batch),), MATCH)
        label_B = label_B.masked_fill(wants_tags_B, FALSE_TAGS).masked_fill(wants_caption_B, FALSE_CAPTION)
        batch = batch if false is None else batch.with_false_text(wants_caption_B)
        labels, counts = {**batch.labels, "contrast3": label_B}, {**batch.counts, "contrast3": float(len(batch))}
        return replace(batch, labels=labels, counts=counts)

    def logits(self, fused: Fused) -> Tensor:
        """[B, 3]"""
        return self.head(fused.pooled_BD).float()

    def logit(self, fused: Fused) -> Tensor:
        """[B] log-odds of a match."""
        logits_B3 = self.logits(fused)
        return logits_B3[:, MATCH] - logits_B3[:, MATCH + 1 :].logsumexp(1)

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        logits_B3, label_B = self.logits(fused), batch.labels["contrast3"]
        loss = F.cross_entropy(logits_B3, label_B, ignore_index=IGNORE, reduction="sum")
        guess_B, count = logits_B3.detach().argmax(-1), batch.counts["contrast3"]
        metrics = {"accuracy": ((guess_B == label_B).sum(), count)}
        for name, kind in (("tags", FALSE_TAGS), ("captions", FALSE_CAPTION)):  # of those, how many are seen to be no match
            is_kind_B = label_B == kind
            metrics[f"false_{name}_found"] = ((is_kind_B & (guess_B != MATCH)).sum(), float(is_kind_B.sum()))
        return LossTerm(loss, count, self.config.weight, metrics)


def example() -> tuple[Contrast3, Fused, Batch]:
    return Contrast3(Contrast3.Config(), example_rows.WIDTH), example_rows.fused(), example_rows.batch()
