"""Masked region classification (UNITER, section 3.2): which class did the detector give this hidden region?

    target = argmax of the detector's probabilities, background left out
    L = mean over hidden regions of -log p(target | state),  p = softmax([ Linear - GELU - LayerNorm - Linear ](state))

"background" has a place among the classes (the first) and is never the target. In none of UNITER's released mixtures: its
ablation is the preset `uniter:mrc`.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.head import MLMHead
from diptych.objectives import example_rows, hidden_regions


class MRC(nn.Module):
    class Config(config.Config):
        rate: float = Field(default=0.15, gt=0, le=1)
        eps: PositiveFloat = 1e-12
        weight: PositiveFloat = 1.0

        def build(self, width: int, classes: int) -> MRC:
            return MRC(self, width, classes)

    def __init__(self, config: Config, width: int, classes: int):
        super().__init__()
        self.config = config
        self.head = MLMHead(width, classes, eps=config.eps)  # guessing a class is guessing a word of another vocabulary

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        return hidden_regions.hide("mrc", self.config.rate, batch, draw)

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        logits_PK = self.head(hidden_regions.states("mrc", fused, batch)).float()
        _, soft_label_PK = hidden_regions.targets("mrc", batch)
        label_P = likeliest(soft_label_PK)
        right = (likeliest(logits_PK.detach()) == label_P).sum()
        count = batch.counts["mrc"]
        return LossTerm(
            F.cross_entropy(logits_PK, label_P, reduction="sum"), count, self.config.weight, {"accuracy": (right, count)}
        )


def likeliest(score_PK: Tensor) -> Tensor:
    """[P] the best class that is not background."""
    return score_PK[:, 1:].argmax(1) + 1


def example() -> tuple[MRC, Fused, Batch]:
    return (
        MRC(MRC.Config(), example_rows.WIDTH, hidden_regions.CLASSES),
        example_rows.fused(),
        hidden_regions.rows(),
    )
