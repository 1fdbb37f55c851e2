"""Which word was exchanged: what ITM says of each word, and the loss against a loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diptych.contracts import IGNORE
from diptych.draw import Draw
from diptych.objectives import example_rows
from diptych.objectives.itm import ITM
from diptych.objectives.swap import Swap, example


def pairs(negatives: float):
    """Rows whose false text differs in the word at position 2 (rows 0 to 3) or in everything (row 4); row 5 has none."""
    batch = example_rows.batch()
    assert batch.false_text is not None
    token_BT = batch.text_BT.clone()
    token_BT[:, 2] = 5 + (token_BT[:, 2] - 4) % (example_rows.VOCAB - 5)
    token_BT[4] = batch.false_text.token_BT[4]
    false = replace(batch.false_text, token_BT=token_BT, mask_BT=batch.false_text.mask_BT, word_BT=batch.word_BT)
    batch = replace(batch, false_text=false)
    itm = ITM(ITM.Config(negatives=negatives), example_rows.WIDTH)
    return batch, itm.corrupt(batch, Draw(0))


@pytest.mark.parametrize("negatives", [0.0, 1.0])
def test_an_exchanged_word_is_named_and_a_foreign_text_asks_nothing(negatives):
    batch, after = pairs(negatives)
    label_BT = after.labels["itm_swapped"]
    is_word_BT = batch.word_BT >= 0
    for b in range(4):
        expected = [int(negatives == 1 and t == 2) if is_word else IGNORE for t, is_word in enumerate(is_word_BT[b].tolist())]
        assert label_BT[b].tolist() == expected
    assert (label_BT[4:] == IGNORE).all()


def test_the_loss_is_the_mean_over_words_of_the_binary_cross_entropy():
    swap, fused, batch = example()
    assert isinstance(swap, Swap)
    batch = swap.corrupt(batch, Draw(0))
    total, count = 0.0, 0
    for b, labels in enumerate(batch.labels["itm_swapped"].tolist()):
        for t, label in enumerate(labels):
            if label != IGNORE:
                p = torch.sigmoid(swap.head(swap.norm(fused.text_BTD[b, t]))).item()
                total -= math.log(p if label else 1 - p)
                count += 1
    term = swap(fused, batch)
    assert term.count == count
    assert term.sum.item() == pytest.approx(total, rel=1e-5)
