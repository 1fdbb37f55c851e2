"""Word-patch alignment by optimal transport (UNITER's WRA; ViLT, section 3.2): words of a true text lie close to the picture.

    d = the least cost of moving a row's word states onto its visual states (nn/transport.py)
    L = 0.1 * mean over rows of (+d for a match, -d for a mismatch)

It reads the rows and labels of image-text matching, in the same forward pass. As in ViLT's code, [CLS] and [SEP] of the text
and the picture's whole-image token take no part; UNITER's code keeps the text's two (`special_tokens=True`), and its regions have
no such token (`whole_image=True`).
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.box import area
from diptych.nn.transport import Transport, transport
from diptych.objectives import example_rows


class WPA(nn.Module):
    class Config(config.Config):
        beta: PositiveFloat = 0.5
        rounds: PositiveInt = 50
        special_tokens: bool = False
        whole_image: bool = False  # tokens that cover everything take part: a region may, a patch never does
        weight: float = Field(default=0.1, gt=0)

        def build(self) -> WPA:
            return WPA(self)

    def __init__(self, config: Config):
        super().__init__()
        self.config = config

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Nothing of its own: announces the rows that image-text matching has labelled."""
        return replace(batch, counts={**batch.counts, "wpa": float((batch.labels["itm"] != IGNORE).sum())})

    def align(self, fused: Fused, batch: Batch) -> Transport:
        """Distance of every row, and the plan that shows which word lies where."""
        text_mask_BT = fused.text_mask_BT if self.config.special_tokens else fused.text_mask_BT & (batch.word_BT >= 0)
        image_mask_BV = fused.image_mask_BV
        if not self.config.whole_image:
            image_mask_BV = image_mask_BV & (area(fused.box_BV4) < 1)
        return transport(fused.text_BTD, text_mask_BT, fused.image_BVD, image_mask_BV, self.config.beta, self.config.rounds)

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:
        asked_P = (batch.labels["itm"] != IGNORE).nonzero()[:, 0]  # rows of other objectives need no transport
        rows = batch.rows(asked_P)
        sign_P = rows.labels["itm"] * 2 - 1
        distance_P = self.align(fused.rows(asked_P), rows).distance_B
        return LossTerm((distance_P * sign_P).sum(), batch.counts["wpa"], self.config.weight)


def example() -> tuple[WPA, Fused, Batch]:
    return WPA(WPA.Config()), example_rows.fused(), example_rows.batch()
