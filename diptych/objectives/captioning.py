"""Captioning: write the text of a picture from left to right (E2E-VLP's image-to-text generation).

    L = mean over tokens t of a text, [SEP] included, of -log p(t | the tokens before it, picture)

What writes is a decoder that sees the picture alone: if the picture's states had met the text in an encoder, they could spell it.
So `corrupt` is called before texts are swapped or hidden, and keeps the text itself; a decoder reads `prefix` (the text without its
last token) and hands on states, of which state t is asked for token t + 1. The head is BERT's for masked words, without its own
matrix where it is tied to the word embeddings. A text without words is not asked for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Tokenizer
from diptych.draw import Draw
from diptych.nn.head import MLMHead
from diptych.objectives import example_rows


class Captioning(nn.Module):
    class Config(config.Config):
        tied: bool = True  # decode with the word embeddings, which `forward` is then given
        smoothing: float = Field(default=0.0, ge=0, lt=1)  # of the labels
        eps: PositiveFloat = 1e-12
        weight: PositiveFloat = 1.0

        def build(self, width: int, tokenizer: Tokenizer) -> Captioning:
            return Captioning(self, width, tokenizer.vocab_size)

    def __init__(self, config: Config, width: int, vocab_size: int):
        super().__init__()
        self.config = config
        self.head = MLMHead(width, vocab_size, config.tied, config.eps)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """`captioning` [B, T]: the token at each place after the first; nothing where there is no picture or no word."""
        is_asked_BT = batch.text_mask_BT & (batch.word_BT >= 0).any(1, keepdim=True)
        is_asked_BT[:, 0] = False
        if batch.image_of_BN is not None:
            is_asked_BT &= batch.image_of_BN[:, :1] >= 0
        label_BT = batch.text_BT.masked_fill(~is_asked_BT, IGNORE)
        return replace(
            batch,
            labels={**batch.labels, "captioning": label_BT},
            counts={**batch.counts, "captioning": float(is_asked_BT.sum())},
        )

    def prefix(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, T] what the decoder reads, and where there is something to read: every token that another comes after."""
        label_BT = batch.labels["captioning"]
        is_read_BT = F.pad(label_BT[:, 1:] != IGNORE, (0, 1))
        first_B1 = batch.text_BT[:, :1]  # never masked or swapped: [CLS] begins every text
        return torch.cat([first_B1, label_BT[:, 1:].clamp(min=0)], 1), is_read_BT

    def forward(self, state_BTD: Tensor, batch: Batch, word_KD: Tensor | None = None) -> LossTerm:
        """`state_BTD`: the decoder's."""
        label_BT = F.pad(batch.labels["captioning"][:, 1:], (0, 1), value=IGNORE)
        is_asked_BT = label_BT != IGNORE
        logits_PK, label_P = self.head(state_BTD[is_asked_BT], word_KD).float(), label_BT[is_asked_BT]
        right = (logits_PK.detach().argmax(-1) == label_P).sum()
        count = batch.counts["captioning"]
        loss = F.cross_entropy(logits_PK, label_P, reduction="sum", label_smoothing=self.config.smoothing)
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


class _Example(Captioning):
    """A decoder that hands on what it is given."""

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(fused.text_BTD, batch)


def example() -> tuple[Captioning, Fused, Batch]:
    config = Captioning.Config(tied=False)
    return _Example(config, example_rows.WIDTH, example_rows.VOCAB), example_rows.fused(), example_rows.batch()
