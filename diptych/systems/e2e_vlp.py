"""E2E-VLP: End-to-End Vision-Language Pre-training (Xu et al., ACL 2021). A reconstruction: neither code nor weights were released.

    words   -> embedding -----------------\\                      -> masked words                          (mlm)
                                            encoder, one stream   -> match or mismatch                     (itm)
    picture -> CNN -> cells + place, norm -/
                          \\- the same encoder, cells alone -> decoder <- queries, all at once -> things    (object_*)
                                                                     <- words, from left to right -> text  (captioning)

No detector: what a detector would have taught is learnt on the way. One decoder has two roles: as DETR's it answers learned
queries with boxes, classes and attributes, and it writes captions. Queries, and places of cells, are added to what asks and to
what is found by at every decoder layer.

    not known from the paper's text                    here
    depth and width, headline CNN                      6 + 6 layers of 768, ResNet-50 (`paper`; BERT's and DETR's sizes)
    what the encoder sees when things are detected     cells alone, as it does for captions, where that is known: a caption in view
                                                         would name the things. The two roles share that pass
    how places enter the encoder                       once, before it; DETR adds them in every layer
    the perceptrons' activation                        GELU, as in BERT; DETR's is ReLU
    form of the attribute loss, weights                objectives/set_prediction.py; all objectives weigh the same
    starts                                             `--init image=RUN`, `--init text=RUN`

Detection and captioning read what is true of the picture: texts are kept before any is swapped or masked. A picture that several
rows share is encoded, and its things are looked for, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig, UserError
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, ParamGroup, Reader, Regions, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.single_stream import SingleStream
from diptych.image.grid_cnn import GridCNN
from diptych.image.resnet import ResNet
from diptych.nn import batch_norm
from diptych.nn.box import to_xyxy
from diptych.nn.decoder import Decoder, Source
from diptych.nn.sine import sine
from diptych.nn.write import write
from diptych.objectives.captioning import Captioning
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.set_prediction import SetPrediction
from diptych.text.embedding import TextEmbedding


class ImageOptimizer(config.Config):
    """Of the CNN, beside `train.lr` of everything else: DETR's tenth, and its decay."""

    lr_factor: PositiveFloat = 0.1
    weight_decay: NonNegativeFloat = 1e-4


