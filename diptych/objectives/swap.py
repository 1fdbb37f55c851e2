"""Swapped words: which word of this text is not true of the picture?

    rows of ITM whose false text is the true one with a word exchanged; label 1 on the pieces of that word, 0 on all others
    L = mean over labelled tokens of the binary cross-entropy of w . h(token) + b

ELECTRA's replaced-token detection (Clark et al., ICLR 2020) with the picture as judge. Matching asks one bit of a whole text; this
asks each word, so a word that finds nothing like it in the picture is told so itself. It is asked before the last layer, where the
encoder hands that out: the last one is left to draw the conclusion that matching asks for. In no paper of the survey; it costs
nothing beside ITM, whose pass it reads. A false text that is not the true one with words exchanged in place (another sample's,
say) asks nothing here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.packing import at_length
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows


class Swap(nn.Module):
    class Config(config.Config):
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> Swap:
            return Swap(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        self.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Nothing of its own: announces the words of which ITM has said whether they were exchanged."""
        label_BT = batch.labels["itm_swapped"]
        return replace(batch, counts={**batch.counts, "swap": float((label_BT != IGNORE).sum())})

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        label_BT = batch.labels["itm_swapped"]
        is_asked_BT = label_BT != IGNORE
        state_BTD = fused.text_BTD if fused.middle_BTD is None else fused.middle_BTD
        logit_P = at_length(lambda x_PD: self.head(self.norm(x_PD)), state_BTD[is_asked_BT])[:, 0].float()
        label_P = label_BT[is_asked_BT].float()
        is_swapped_P = label_P > 0
        found = ((logit_P.detach() > 0) & is_swapped_P).sum()
        loss = F.binary_cross_entropy_with_logits(logit_P, label_P, reduction="sum")
        return LossTerm(loss, batch.counts["swap"], self.config.weight, {"found": (found, float(is_swapped_P.sum()))})


def example() -> tuple[Swap, Fused, Batch]:
    batch = example_rows.batch()
    labels = torch.where(batch.word_BT >= 0, (torch.arange(batch.text_BT.shape[1]) == 2).long(), IGNORE)
    return (
        Swap(Swap.Config(), example_rows.WIDTH),
        example_rows.fused(),
        replace(batch, labels={**batch.labels, "itm_swapped": labels}),
    )
