"""CrossGrid: words look at a grid of cells. Ours, no paper's: what learns the embedded scenes in minutes on a CPU.

    words   -> embedding ---> [ attend to words -> look at cells -> perceptron ] x 2 -> which word was exchanged     (swap)
                                                       |                            -> [ ... ] -> masked words        (mlm)
    picture -> GridCNN -> cells [8 x 8], + place in what is read                                -> true: yes or no     (itm)

What it takes from where: a convolutional grid under a Transformer (Pixel-BERT, SOHO); a text stream that looks across (LXMERT's
cross-modality layer without its image stream); masked words and matching in two passes over the same pictures (ViLT). Its own:

    a picture is encoded once for all its texts    rows share keys and values: more texts a second than in a single stream
    looking starts as a comparison                 fusion.start="match": after the image root cells lie where words lie
    one word a text is masked, and always one      mlm.words="phrases": a hidden "the" teaches nothing about pictures
      that the picture decides                     most often a relation or a place: what else is in their texts is asked elsewhere
    near negatives, checked to be false            itm, where the data has `false_text`: one word exchanged, so every word counts
    each word is asked, not only the text          swap, before the last layer, which is left to conclude
    matching is a hidden word too                  a statement is followed by [MASK] in the place of [SEP], and what fills it is
                                                   "yes" or "no": what answers questions has been trained before any is seen

It is pre-trained from an image root (systems/cnn.py): `--init image=RUN --init text=RUN`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import DataConfig, ImageConfig, Recipe, TrainConfig
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, System, Tokenizer, Visual
from diptych.draw import Draw
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.image.grid_cnn import GridCNN
from diptych.nn import batch_norm
from diptych.objectives.itm import ITM
from diptych.objectives.mlm import MLM
from diptych.objectives.swap import Swap
from diptych.text.embedding import TextEmbedding


class CrossGrid(System):
    class Config(config.Config):
        kind: Literal["crossgrid"] = "crossgrid"
        width: PositiveInt = 128
        image: GridCNN.Config = GridCNN.Config()  # with a single stream set image.place=true
        text: TextEmbedding.Config = TextEmbedding.Config(word_std=0.09, position_std=0.04, dropout=0)
        fusion: DualStream.Config | SingleStream.Config = Field(
            default=DualStream.Config(
                layers=3, heads=4, dropout=0, image_stream=False, start="match", place="values", init_std=0.05
            ),
            discriminator="kind",
        )
        mlm: MLM.Config = MLM.Config(words="phrases", favour={"relation": 8, "place": 8}, mask=1.0, random=0.0, tied=True)
        itm: ITM.Config = ITM.Config(by="words")
        swap: Swap.Config | None = Swap.Config()

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.image = config.image.build(config.width)
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        self.fusion = config.fusion.build(config.width)
        self.mlm = config.mlm.build(config.width, tokenizer)
        self.itm = config.itm.build(config.width)
        self.swap = config.swap.build(config.width) if config.swap else None
        self.mask_id = tokenizer.mask_id
        self.no_yes = [_single(tokenizer, word) for word in ("no", "yes")]

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        pairs = self.itm.corrupt(batch, draw)
        return Batch.stack([self.mlm.corrupt(batch, draw), self.swap.corrupt(pairs, draw) if self.swap else pairs])

    def see(self, batch: Batch) -> Visual:
        assert batch.images is not None
        return self.image(batch.images)

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        """A text that hides no word is a statement: in the place of its last token, [SEP], its truth is hidden."""
        assert batch.image_of_BN is not None
        end_BT = torch.arange(batch.text_BT.shape[1], device=batch.text_BT.device) == _last(batch.text_mask_BT)[:, None]
        is_statement_B1 = (batch.text_BT != self.mask_id).all(1, keepdim=True)
        text_BTD = self.text(batch.text_BT.masked_fill(end_BT & is_statement_B1, self.mask_id), batch.segment_BT)
        read_BT = None if read_BT is None else read_BT | end_BT
        return self.fusion(text_BTD, batch.text_mask_BT, visual or self.see(batch), batch.image_of_BN, read_BT, read_BV)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        fused = self.fuse(batch, read_BT=batch.labels["mlm"] != IGNORE)
        losses = {"mlm": self.mlm(fused, batch, self.text.word.weight), "itm": self.itm(fused, batch, self.truth(fused))}
        return losses | ({"swap": self.swap(fused, batch)} if self.swap else {})

    def truth(self, fused: Fused) -> Tensor:
        """[B, 2] logits of "no" and "yes" behind each statement."""
        end_BD = fused.text_BTD[torch.arange(len(fused.text_BTD)), _last(fused.text_mask_BT)]
        return self.words(end_BD)[:, self.no_yes].float()

    def match(self, fused: Fused) -> Tensor:
        no_B, yes_B = self.truth(fused).unbind(1)
        return yes_B - no_B

    def words(self, x_PD: Tensor) -> Tensor:
        return self.mlm.head(x_PD, self.text.word.weight)

    def after_step(self) -> None:
        batch_norm.commit(self)

    def discard_step(self) -> None:
        batch_norm.discard(self)


def _last(mask_BT: Tensor) -> Tensor:
    """[B] place of each text's last token."""
    return mask_BT.sum(1).clamp(min=1) - 1


def _single(tokenizer: Tokenizer, word: str) -> int:
    ids = tokenizer.ids_of(word)
    if len(ids) != 1 or ids[0] == tokenizer.unk_id:
        raise config.UserError(f"text.vocab: crossgrid says of a text whether it is true in one token, and '{word}' is not one")
    return ids[0]


def tiny() -> Recipe:
    return Recipe(
        system=CrossGrid.Config(
            width=32,
            image=GridCNN.Config(channels=(16, 16, 32), strides=(4, 2, 2)),
            fusion=DualStream.Config(layers=2, heads=2, dropout=0, image_stream=False, start="match", place="values", init_std=0.1),
        ),
        data=DataConfig(image=ImageConfig(short=64, long=64, multiple=16)),
        train=TrainConfig(steps=50, batch_size=16, lr=2e-3),
    )


def small() -> Recipe:
    """For the embedded scenes on one core, after an image root (`diptych demo`)."""
    return Recipe(
        system=CrossGrid.Config(),
        data=DataConfig(image=ImageConfig(short=128, long=128, multiple=16), texts_per_image=6, foreign=0.2),
        train=TrainConfig(steps=3000, batch_size=16, lr=1e-3, warmup=0.05, schedule="cosine", weight_decay=0.02),
    )


def one_stream() -> Recipe:
    """`small` with the other hinge, of the same depth and width: cells and words in one sequence. For the comparison of hinges."""
    recipe = small()
    image = GridCNN.Config(place=True)
    fusion = SingleStream.Config(layers=3, heads=4, dropout=0)
    return recipe.model_copy(update={"system": CrossGrid.Config(image=image, fusion=fusion)})