class E2EVLP(System):
    class Config(config.Config):
        kind: Literal["e2e_vlp"] = "e2e_vlp"
        width: PositiveInt = 768
        image: ResNet.Config | GridCNN.Config = Field(
            default=ResNet.Config(depth=50, norm="frozen", frozen=2, project=True), discriminator="kind"
        )
        text: TextEmbedding.Config = TextEmbedding.Config()
        fusion: SingleStream.Config = SingleStream.Config(layers=6, norm="post", eps=1e-12, attention_dropout=0.1)
        decoder: Decoder.Config = Decoder.Config(layers=6, norm="post", eps=1e-5)
        mlm: MLM.Config = MLM.Config(unit="token", tied=True)
        itm: ITM.Config = ITM.Config()
        detection: SetPrediction.Config | None = SetPrediction.Config()  # None switches a role of the decoder off
        captioning: Captioning.Config | None = Captioning.Config()
        image_optimizer: ImageOptimizer = ImageOptimizer()

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        detection = config.detection and SetPrediction.prepare(config.detection, readers)
        return config.model_copy(update={"detection": detection})

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config, self._cls_id, self._sep_id = config, tokenizer.cls_id, tokenizer.sep_id
        width = config.width
        self.image = config.image.build(width)
        self.image_norm = nn.LayerNorm(width)
        self.text = config.text.build(width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(width)
        self.queries = nn.Embedding(config.detection.queries, width) if config.detection else None
        self.decoder = config.decoder.build(width) if config.detection or config.captioning else None
        self.mlm = config.mlm.build(width, tokenizer)
        self.itm = config.itm.build(width)
        self.detection = config.detection.build(width) if config.detection else None
        self.captioning = config.captioning.build(width, tokenizer) if config.captioning else None

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        return self.detection.label(batch) if self.detection else batch

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        if self.config.detection and not self.config.detection.names:
            raise UserError("e2e_vlp learns from boxes with names, and these data have none; add some that do: --data scenes")
        batch = self.captioning.corrupt(batch, draw) if self.captioning else batch  # first: it reads the true text
        return self.mlm.corrupt(self.itm.corrupt(batch, draw), draw)

    # --------------------------------------------------------------------------------------------------- the model

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        cells = self.image(batch.images)
        return cells._replace(token_IVD=self.image_norm(cells.token_IVD + self.place(cells)))

    def place(self, visual: Visual) -> Tensor:
        return sine(visual.box_IV4, self.config.width).to(visual.token_IVD.dtype)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        assert batch.image_of_BN is not None
        text_BTD = self.text(batch.text_BT, batch.segment_BT)
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def source(self, visual: Visual) -> Source:
        """What the decoder looks at: the encoder's states of pictures alone."""
        alone = self.fusion.alone(visual)
        return Source(alone.token_IVD + self.place(alone), alone.token_IVD, alone.mask_IV)

    def look_for_things(self, source: Source) -> list[Tensor]:
        """[I, Q, D] the answers to the queries, layer by layer."""
        self._finds()
        assert self.queries is not None and self.decoder is not None
        pictures, queries = len(source.mask_SV), self.queries.num_embeddings
        query_IQD = self.queries.weight.to(source.value_SVD.dtype).expand(pictures, -1, -1)
        is_real_IQ = torch.ones(pictures, queries, dtype=torch.bool, device=query_IQD.device)
        each_I = torch.arange(pictures, device=query_IQD.device)
        return self.decoder(torch.zeros_like(query_IQD), is_real_IQ, source, each_I, query_IQD)

    def read_on(self, text_BT: Tensor, mask_BT: Tensor, source: Source, source_of_B: Tensor) -> Tensor:
        """[B, T, D] of texts of which every token has seen the picture and the tokens before it."""
        self._writes()
        assert self.decoder is not None
        text_BTD = self.text(text_BT, torch.zeros_like(text_BT))
        return self.decoder(text_BTD, mask_BT, source, source_of_B, is_causal=True)[-1]

    # --------------------------------------------------------------------------------------------------- training

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """Two passes through the encoder: texts with gaps beside cells, and cells alone for both roles of the decoder."""
        visual = self.see(batch)
        fused = self.fuse(batch, visual, read_BT=batch.labels["mlm"] != IGNORE)
        losses = {"mlm": self.mlm(fused, batch, self.text.word.weight), "itm": self.itm(fused, batch)}
        source = self.source(visual) if self.decoder else None
        losses |= self.finding(batch, source) if self.detection else {}
        return losses | ({"captioning": self.writing(batch, source)} if self.captioning else {})

    def finding(self, batch: Batch, source: Source | None = None) -> dict[str, LossTerm]:
        """The losses of boxes, classes and attributes; alone, for fine-tuning (tasks/detection.py)."""
        source = source or self.source(self.see(batch))
        return self._finds()(self.look_for_things(source), batch)

    def writing(self, batch: Batch, source: Source | None = None) -> LossTerm:
        """The loss of captions; alone, for fine-tuning (tasks/caption.py)."""
        assert batch.image_of_BN is not None
        source = source or self.source(self.see(batch))
        captioning = self._writes()
        state_BTD = self.read_on(*captioning.prefix(batch), source, batch.image_of_BN[:, 0].clamp(min=0))
        return captioning(state_BTD, batch, self.text.word.weight)

    def _finds(self) -> SetPrediction:
        if self.detection is None:
            raise UserError("this E2E-VLP was built without detection, so it finds nothing; set system.detection")
        return self.detection

    def _writes(self) -> Captioning:
        if self.captioning is None:
            raise UserError("this E2E-VLP was built without captioning, so it writes nothing; set system.captioning")
        return self.captioning

    # ----------------------------------------------------------------------------------------- what it can be asked

    def words(self, x_PD: Tensor) -> Tensor:
        return self.mlm.head(x_PD, self.text.word.weight)

    def match(self, fused: Fused) -> Tensor:
        return self.itm.logit(fused)

    @property
    def region_classes(self) -> tuple[str, ...]:
        return ("background", *self._finds().config.names)

    @torch.no_grad()
    def detect(self, batch: Batch) -> Regions:
        """Every query's box with its classes, the surest first; most are of the background, and nothing is suppressed."""
        state_IQD = self.look_for_things(self.source(self.see(batch)))[-1]
        finds = self._finds()
        chance_IQK = finds.classes(state_IQD).float().softmax(-1).roll(1, -1)  # "nothing" is last there
        order_IQ = chance_IQK[..., 1:].amax(-1).argsort(dim=1, descending=True, stable=True)
        box_IQ4 = to_xyxy(finds.boxes(state_IQD)).clamp(0, 1)
        box_IQ4, state_IQD, chance_IQK = (part.take_along_dim(order_IQ[..., None], 1) for part in (box_IQ4, state_IQD, chance_IQK))
        return Regions(box_IQ4, torch.ones_like(order_IQ, dtype=torch.bool), state_IQD, chance_IQK)

    @torch.no_grad()
    def decode(self, batch: Batch, most: int, beam: int = 1) -> list[list[int]]:
        """The caption of each distinct picture: at most so many tokens, without [CLS] and [SEP]."""
        writes, source, word_KD = self._writes(), self.source(self.see(batch)), self.text.word.weight

        def next_logits(row_P: Tensor, prefix_PT: Tensor) -> Tensor:
            state_PTD = self.read_on(prefix_PT, torch.ones_like(prefix_PT, dtype=torch.bool), source, row_P)
            return writes.head(state_PTD[:, -1], word_KD)

        most = min(most, self.text.position.num_embeddings - 1)
        return write(next_logits, len(source.mask_SV), self._cls_id, self._sep_id, most, beam, device=source.mask_SV.device)

    # ----------------------------------------------------------------------------------------------------- its steps

    def param_groups(self) -> list[ParamGroup]:
        settings, cnn = self.config.image_optimizer, [p for p in self.image.parameters() if p.requires_grad]
        of_cnn = set(cnn)
        rest = [group._replace(params=[p for p in group.params if p not in of_cnn]) for group in super().param_groups()]
        return [ParamGroup(cnn, "cnn", settings.lr_factor, settings.weight_decay), *rest]

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def tiny() -> Recipe:
    return Recipe(
        system=E2EVLP.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            text=TextEmbedding.Config(dropout=0),
            fusion=SingleStream.Config(layers=2, heads=2, dropout=0),
            decoder=Decoder.Config(layers=2, heads=2, dropout=0),
            detection=SetPrediction.Config(queries=8, nothing=0.125),
            image_optimizer=ImageOptimizer(lr_factor=1),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on two cores, after both roots: `--init image=RUN` of `cnn:small`, text and fusion of `bert:small`.

    Scenes hold at most 6 things; DETR's 100 queries are for COCO.
    """
    return Recipe(
        system=E2EVLP.Config(
            width=128,
            image=GridCNN.Config(),
            text=TextEmbedding.Config(word_std=0.09, position_std=0.04, dropout=0),
            fusion=SingleStream.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
            decoder=Decoder.Config(layers=3, heads=4, dropout=0),
            mlm=MLM.Config(words="phrases", tied=True),
            detection=SetPrediction.Config(queries=16),
            image_optimizer=ImageOptimizer(lr_factor=1),
        ),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=4, foreign=0.5),
        train=TrainConfig(steps=4000, batch_size=16, lr=1e-3, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """ResNet-50, 6 + 6 layers of 768, 100 queries, 1600 classes and 400 attributes, on COCO and Visual Genome; see the table above.

    DETR's rates, decay, clip and largest pictures. 200 rounds of 219 000 pictures, as is remembered; the batch is ours.
    """
    return Recipe(
        system=E2EVLP.Config(text=TextEmbedding.Config(positions=512)),
        data=DataConfig(image=ImageConfig(short=800, long=1333, multiple=32, augment="flip"), foreign=1.0, workers=8),
        train=TrainConfig(
            steps=85_547,
            batch_size=512,
            lr=1e-4,
            warmup=0.02,
            schedule="steps",
            milestones=(2 / 3,),
            clip=0.1,
            betas=(0.9, 0.999),
            weight_decay=1e-4,
        ),
    )
