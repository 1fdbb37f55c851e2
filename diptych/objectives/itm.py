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

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows


class ITM(nn.Module):
    class Config(config.Config):
        negatives: float = Field(default=0.5, ge=0, le=1)  # share of rows whose text is swapped
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> ITM:
            return ITM(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.head = nn.Linear(width, 2)  # rows: mismatch, match
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        is_false_B = torch.from_numpy(draw.uniform("itm/swap", batch.row_B.numpy())[:, 0] < self.config.negatives)
        false = batch.false_text
        if false is None:
            is_false_B = torch.zeros_like(is_false_B)
        else:
            is_false_B &= false.mask_BT.any(1)
            batch = replace(
                batch,
                text_BT=torch.where(is_false_B[:, None], false.token_BT, batch.text_BT),
                text_mask_BT=torch.where(is_false_B[:, None], false.mask_BT, batch.text_mask_BT),
                segment_BT=torch.where(is_false_B[:, None], false.segment_BT, batch.segment_BT),
                word_BT=torch.where(is_false_B[:, None], false.word_BT, batch.word_BT),
                phrases=tuple(() if swapped else spans for swapped, spans in zip(is_false_B, batch.phrases, strict=False)),
            )
        return replace(
            batch,
            labels={**batch.labels, "itm": (~is_false_B).long()},
            counts={**batch.counts, "itm": float(len(batch))},
        )

    def logit(self, fused: Fused) -> Tensor:
        """[B] log-odds of a match."""
        logits_B2 = self.head(fused.pooled_BD).float()
        return logits_B2[:, 1] - logits_B2[:, 0]

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        logits_B2, labels_B = self.head(fused.pooled_BD).float(), batch.labels["itm"]
        count = batch.counts["itm"]
        right = (logits_B2.detach().argmax(-1) == labels_B).sum()  # IGNORE equals neither
        loss = F.cross_entropy(logits_B2, labels_B, ignore_index=IGNORE, reduction="sum")
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


def example() -> tuple[ITM, Fused, Batch]:
    return ITM(ITM.Config(), example_rows.WIDTH), example_rows.fused(), example_rows.batch()
