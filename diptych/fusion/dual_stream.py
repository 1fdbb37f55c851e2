"""Two streams that look across (ViLBERT, LXMERT; METER's "merged" hinge has none): words and picture tokens stay apart.

    words          -> [ attend to words    -> look at the picture -> perceptron ] x layers -> text states
    picture tokens -> [ attend to picture  -> look at the words   -> perceptron ] x layers -> picture states   (image_stream)

Both streams of a layer look at what the other was before that layer, as in LXMERT's cross-modality layer; the order of the parts
within a layer is the Transformer decoder's, not LXMERT's (which looks first). Without the image stream the picture stays as the
image encoder left it, so what is looked at is computed once a picture, however many texts share it: on the embedded scenes
that is most of the cost of a single stream.

Three options help small models that have minutes, not days:

* `start="match"`: looking starts as a comparison. Query and key begin as one matrix, the output as the inverse of the value matrix,
  so a word finds the tokens that resemble it and adds a copy of them. It pays where words and picture tokens share a space from the
  start, for example after naming pictures with the word embeddings (objectives/naming.py).
* `place="values"`: where a token lies is added to what is read from it, not to what it is found by.
* `init_std`: .02 is BERT's, for a width of 768; narrow layers learn sooner from a wider one.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import UserError
from diptych.contracts import Fused, Visual
from diptych.fusion.pictures import of_rows
from diptych.nn.attention import is_recording
from diptych.nn.decoder import DecoderLayer, Look, Source
from diptych.nn.head import First, Pooler
from diptych.nn.packing import Benches, Packing
from diptych.nn.place import Place
from diptych.nn.transformer import Layer, initialise


class DualStream(nn.Module):
    class Config(config.Config):
        kind: Literal["dual_stream"] = "dual_stream"
        layers: PositiveInt = 6
        heads: PositiveInt = 12
        ffn_ratio: PositiveFloat = 4.0
        eps: PositiveFloat = 1e-6
        dropout: float = Field(default=0.1, ge=0, lt=1)
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)
        pictures: PositiveInt = 1  # how many pictures a row may have; each place has an embedding (NLVR2: 2)
        pooler: bool = True  # False: pooled is [CLS] as it is (SOHO)
        image_stream: bool = True
        start: Literal["random", "match"] = "random"
        place: Literal["none", "values"] = "none"  # none: for image encoders that say where tokens lie, such as patches
        init_std: PositiveFloat = 0.02

        def build(self, width: int) -> DualStream:
            return DualStream(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.slot = nn.Embedding(config.pictures, width).apply(initialise) if config.pictures > 1 else None
        self.place = Place(width) if config.place == "values" else None
        self.image_norm = nn.LayerNorm(width, config.eps)
        shared = ("heads", "ffn_ratio", "eps", "dropout", "attention_dropout")
        layer = Layer.Config(norm="pre", **{name: getattr(config, name) for name in shared})
        self.text_layers = nn.ModuleList(DecoderLayer(layer, width) for _ in range(config.layers))
        self.image_layers = nn.ModuleList(DecoderLayer(layer, width) for _ in range(config.layers)) if config.image_stream else None
        self.text_norm = nn.LayerNorm(width, config.eps)
        self.image_final_norm = nn.LayerNorm(width, config.eps) if config.image_stream else None
        modules = [*self.text_layers.modules(), *(self.image_layers or nn.ModuleList()).modules()]
        for module in modules:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=config.init_std, a=-2 * config.init_std, b=2 * config.init_std)
                nn.init.zeros_(module.bias)
        if config.start == "match":  # only now, for a Look stands before the Linears inside it
            for look in (module for module in modules if isinstance(module, Look)):
                look.start_as_match()
        self.pooler = Pooler(width) if config.pooler else First()

    def forward(
        self,
        text_BTD: Tensor,
        text_mask_BT: Tensor,
        visual: Visual,
        image_of_BN: Tensor,
        read_BT: Tensor | None = None,
        read_BV: Tensor | None = None,
    ) -> Fused:
        """`read_BT`, `read_BV`: as in `System.fuse`; both streams' last layers are computed for those alone."""
        pictures = image_of_BN.shape[1]
        if pictures > self.config.pictures:
            places = self.config.pictures
            raise UserError(f"rows of {pictures} pictures, but a hinge for {places}: set system.fusion.pictures={pictures}")
        visual = visual._replace(token_IVD=self.image_norm(visual.token_IVD))
        rows = of_rows(visual, image_of_BN)
        image_BVD = rows.token_BVD if self.slot is None else rows.token_BVD + self.slot(rows.slot_BV)
        place_BVD = 0 if self.place is None else self.place(rows.box_BV4)
        text, image = Packing.of(text_mask_BT), Packing.of(rows.mask_BV)
        text_PD, image_QD = text.pack(text_BTD), image.pack(image_BVD)
        by_length = not is_recording()  # what is recorded is told row by row
        own = text.benches(by_length)
        source, looking = Source(image_BVD, image_BVD + place_BVD, rows.mask_BV), own
        if self.image_layers is None and pictures == 1 and by_length and bool((image_of_BN >= 0).all()):
            # nothing changes the picture, so all its texts look at it together
            token_IVD = visual.token_IVD if self.slot is None else visual.token_IVD + self.slot.weight[0]
            place_IVD = 0 if self.place is None else self.place(visual.box_IV4)
            source = Source(token_IVD, token_IVD + place_IVD, visual.mask_IV)
            looking = Benches.of(image_of_BN[text.row_P, 0], len(visual.mask_IV))
        own_image = image.benches(by_length) if self.image_layers is not None else own
        read = read_image = None
        if read_BT is not None:
            is_first_T = torch.arange(read_BT.shape[1], device=read_BT.device) == 0
            read = text.which(read_BT | is_first_T)
            if self.image_layers is not None:
                read_image = image.which(torch.zeros_like(rows.mask_BV) if read_BV is None else read_BV.expand_as(rows.mask_BV))
        last, middle_PD = len(self.text_layers) - 1, text_PD
        for n, layer in enumerate(self.text_layers):
            middle_PD = text_PD
            text_PD = layer(text_PD, own, source, looking, read if n == last else None)
            if self.image_layers is not None and (n < last or read_image is None or read_image.real):
                words_BTD = text.unpack(middle_PD)
                words = Source(words_BTD, words_BTD, text_mask_BT)
                image_QD = self.image_layers[n](image_QD, own_image, words, own_image, read_image if n == last else None)
                if n < last:
                    image_BVD = image.unpack(image_QD)
                    source = Source(image_BVD, image_BVD + place_BVD, rows.mask_BV)
        text_BTD = (text if read is None else text.only(read)).unpack(self.text_norm(text_PD))
        if self.image_final_norm is not None:
            if read_image is None:
                image_BVD = image.unpack(self.image_final_norm(image_QD))
            elif read_image.real:
                image_BVD = image.only(read_image).unpack(self.image_final_norm(image_QD))
            else:
                image_BVD = torch.zeros_like(image_BVD)
        pooled_BD, middle_BTD = self.pooler(text_BTD), text.unpack(middle_PD)
        return Fused(text_BTD, text_mask_BT, image_BVD, rows.mask_BV, rows.slot_BV, rows.box_BV4, pooled_BD, middle_BTD)
