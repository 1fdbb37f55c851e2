"""BERT: the text root. Deep bidirectional Transformers learn to read documents (Devlin et al., NAACL 2019).

    [CLS] sentences A [SEP] sentences B [SEP]
      -> word + position + segment -> Transformer (post-norm) -> every token      -> masked words                    (mlm)
                                                              -> [CLS] -> tanh    -> does B follow A in its document (nsp)

A sample's texts are the sentences of a document: the captions of one scene, the region descriptions of another, or a text file's
own (data/documents.py). Pairs are packed in the loader, anew for each draw (data/pairs.py); no picture is read. Words and layers
are named as in fusion systems (`text.`, `fusion.`), so both go there:

    diptych pretrain bert --data scenes --out runs/bert
    diptych pretrain vilt --data scenes --init text=runs/bert --out runs/vilt

    difference from the paper                         here
    pairs are made once, before training              at each draw; see data/pairs.py for the rest
    Adam without bias correction                      AdamW with it: warm-up makes the first steps small in both
    at most 20 masked tokens a text                   15 % of them, whatever the length (19 of 128)
    nine tenths of the steps at 128 tokens, the       one length a run: `--set text.max_tokens=512` in a run that starts with
      rest at 512 (as remembered, not re-read)          `--init text=RUN --init fusion=RUN --init mlm=RUN --init nsp=RUN`
    token by token, later whole words                 `system.mlm.unit`: token, or word as in preset whole_words
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import DataConfig, PairsConfig, Recipe, TextConfig, TrainConfig
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, System, Tokenizer
from diptych.draw import Draw
from diptych.nn.head import Pooler
from diptych.nn.transformer import Transformer
from diptych.objectives.mlm import MLM
from diptych.objectives.nsp import NSP
from diptych.text.embedding import TextEmbedding


class BERT(System):
    class Config(config.Config):
        kind: Literal["bert"] = "bert"
        width: PositiveInt = 768
        text: TextEmbedding.Config = TextEmbedding.Config(positions=512)
        encoder: Transformer.Config = Transformer.Config(norm="post", eps=1e-12, attention_dropout=0.1)
        mlm: MLM.Config | None = MLM.Config(unit="token", tied=True)  # None switches an objective off
        nsp: NSP.Config | None = NSP.Config()

    purpose = "documents"
    reads_pictures = False
    negatives = 2  # one of them of another document, most of the time, where documents come in several passages

    def __init__(self, config: Config, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.text = config.text.build(config.width, tokenizer.vocab_size)
        # the names it has in systems that fuse
        self.fusion = nn.ModuleDict({"encoder": Transformer(config.encoder, config.width), "pooler": Pooler(config.width)})
        self.mlm = config.mlm.build(config.width, tokenizer) if config.mlm else None
        self.nsp = config.nsp.build(config.width) if config.nsp else None

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        if not (self.mlm or self.nsp):
            raise config.UserError("system.mlm and system.nsp are both null: nothing is left to pre-train with")
        batch = self.nsp.corrupt(batch, draw) if self.nsp else batch
        return self.mlm.corrupt(batch, draw) if self.mlm else batch

    def read(self, batch: Batch, read_BT: Tensor | None = None) -> Fused:
        """`read_BT`: the only states that are wanted, beside [CLS]."""
        if read_BT is not None:
            read_BT = read_BT | (torch.arange(read_BT.shape[1], device=read_BT.device) == 0)
        text_BTD = self.fusion["encoder"](self.text(batch.text_BT, batch.segment_BT), batch.text_mask_BT, read_BT)
        rows = len(batch)
        return Fused(
            text_BTD,
            batch.text_mask_BT,
            image_BVD=text_BTD[:, :0],
            image_mask_BV=batch.text_mask_BT[:, :0],
            image_slot_BV=batch.text_BT[:, :0],
            box_BV4=text_BTD.new_zeros(rows, 0, 4),
            pooled_BD=self.fusion["pooler"](text_BTD),
        )

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        fused = self.read(batch, batch.labels["mlm"] != IGNORE if self.mlm else torch.zeros_like(batch.text_mask_BT))
        losses = {}
        if self.mlm:
            losses["mlm"] = self.mlm(fused, batch, self.text.word.weight)
        if self.nsp:
            losses["nsp"] = self.nsp(fused, batch)
        return losses

    def words(self, x_PD: Tensor) -> Tensor:
        if not self.mlm:
            raise config.UserError("this BERT was built without mlm, so it does not guess words; set system.mlm")
        return self.mlm.head(x_PD, self.text.word.weight)


def tiny() -> Recipe:
    """Learns something in seconds; for tests and first steps."""
    return Recipe(
        system=BERT.Config(
            width=64,
            text=TextEmbedding.Config(positions=40, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=2, heads=2, dropout=0),
        ),
        data=DataConfig(pairs=PairsConfig()),
        train=TrainConfig(steps=50, batch_size=16, lr=1e-3),
    )


def small() -> Recipe:
    """For the embedded texts on one core, with the words of crossgrid:small."""
    return Recipe(
        system=BERT.Config(
            width=128,
            text=TextEmbedding.Config(positions=64, word_std=0.09, position_std=0.04, dropout=0),
            encoder=Transformer.Config(norm="post", eps=1e-12, layers=4, heads=4, dropout=0),
        ),
        data=DataConfig(pairs=PairsConfig()),
        train=TrainConfig(steps=1500, batch_size=32, lr=1e-3, schedule="cosine", validate_every=500),
    )


def paper() -> Recipe:
    """BERT-base as published: 110 M parameters with its own vocabulary (`text.vocab`), 16 TPU chips for four days."""
    return Recipe(
        system=BERT.Config(),
        text=TextConfig(max_tokens=128),
        data=DataConfig(pairs=PairsConfig(), workers=8),
        train=TrainConfig(steps=1_000_000, batch_size=256, lr=1e-4, warmup=0.01, betas=(0.9, 0.999), eps=1e-6),
    )


def whole_words() -> Recipe:
    """`paper` with all pieces of a word masked together, as in the checkpoints released later."""
    recipe = paper()
    mlm = MLM.Config(unit="word", tied=True)
    return recipe.model_copy(update={"system": recipe.system.model_copy(update={"mlm": mlm})})
