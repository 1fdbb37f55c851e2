"""Masked language modelling (Devlin et al., 2019): guess hidden words from the others and from the picture.

    share `rate` of the words is chosen; of their tokens 80 % become [MASK], 10 % a random token, 10 % stay
    L = mean over chosen tokens of -log p(token | corrupted text, picture)

Whole words (ViLT) hide all pieces of a word together, so that "gi ##raf ##fe" is not guessed from its own tail; BERT, UNITER
and SOHO choose single tokens. At least one is chosen in every text, as in BERT: at 15 % most captions would otherwise ask
nothing. With `words="phrases"` only words are chosen that the picture decides (things, colours, counts, relations), where the
data marks them; texts without marks are treated as usual.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm, Tokenizer
from diptych.draw import Draw
from diptych.nn.head import MLMHead
from diptych.objectives import example_rows


class MLM(nn.Module):
    class Config(config.Config):
        rate: float = Field(default=0.15, gt=0, le=1)
        unit: Literal["word", "token"] = "word"
        words: Literal["any", "phrases"] = "any"
        favour: dict[str, PositiveFloat] = Field(default={}, repr=False)  # with phrases: kind -> how much likelier than others
        mask: float = Field(default=0.8, ge=0, le=1)  # share of chosen tokens that become [MASK]
        random: float = Field(default=0.1, ge=0, le=1)  # share that become a random token; the rest stay
        tied: bool = False  # decode with the word embeddings, which `forward` is then given
        eps: PositiveFloat = 1e-12
        weight: PositiveFloat = 1.0

        @model_validator(mode="after")
        def _shares(self) -> MLM.Config:
            if self.mask + self.random > 1 + 1e-9:
                raise ValueError(f"mask + random = {self.mask + self.random:g} is more than 1")
            return self

        def build(self, width: int, tokenizer: Tokenizer) -> MLM:
            return MLM(self, width, tokenizer.vocab_size, tokenizer.mask_id)

    def __init__(self, config: Config, width: int, vocab_size: int, mask_id: int):
        super().__init__()
        self.config, self.vocab_size, self.mask_id = config, vocab_size, mask_id
        self.head = MLMHead(width, vocab_size, config.tied, config.eps)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        rows, length = batch.row_B.numpy(), batch.text_BT.shape[1]
        chosen_BT = torch.from_numpy(self.choose(batch, draw.uniform("mlm/choose", rows, length)))
        fate_BT = torch.from_numpy(draw.uniform("mlm/fate", rows, length))
        random_BT = torch.from_numpy(draw.integers("mlm/random", rows, self.vocab_size, length))
        text_BT = batch.text_BT.masked_fill(chosen_BT & (fate_BT < self.config.mask), self.mask_id)
        is_random_BT = chosen_BT & (fate_BT >= self.config.mask) & (fate_BT < self.config.mask + self.config.random)
        labels_BT = batch.text_BT.masked_fill(~chosen_BT, IGNORE)
        return replace(
            batch,
            text_BT=torch.where(is_random_BT, random_BT, text_BT),
            labels={**batch.labels, "mlm": labels_BT},
            counts={**batch.counts, "mlm": float(chosen_BT.sum())},
        )

    def choose(self, batch: Batch, lot_BT: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[B, T] the tokens to guess. The units (words or tokens) with the lowest lots are taken; unit u's lot is column u."""
        word_BT = batch.word_BT.numpy()
        may_BT = word_BT >= 0
        if self.config.words == "phrases":
            for is_word_T, phrases in zip(may_BT, batch.phrases, strict=False):
                is_phrase_T = np.zeros_like(is_word_T)
                for phrase in phrases:
                    is_phrase_T[phrase.start : phrase.end] = True
                if (is_word_T & is_phrase_T).any():
                    is_word_T &= is_phrase_T
        unit_BT = word_BT if self.config.unit == "word" else np.broadcast_to(np.arange(word_BT.shape[1]), word_BT.shape)
        lot_BT = np.take_along_axis(lot_BT, np.maximum(unit_BT, 0), 1)
        if self.config.favour:
            lot_BT = -np.log1p(-lot_BT) / self._weight(batch)
        lot_BT = np.where(may_BT, lot_BT, np.inf)
        is_first_BT = may_BT.copy()  # of the pieces of a unit, which lie next to each other
        is_first_BT[:, 1:] &= (unit_BT[:, 1:] != unit_BT[:, :-1]) | ~may_BT[:, :-1]
        units_B = is_first_BT.sum(1)
        taken_B = np.where(units_B > 0, np.maximum(1, np.floor(self.config.rate * units_B + 0.5)), 0).astype(np.int64)
        order_BT = np.sort(np.where(is_first_BT, lot_BT, np.inf), 1)
        highest_B1 = np.take_along_axis(order_BT, np.maximum(taken_B, 1)[:, None] - 1, 1)
        return may_BT & (lot_BT <= highest_B1)

    def _weight(self, batch: Batch) -> NDArray[np.float64]:
        """[B, T] of each token's kind.

        The lowest of Exponential(weight) lots is drawn in proportion to the weights, and so on without replacement (Efraimidis and
        Spirakis, 2006).
        """
        weight_BT = np.ones(batch.word_BT.shape)
        for weight_T, phrases in zip(weight_BT, batch.phrases, strict=False):
            for phrase in phrases:
                weight_T[phrase.start : phrase.end] = self.config.favour.get(phrase.kind, 1.0)
        return weight_BT

    def forward(self, fused: Fused, batch: Batch, word_KD: Tensor | None = None) -> LossTerm:
        """The head sees masked positions only: decoding the whole text costs five times as much and asks nothing more."""
        labels_BT = batch.labels["mlm"]
        is_asked_BT = labels_BT != IGNORE
        logits_PK = self.head(fused.text_BTD[is_asked_BT], word_KD).float()
        labels_P = labels_BT[is_asked_BT]
        right = (logits_PK.detach().argmax(-1) == labels_P).sum()
        count = batch.counts["mlm"]
        loss = F.cross_entropy(logits_PK, labels_P, reduction="sum")
        return LossTerm(loss, count, self.config.weight, {"accuracy": (right, count)})


def example() -> tuple[MLM, Fused, Batch]:
    return MLM(MLM.Config(), example_rows.WIDTH, example_rows.VOCAB, example_rows.MASK), example_rows.fused(), example_rows.batch()
