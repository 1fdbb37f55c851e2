"""SOHO's neck: cells and the words they are nearest to, mixed by a gate; then where they lie.

    word -> Linear --\\
                      softmax(norm(Linear_2([word, cell]))) -> their weighted sum -> [mask] -> + sine place -> LayerNorm
    cell ------------/

Without the gate the two are added; without a dictionary (SOHO's own comparison) cells come as they are, and only their places are
added. What is masked is put between the two halves (objectives/mvm.py), so a hidden cell still says
where it lies.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import Visual
from diptych.nn.batch_norm import BatchNorm
from diptych.nn.sine import sine


class GatedNeck(nn.Module):
    class Config(config.Config):
        gated: bool = True
        eps: PositiveFloat = 1e-5

        def build(self, width: int, has_words: bool = True) -> GatedNeck:
            return GatedNeck(self, width, has_words)

    def __init__(self, config: Config, width: int, has_words: bool = True):
        super().__init__()
        is_gated = config.gated and has_words
        self.align = nn.Linear(width, width) if has_words else None
        self.gate = nn.Linear(2 * width, 2, bias=False) if is_gated else None  # rows: word, cell
        self.gate_norm = BatchNorm(2) if is_gated else None
        self.norm = nn.LayerNorm(width, config.eps)

    def forward(self, cells: Visual, word_IVD: Tensor) -> Visual:
        assert self.align is not None
        word_IVD, cell_IVD = self.align(word_IVD), cells.token_IVD
        if self.gate is None or self.gate_norm is None:
            return cells._replace(token_IVD=word_IVD + cell_IVD)
        score_I2V1 = self.gate(torch.cat([word_IVD, cell_IVD], -1)).mT[..., None]
        share_IV2 = self.gate_norm(score_I2V1, cells.mask_IV[..., None])[..., 0].mT.softmax(-1).to(cell_IVD.dtype)
        return cells._replace(token_IVD=share_IV2[..., :1] * word_IVD + share_IV2[..., 1:] * cell_IVD)

    def placed(self, cells: Visual) -> Visual:
        token_IVD = cells.token_IVD
        return cells._replace(token_IVD=self.norm(token_IVD + sine(cells.box_IV4, token_IVD.shape[-1]).to(token_IVD.dtype)))
