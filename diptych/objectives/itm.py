"""Image-text matching: does this text belong to this picture? (UNITER, ViLT, SOHO; label 1 = it does.)

    in about half of the rows the text is replaced by one that is not true of the picture
    L = mean over rows of -log p(label | text, picture),  p = softmax(Linear(pooled))

The text is swapped, not the picture as in ViLT's code: the pairs have the same distribution, (text of one sample, picture of
another), and a picture shared by several rows is still encoded once. Each row draws for itself, so the share of swaps is a half
on average, where ViLT's is exactly a half of every batch. The data decides how hard the false text is: `Batch.false_text` is a
near text that was checked to be false, or else a text of another sample. A row without one stays a match.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Texts
from diptych.draw import Draw
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows


class ITM(nn.Module):
    class Config(config.Config):
        negatives: float = Field(default=0.5, ge=0, le=1)  # share of rows whose text is swapped
        by: Literal["pooled", "words"] = "pooled"  # words: the system's masked-word head says yes or no, see its `truth`
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> ITM:
            return ITM(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.head = nn.Linear(width, 2) if config.by == "pooled" else None  # rows: mismatch, match
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        is_false_B = torch.from_numpy(draw.uniform("itm/swap", batch.row_B.numpy())[:, 0] < self.config.negatives)
        false = batch.false_text
        swapped_BT = torch.full_like(batch.text_BT, IGNORE)
        if false is None:
            is_false_B = torch.zeros_like(is_false_B)
        else:
            is_false_B &= false.mask_BT.any(1)
            swapped_BT = torch.where(is_false_B[:, None], 1, 0) * exchanged(batch, false)
            swapped_BT = swapped_BT.masked_fill(~in_place(batch, false), IGNORE)
            batch = batch.with_false_text(is_false_B)
        return replace(
            batch,
            labels={**batch.labels, "itm": (~is_false_B).long(), "itm_swapped": swapped_BT},
            counts={**batch.counts, "itm": float(len(batch))},
        )

    def logits(self, fused: Fused) -> Tensor:
        """[B, 2] mismatch, match."""
        if self.head is None:
            raise ValueError("itm.by=words has no head of its own: the system says what its words say of the text")
        return self.head(fused.pooled_BD).float()

    def logit(self, fused: Fused) -> Tensor:
        """[B] log-odds of a match."""
        logits_B2 = self.logits(fused)
        return logits_B2[:, 1] - logits_B2[:, 0]

    def forward(self, fused: Fused, batch: Batch, logits_B2: Tensor | None = None) -> LossTerm:
        """`logits_B2`: what the system's words say, with by="words"."""
        logits_B2, labels_B = self.logits(fused) if logits_B2 is None else logits_B2, batch.labels["itm"]
        count = batch.counts["itm"]
        right = (logits_B2.detach().argmax(-1) == labels_B).sum()  # IGNORE equals neither
        loss = F.cross_entropy(logits_B2, labels_B, ignore_index=IGNORE, reduction="sum")
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


def exchanged(batch: Batch, false: Texts) -> Tensor:
    """[B, T] 1 where the false text has another token in the same place."""
    return (batch.text_BT != false.token_BT).long()


def in_place(batch: Batch, false: Texts) -> Tensor:
    """[B, T] the words of texts whose false one is the same text with few words exchanged where they stood."""
    is_word_BT = (batch.word_BT >= 0) & (false.word_BT >= 0)
    differs_B = (exchanged(batch, false) * batch.text_mask_BT).sum(1)
    is_alike_B = (batch.text_mask_BT == false.mask_BT).all(1) & (2 * differs_B <= is_word_BT.sum(1))
    return is_alike_B[:, None] & is_word_BT


def example() -> tuple[ITM, Fused, Batch]:
    return ITM(ITM.Config(), example_rows.WIDTH), example_rows.fused(), example_rows.batch()
