"""Controls: the same task without the picture, or without the text. What such a model answers right, the data give away.

    picture     grey, of the same size; one region that shows nothing, where a system reads those
    text        [CLS] [SEP]

Withheld in training and in evaluation, where labels are made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from diptych.contracts import Batch, Images, Regions, Tokenizer

Withhold = Literal["none", "picture", "text"]


def withheld(batch: Batch, what: Withhold, tokenizer: Tokenizer) -> Batch:
    match what:
        case "picture":
            return replace(batch, images=_grey(batch.images), regions=_blank(batch.regions))
        case "text":
            mask_BT = (torch.arange(batch.text_BT.shape[1]) < 2).expand(batch.text_BT.shape)
            text_BT = batch.text_BT.masked_fill(~mask_BT, tokenizer.pad_id)
            text_BT[:, 1] = tokenizer.sep_id
            nothing = {"segment_BT": torch.zeros_like(batch.segment_BT), "word_BT": torch.full_like(batch.word_BT, -1)}
            return replace(batch, text_BT=text_BT, text_mask_BT=mask_BT, **nothing, false_text=None, phrases=())
        case "none":
            return batch


def _grey(images: Images | None) -> Images | None:
    return images and replace(images, pixel_I3HW=torch.full_like(images.pixel_I3HW, 128))


def _blank(regions: Regions | None) -> Regions | None:
    """How many regions there are, and where, tells of the picture too."""

    def zeros(part: Tensor | None) -> Tensor | None:
        return None if part is None else torch.zeros_like(part)

    if regions is None:
        return None
    box_IR4 = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(regions.box_IR4).contiguous()
    is_first_R = torch.arange(box_IR4.shape[1]) == 0
    mask_IR = is_first_R.expand_as(regions.mask_IR).contiguous()
    return Regions(box_IR4, mask_IR, zeros(regions.feature_IRD), zeros(regions.soft_label_IRK))
