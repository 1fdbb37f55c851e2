"""MURAL: ALIGN for many languages, Multimodal, Multitask Retrieval Across Languages (Jain et al., Findings of EMNLP 2021).

    picture -> image tower ------------------ -> length 1 -> a \\
                                                                 InfoNCE: image-text, as in ALIGN                 (contrast)
    text -------> text tower -> [CLS] -> linear -> length 1 -> b /
    translation -> the same  -> [CLS] -> linear -> length 1 -> InfoNCE: text-text                                     (t2t)

Pictures with texts are plenty in few languages; translations exist in many. One text tower learns from both, so a language that
never stood beside a picture is pulled to where its translations are. `--data` brings both: readers of pictures and texts, and of
pairs of texts (data/translations.py); `--data PATH@WEIGHT` sets how often each is drawn. A batch holds the two kinds in these
proportions, so one pass of the text tower serves both losses.

Vocabulary: `text.vocab` is any tokenizer.json (XLM-R's, mT5's), or "bytes", which has every language and needs no file.

Reconstruction: no code was released, and the body of the paper was not at hand. From its abstract: the two contrasts, the shared
text tower, EfficientNet-B7 with BERT-large and embeddings of 640 (`large`). Remembered and not checked: EfficientNet-B5 with
BERT-base (`paper`), a head and a learnt temperature for each task, a vocabulary of 250,000 word pieces, LAMB, weights of 1 : 1 or
1 : 0.1 (`t2t.weight`). Not known, ours: batch sizes, how both kinds are mixed, all that systems/align.py says of ALIGN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import nn

from diptych.config import DataConfig, ImageConfig, Recipe, TextConfig, TrainConfig, UserError
from diptych.contracts import Batch, LossTerm, Reader, System, Tokenizer, Towers
from diptych.draw import Draw
from diptych.image.efficientnet import EfficientNet
from diptych.image.grid_cnn import GridCNN
from diptych.nn.transformer import Transformer, initialise
from diptych.objectives.contrast import Contrast
from diptych.objectives.t2t import T2T, translated
from diptych.systems.align import ALIGN
from diptych.text.embedding import TextEmbedding


class MURAL(ALIGN, System):
    class Config(ALIGN.Config):
        kind: Literal["mural"] = "mural"  # pyright: ignore[reportIncompatibleVariableOverride]
        t2t: T2T.Config | None = T2T.Config(temperature=1.0, learnable=True, smoothing=0.1)  # None: without, for comparison

    purpose = ("pretrain", "translations")
    practises_on = "names"

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        """Nothing is added; but a loss that nothing is ever asked of would be zero, and silent.

        With a hinge the loss is a task's own.
        """
        first = (reader[place] for reader in readers for place in range(min(len(reader), 4)))
        if config.t2t and not config.hinge and all(sample.images for sample in first):
            remedy = "--data names has them, or pairs/train.tsv.gz in a folder of yours; --set system.t2t=null does without"
            raise UserError(f"mural learns from pairs of texts beside pictures, and these data have none: {remedy}")
        return config

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__(config, tokenizer)
        self.t2t = config.t2t.build() if config.t2t else None
        self.t2t_head = nn.Linear(config.width, self.text_head.out_features) if config.t2t else None
        if self.t2t_head is not None:
            self.t2t_head.apply(initialise)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        if batch.image_of_BN is None:
            raise UserError(
                "a whole batch of text pairs: give more pictures (--data PICTURES@WEIGHT), or a larger train.batch_size"
            )
        batch = self.contrast.corrupt(batch, draw)
        return self.t2t.corrupt(batch, draw) if self.t2t else batch

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        text_BD = self.texts(batch)  # one pass for both
        text_BE = F.normalize(self.text_head(text_BD).float(), dim=1)
        losses = {"contrast": self.contrast(Towers(self.pictures(batch), text_BE, self.contrast.temperature), batch)}
        if self.t2t is not None and self.t2t_head is not None:
            said_BE = F.normalize(self.t2t_head(text_BD).float(), dim=1)
            losses["t2t"] = self.t2t(translated(said_BE, self.t2t.temperature), batch)
        return losses


def tiny() -> Recipe:
    return Recipe(
        system=MURAL.Config(
            width=32,
            image_width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            text=TextEmbedding.Config(positions=64, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=2, heads=2, dropout=0),
            contrast=Contrast.Config(temperature=0.2, learnable=True, smoothing=0.1),
            t2t=T2T.Config(temperature=0.2, learnable=True, smoothing=0.1),
        ),
        text=TextConfig(vocab="bytes", max_tokens=64),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16), texts_per_image=2, evenly=True),
        train=TrainConfig(steps=50, batch_size=16, lr=3e-3),
    )


def small() -> Recipe:
    """For the embedded names on two cores, letter by letter, with the encoder of crossgrid:small.

    Names have to be learnt by heart: in a quarter of an hour those of some twenty languages (`data.languages`), not of 96.
    """
    return Recipe(
        system=MURAL.Config(
            width=128,
            image_width=128,
            image=GridCNN.Config(),
            text=TextEmbedding.Config(positions=64, word_std=0.09, position_std=0.04, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
            contrast=Contrast.Config(temperature=0.1, learnable=True, smoothing=0.1),
            t2t=T2T.Config(temperature=0.1, learnable=True, smoothing=0.1),
        ),
        text=TextConfig(vocab="bytes", max_tokens=64),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16), texts_per_image=2, evenly=True),
        train=TrainConfig(steps=3000, batch_size=128, lr=1e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def paper() -> Recipe:
    """MURAL-base as remembered: EfficientNet-B5 with BERT-base; batch, schedule and rate are ALIGN's, for lack of its own."""
    return Recipe(
        system=MURAL.Config(
            width=768,
            image_width=512,
            embedding=640,
            image=EfficientNet.Config(size="b5"),
            contrast=Contrast.Config(temperature=1.0, learnable=True, smoothing=0.1, weight=2.0),
            t2t=T2T.Config(temperature=1.0, learnable=True, smoothing=0.1, weight=2.0),
            piece=16,
            optimizer="lamb",
        ),
        text=TextConfig(max_tokens=64),
        data=DataConfig(
            image=ImageConfig(short=289, long=289, multiple=1, augment="flip"), texts_per_image=2, evenly=True, workers=8
        ),
        train=TrainConfig(steps=1_200_000, batch_size=16_384, lr=1e-3, warmup=1 / 120, weight_decay=1e-5, clip=None),
    )


def large() -> Recipe:
    """EfficientNet-B7 with BERT-large and embeddings of 640."""
    recipe = paper()
    encoder = Transformer.Config(norm="post", eps=1e-12, attention_dropout=0.1, layers=24, heads=16)
    sizes = {"width": 1024, "image_width": 640, "embedding": None, "image": EfficientNet.Config(size="b7"), "encoder": encoder}
    return recipe.model_copy(update={"system": recipe.system.model_copy(update=sizes)})
