"""Masked visual modelling (SOHO, section 3.3): guess the dictionary word of hidden cells from the text and the other cells.

    one cell of the picture is drawn; it and every cell that shares its word j are hidden behind one learned vector
    p(j | text, other cells) = softmax over k of cos(state, d_k) / temperature
    L = mean over rows of the mean over a row's hidden cells of -log p(j)

All cells with the word go, or the answer could be copied from next door. Only the drawn number is known before the forward pass
(which words a picture has is not), so the loss is counted in rows. The dictionary classifies, and learns nothing from it.

What the released code does otherwise: one place is drawn for the whole batch, a row takes part with probability .015 (`rate`),
and the mean is over hidden cells. With its temperature of 1 the logits lie in [-1, 1], so even a certain guess is a weak one: of
2048 words the right one gets p <= 2048^-1 e^2; hence `temperature`.
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
from diptych.nn.exact import exact
from diptych.objectives import example_rows


class MVM(nn.Module):
    class Config(config.Config):
        rate: float = Field(default=1.0, ge=0, le=1)  # share of rows that hide a word
        temperature: PositiveFloat = 1.0
        weight: PositiveFloat = 1.0

        def build(self, width: int) -> MVM:
            return MVM(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.hidden_D = nn.Parameter(torch.randn(width))

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Which rows hide a word, and for each a number that names a cell once it is known how many there are."""
        rows = batch.row_B.numpy()
        is_asked_B = torch.from_numpy(draw.uniform("mvm/row", rows)[:, 0] < self.config.rate)
        if batch.image_of_BN is not None:
            is_asked_B &= (batch.image_of_BN >= 0).any(1)
        cell_B = torch.from_numpy(draw.integers("mvm/cell", rows, 2**31)[:, 0]).masked_fill(~is_asked_B, IGNORE)
        return replace(batch, labels={**batch.labels, "mvm": cell_B}, counts={**batch.counts, "mvm": float(is_asked_B.sum())})

    def hide(self, token_BVD: Tensor, word_BV: Tensor, mask_BV: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """([B, V, D] with the hidden vector in the drawn cells and in those of the same word, [B, V] their word, or IGNORE)."""
        draw_B = batch.labels["mvm"]
        nth_B1 = (draw_B % mask_BV.sum(1).clamp(min=1))[:, None]
        is_drawn_BV = mask_BV & (mask_BV.cumsum(1) - 1 == nth_B1)  # counted among real cells: padding moves nothing
        drawn_B1 = word_BV.masked_fill(~is_drawn_BV, 0).sum(1, keepdim=True)
        is_hidden_BV = mask_BV & (word_BV == drawn_B1) & (draw_B != IGNORE)[:, None]
        hidden_BVD = torch.where(is_hidden_BV[..., None], self.hidden_D.to(token_BVD.dtype), token_BVD)
        return hidden_BVD, word_BV.masked_fill(~is_hidden_BV, IGNORE)

    def forward(self, fused: Fused, batch: Batch, word_BV: Tensor, dictionary_KD: Tensor) -> LossTerm:
        """`word_BV` from `hide`; `dictionary_KD`: the words."""
        is_hidden_BV = word_BV != IGNORE
        state_PD = F.normalize(fused.image_BVD[is_hidden_BV].float(), dim=-1)
        with exact(state_PD):
            logits_PK = state_PD @ F.normalize(dictionary_KD, dim=-1).T / self.config.temperature
        word_P = word_BV[is_hidden_BV]
        share_P = (1 / is_hidden_BV.sum(1, keepdim=True)).expand_as(word_BV)[is_hidden_BV]  # of a cell in its row's mean
        loss = (F.cross_entropy(logits_PK, word_P, reduction="none") * share_P).sum()
        right = ((logits_PK.detach().argmax(-1) == word_P) * share_P).sum()
        count = batch.counts["mvm"]
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


class _Example(MVM):
    """With eight words, an encoder that changes nothing, and cells whose word is the largest of their first eight numbers."""

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:  # pyright: ignore[reportIncompatibleMethodOverride]
        word_BV = fused.image_BVD[..., :8].argmax(-1).masked_fill(~fused.image_mask_BV, IGNORE)
        hidden_BVD, word_BV = self.hide(fused.image_BVD, word_BV, fused.image_mask_BV, batch)
        return super().forward(fused._replace(image_BVD=hidden_BVD), batch, word_BV, torch.eye(8, example_rows.WIDTH))


def example() -> tuple[MVM, Fused, Batch]:
    return _Example(MVM.Config(rate=0.8), example_rows.WIDTH), example_rows.fused(), example_rows.batch()
