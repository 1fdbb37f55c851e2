"""Object-guided masked vision modelling (KD-VLP, 2021): what stood where a detector saw a thing?

    one region b of the picture is drawn for each row; every cell of the grid that it touches is hidden behind one learned vector
    v = mean of the encoded cells under b, by area
    L = mean over rows of  mean over dimensions of (W v - f_b)^2  +  KL( c_b || softmax(W' v) )

f_b and c_b are the teacher's: the feature and the class probabilities of that region, from a region store. A whole object goes, so
it cannot be finished from its own half; its place is told by what is hidden, its nature by the text and the surroundings.

A reconstruction: the paper's text and code were not at hand. What is known is the idea; the masked vector, cells that are only
touched (`covered`), the mean over dimensions (UNITER's, whose code the authors build on; their formula is written as a sum) and
equal weights of both terms are ours.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.box import coverage, pool
from diptych.nn.transformer import initialise
from diptych.objectives import example_rows, hidden_regions
from diptych.objectives.mrc import likeliest

HIDDEN, ASKED = 0, 1  # hidden and not asked for; hidden and asked for


class OMVM(nn.Module):
    class Config(config.Config):
        covered: float = Field(default=0.01, ge=0, lt=1)  # a cell is hidden of which more than this share lies under the region
        feature_weight: NonNegativeFloat = 1.0
        class_weight: NonNegativeFloat = 1.0
        weight: PositiveFloat = 1.0

        def build(self, width: int, features: int, classes: int) -> OMVM:
            """features, classes: of the teacher's regions."""
            return OMVM(self, width, features, classes)

    def __init__(self, config: Config, width: int, features: int, classes: int):
        super().__init__()
        self.config = config
        self.hidden_D = nn.Parameter(torch.empty(width))
        self.feature = nn.Linear(width, features)
        self.of_class = nn.Linear(width, classes)
        self.apply(initialise)
        nn.init.normal_(self.hidden_D, std=0.02)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """`labels["omvm"]` [B, R]: ASKED at the region drawn for each row, IGNORE elsewhere."""
        assert batch.regions is not None and batch.image_of_BN is not None
        picture_B = batch.image_of_BN[:, 0]
        mask_BR = batch.regions.mask_IR[picture_B.clamp(min=0)] & (picture_B >= 0)[:, None]
        lot_B = torch.from_numpy(draw.integers("omvm/region", batch.row_B.numpy(), 2**31)[:, 0])
        nth_B1 = (lot_B % mask_BR.sum(1).clamp(min=1))[:, None]
        is_drawn_BR = mask_BR & (mask_BR.cumsum(1) - 1 == nth_B1)
        label_BR = torch.where(is_drawn_BR, ASKED, IGNORE)
        return replace(batch, labels={**batch.labels, "omvm": label_BR}, counts={**batch.counts, "omvm": float(is_drawn_BR.sum())})

    def hide(self, token_BVD: Tensor, mask_BV: Tensor, box_BV4: Tensor, batch: Batch) -> Tensor:
        """[B, V, D] with the learned vector in the cells under each row's drawn region."""
        is_hidden_BV = mask_BV & (coverage(self._drawn(batch), box_BV4)[:, 0] > self.config.covered)
        is_hidden_BV &= (batch.labels["omvm"] != IGNORE).any(1, keepdim=True)
        return torch.where(is_hidden_BV[..., None], self.hidden_D.to(token_BVD.dtype), token_BVD)

    def _drawn(self, batch: Batch) -> Tensor:
        """[B, 1, 4] the box of each row's drawn region; any other where there is none."""
        assert batch.regions is not None and batch.image_of_BN is not None
        region_B = (batch.labels["omvm"] != IGNORE).int().argmax(1)
        return batch.regions.box_IR4[batch.image_of_BN[:, 0].clamp(min=0), region_B][:, None]

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        b_P, r_P = (batch.labels["omvm"] == ASKED).nonzero(as_tuple=True)
        rows = fused.rows(b_P)
        box_P14 = self._drawn(batch)[b_P]
        state_PD = pool(rows.image_BVD, rows.image_mask_BV, rows.box_BV4, box_P14)[:, 0]
        assert batch.regions is not None and batch.image_of_BN is not None
        assert batch.regions.feature_IRD is not None and batch.regions.soft_label_IRK is not None
        picture_P = batch.image_of_BN[b_P, 0]
        feature_PF, q_PK = (part[picture_P, r_P].float() for part in (batch.regions.feature_IRD, batch.regions.soft_label_IRK))
        away = (self.feature(state_PD).float() - feature_PF).square().mean(1).sum()
        log_p_PK = self.of_class(state_PD).float().log_softmax(1)
        divergence = (torch.special.xlogy(q_PK, q_PK) - q_PK * log_p_PK).sum()
        right = (likeliest(log_p_PK.detach()) == likeliest(q_PK)).sum()
        count = batch.counts["omvm"]
        loss = self.config.feature_weight * away + self.config.class_weight * divergence
        metrics = {"accuracy": (right, count), "feature": (away.detach(), count)}
        return LossTerm(loss, count, self.config.weight, metrics)


class _Example(OMVM):
    """With an encoder that changes nothing."""

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        hidden_BVD = self.hide(fused.image_BVD, fused.image_mask_BV, fused.box_BV4, batch)
        return super().forward(fused._replace(image_BVD=hidden_BVD), batch)


def example() -> tuple[OMVM, Fused, Batch]:
    objective = _Example(OMVM.Config(), example_rows.WIDTH, hidden_regions.FEATURES, hidden_regions.CLASSES)
    return objective, example_rows.fused(), hidden_regions.rows()
