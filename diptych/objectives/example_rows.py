"""A handful of rows with random states, to try an objective on: what `example()` of every objective starts from.

Six rows over three pictures. Texts of 4 to 9 tokens with words of one to three pieces and one phrase each, pictures of 4 to 7
tokens behind a whole-image token, a false text everywhere but in the last row, matching labels for objectives that read them.
"""

from __future__ import annotations

import torch

from diptych.contracts import IGNORE, Batch, Fused, Phrase, Texts, Visual

WIDTH, VOCAB, PAD, CLS, SEP, MASK = 16, 50, 0, 1, 2, 3
_LENGTHS, _PATCHES = (9, 4, 7, 5, 8, 6), (4, 7, 5)
_PICTURE_OF_ROW = torch.tensor([0, 0, 1, 1, 2, 2])


def texts(seed: int) -> Texts:
    random = torch.Generator().manual_seed(seed)
    length_B1, place_T = torch.tensor(_LENGTHS)[:, None], torch.arange(max(_LENGTHS))
    mask_BT = place_T < length_B1
    is_word_BT = mask_BT & (place_T > 0) & (place_T < length_B1 - 1)
    token_BT = torch.randint(5, VOCAB, mask_BT.shape, generator=random).masked_fill(~mask_BT, PAD)
    token_BT[:, 0] = CLS
    token_BT.scatter_(1, length_B1 - 1, SEP)
    starts_BT = torch.rand(mask_BT.shape, generator=random) < 0.6
    starts_BT[:, 1] = True
    word_BT = ((starts_BT & is_word_BT).cumsum(1) - 1).masked_fill(~is_word_BT, -1)
    return Texts(token_BT, mask_BT, torch.zeros_like(token_BT), word_BT)


def batch() -> Batch:
    true, false = texts(seed=0), texts(seed=1)
    false.mask_BT[-1] = False
    return Batch(
        text_BT=true.token_BT,
        text_mask_BT=true.mask_BT,
        segment_BT=true.segment_BT,
        word_BT=true.word_BT,
        row_B=torch.arange(100, 106),
        image_of_BN=_PICTURE_OF_ROW[:, None],
        false_text=false,
        labels={"itm": torch.tensor([1, 0, 0, 1, IGNORE, 1])},
        keys=tuple("aabbcc"),
        phrases=tuple((Phrase(1, 2),) for _ in _LENGTHS),
    )


def visual() -> Visual:
    random = torch.Generator().manual_seed(2)
    patches_I1, place_V = torch.tensor(_PATCHES)[:, None], torch.arange(1 + max(_PATCHES))
    mask_IV = place_V <= patches_I1
    left_IV = (place_V - 1) / patches_I1
    box_IV4 = torch.stack([left_IV, left_IV * 0, left_IV + 1 / patches_I1, left_IV * 0 + 1], 2) * mask_IV[:, :, None]
    box_IV4[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return Visual(torch.randn(*mask_IV.shape, WIDTH, generator=random), mask_IV, box_IV4)


def fused() -> Fused:
    random = torch.Generator().manual_seed(3)
    rows, pictures = batch(), visual()
    text_BTD = torch.randn(*rows.text_BT.shape, WIDTH, generator=random)
    pooled_BD = torch.randn(len(rows), WIDTH, generator=random)
    slot_BV = torch.zeros(len(rows), pictures.mask_IV.shape[1], dtype=torch.int64)
    image_BVD, image_mask_BV, box_BV4 = (part[_PICTURE_OF_ROW] for part in pictures)
    return Fused(text_BTD, rows.text_mask_BT, image_BVD, image_mask_BV, slot_BV, box_BV4, pooled_BD)
