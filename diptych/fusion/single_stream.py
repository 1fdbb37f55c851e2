"""One sequence, one encoder (VisualBERT, UNITER, ViLT): every word and every piece of picture attend to each other in every layer.

[text + type 0 ; picture 1 + type 1 ; picture 2 + type 2 ...] -> Transformer -> split; pooled = tanh(Linear(text [CLS]))
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych.config import UserError
from diptych.contracts import Fused, Visual
from diptych.fusion.pictures import of_rows
from diptych.nn.head import First, Pooler
from diptych.nn.transformer import Layer, Transformer, initialise


class SingleStream(nn.Module):
    class Config(Transformer.Config):
        kind: Literal["single_stream"] = "single_stream"
        pictures: PositiveInt = 1  # how many pictures a row may have; each place has a type embedding (NLVR2: 2)
        pooler: bool = True  # False: pooled is [CLS] as it is (SOHO)
        start: Literal["random", "match"] = "random"  # match: attention begins as a comparison (fusion/dual_stream.py)

        def build(self, width: int) -> SingleStream:
            return SingleStream(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.modality = nn.Embedding(1 + config.pictures, width)  # 0 text, n the row's n-th picture
        self.encoder = Transformer(config, width)
        self.pooler = Pooler(width) if config.pooler else First()
        self.modality.apply(initialise)
        if config.start == "match":
            for layer in self.encoder.layers:
                assert isinstance(layer, Layer)
                layer.attention.start_as_match()

    def forward(
        self,
        text_BTD: Tensor,
        text_mask_BT: Tensor,
        visual: Visual,
        image_of_BN: Tensor,
        read_BT: Tensor | None = None,
        read_BV: Tensor | None = None,
    ) -> Fused:
        """`read_BT`, `read_BV`: as in `System.fuse`; the last layer is computed for those alone."""
        pictures, places = image_of_BN.shape[1], self.modality.num_embeddings - 1
        if pictures > places:
            raise UserError(f"rows of {pictures} pictures, but a hinge for {places}: set system.fusion.pictures={pictures}")
        rows = of_rows(visual, image_of_BN)
        text_BTD = text_BTD + self.modality.weight[0]
        image_BVD = rows.token_BVD + self.modality(rows.slot_BV + 1)
        read = None
        if read_BT is not None:
            is_first_T = torch.arange(read_BT.shape[1], device=read_BT.device) == 0
            image_BV = torch.zeros_like(rows.mask_BV) if read_BV is None else read_BV.expand_as(rows.mask_BV)
            read = torch.cat([read_BT | is_first_T, image_BV], 1)
        both = self.encoder(torch.cat([text_BTD, image_BVD], 1), torch.cat([text_mask_BT, rows.mask_BV], 1), read)
        text_BTD, image_BVD = both.split([text_BTD.shape[1], image_BVD.shape[1]], 1)
        return Fused(text_BTD, text_mask_BT, image_BVD, rows.mask_BV, rows.slot_BV, rows.box_BV4, self.pooler(text_BTD))

    def alone(self, visual: Visual) -> Visual:
        """Pictures through the same encoder without any text, each as the first of a row."""
        token_IVD = self.encoder(visual.token_IVD + self.modality.weight[1], visual.mask_IV)
        return visual._replace(token_IVD=token_IVD)
