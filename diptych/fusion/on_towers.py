"""A hinge for towers: what lets a dual encoder, made to compare, bring words and a picture together. Ours, no paper's.

    picture -> image tower -> cells -> Linear - LayerNorm, + place \\
                                                                      one sequence -> Transformer -> words, cells, pooled
    text -> text tower -> token states ---------------------------- /

Pre-training knows no hinge: picture and text meet in one product, after both have become a vector. A task that asks about both
together (VQA, NLVR2, ...) puts this on the towers when fine-tuning begins (`System.for_task`), learns it from nothing along with
them, and saves it with its run. Its score tells what the towers' states are worth below a young hinge, no more. Whatever
reads towers, retrieval above all, goes on without it.
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych.contracts import Fused, Visual
from diptych.fusion.single_stream import SingleStream
from diptych.nn.place import Place
from diptych.nn.transformer import Transformer, initialise


class OnTowers(nn.Module):
    class Config(Transformer.Config):
        layers: PositiveInt = 2
        pictures: PositiveInt = 2  # how many a row may have

        def build(self, width: int, image_width: int) -> OnTowers:
            return OnTowers(self, width, image_width)

    def __init__(self, config: Config, width: int, image_width: int):
        super().__init__()
        self.lift = nn.Linear(image_width, width).apply(initialise)
        self.norm = nn.LayerNorm(width, config.eps)
        self.place = Place(width)
        self.stream = SingleStream.Config(**config.model_dump()).build(width)
        with torch.no_grad():  # as `init_std`, for what tells pictures apart and the lift too: .02 is BERT's, for a width of 768
            for module in (self.lift, *self.stream.modules()):
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.weight.mul_((768 / width) ** 0.5)

    def lifted(self, visual: Visual) -> Visual:
        """The image tower's cells as wide as the text, each told where it lies."""
        return visual._replace(token_IVD=self.norm(self.lift(visual.token_IVD)) + self.place(visual.box_IV4))

    def forward(
        self,
        text_BTD: Tensor,
        text_mask_BT: Tensor,
        visual: Visual,
        image_of_BN: Tensor,
        read_BT: Tensor | None = None,
        read_BV: Tensor | None = None,
    ) -> Fused:
        """`visual` is lifted already; `read_BT`, `read_BV`: as in `System.fuse`."""
        return self.stream(text_BTD, text_mask_BT, visual, image_of_BN, read_BT, read_BV)
