"""Galleries: pictures and texts of a split that meet each other many times, each encoded once.

    texts of all batches -> one batch of rows (`Gallery.texts_alone`)
    pictures of all batches -> system.see -> `Shown`, once                    -> `all_with_all`   [I, C] match logits, in blocks
    (picture, text) pairs that somebody picked                                -> `some_with_some` [P]

A block's pictures are shared by its texts, so what a hinge computes of a picture alone is computed once a block, and texts of a
block are about equally long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diptych.config import UserError
from diptych.contracts import ROWS_PER_SAMPLE, Batch, Regions, Sample, System, Tokenizer, Towers, Visual
from diptych.data.collate import texts_of


@dataclass
class Gallery:
    """All pictures and texts of a split, and which picture each text describes.

    A picture of several samples (one for each language, say) is there once: twice, it would tie with itself.
    """

    shown: list[Sample] = field(default_factory=list)  # the first sample of each picture
    place_of: dict[Path | bytes, int] = field(default_factory=dict)  # in `shown`
    texts: list[str] = field(default_factory=list)
    image_of: list[int] = field(default_factory=list)
    parts: list[Batch] = field(default_factory=list)

    def add(self, batch: Batch) -> Tensor:
        """Which of the batch's pictures are new here."""
        if batch.image_of_BN is None or batch.images is None:
            raise UserError("retrieval needs pictures, and this data set has texts only")
        new: list[int] = []
        for sample, place in zip(batch.samples, batch.image_of_BN[:, 0].tolist(), strict=True):
            if sample.images[0] not in self.place_of:
                self.place_of[sample.images[0]] = len(self.shown)
                self.shown.append(sample)
                new.append(place)
            self.image_of.append(self.place_of[sample.images[0]])
        self.texts += [sample.texts[row % ROWS_PER_SAMPLE] for sample, row in zip(batch.samples, batch.row_B.tolist(), strict=True)]
        self.parts.append(Batch(batch.text_BT, batch.text_mask_BT, batch.segment_BT, batch.word_BT, batch.row_B))
        return torch.tensor(new, dtype=torch.int64)

    def texts_alone(self, pad_id: int) -> Batch:
        """All texts as rows of one batch, without pictures."""
        length = max(part.text_BT.shape[1] for part in self.parts)

        def joined(name: str, pad: int) -> Tensor:
            return torch.cat([F.pad(getattr(part, name), (0, length - part.text_BT.shape[1]), value=pad) for part in self.parts])

        texts = (joined("text_BT", pad_id), joined("text_mask_BT", 0), joined("segment_BT", 0), joined("word_BT", -1))
        return Batch(*texts, row_B=torch.cat([part.row_B for part in self.parts]))

    def products(self, towers: Sequence[Towers]) -> NDArray[np.float32]:
        """[I, C] cosines; a picture's side is that of its first row."""
        a_CE, b_CE = torch.cat([side.a_BE for side in towers]), torch.cat([side.b_BE for side in towers])
        first = {image: row for row, image in reversed(list(enumerate(self.image_of)))}
        a_IE = a_CE[torch.tensor([first[image] for image in range(len(self.shown))], device=a_CE.device)]
        return (a_IE @ b_CE.T).float().cpu().numpy()


def rows_of(texts: Sequence[str], tokenizer: Tokenizer, most: int, device: torch.device | None = None) -> Batch:
    """Texts as rows of a batch, without pictures."""
    encodings = [tokenizer.encode(text, most) for text in texts]
    rows = texts_of(encodings, tokenizer.pad_id, max(len(encoding.ids) for encoding in encodings))
    batch = Batch(rows.token_BT, rows.mask_BT, rows.segment_BT, rows.word_BT, row_B=torch.arange(len(texts)))
    return batch if device is None else batch.to(device)


# ------------------------------------------------------------------------------------------------------- match logits


@dataclass(frozen=True)
class Shown:
    """Encoded pictures, and what a detector saw in them, but for the features: those are in the encoded pictures."""

    visual: Visual
    regions: Regions | None

    @staticmethod
    def joined(parts: Sequence[Shown]) -> Shown:
        """Those of several batches, padded to the most tokens."""
        visual = Visual(*(_padded([part.visual[n] for part in parts]) for n in range(3)))
        seen = [part.regions for part in parts if part.regions is not None]
        labels = [regions.soft_label_IRK for regions in seen if regions.soft_label_IRK is not None]
        if len(labels) < len(parts):
            return Shown(visual, None)
        box_IR4, mask_IR = (_padded([getattr(regions, name) for regions in seen]) for name in ("box_IR4", "mask_IR"))
        return Shown(visual, Regions(box_IR4, mask_IR, soft_label_IRK=_padded(labels)))

    def __len__(self) -> int:
        return len(self.visual.token_IVD)

    def some(self, index: Tensor | slice) -> Shown:
        seen = self.regions
        if seen is not None and seen.soft_label_IRK is not None:
            seen = Regions(seen.box_IR4[index], seen.mask_IR[index], soft_label_IRK=seen.soft_label_IRK[index])
        return Shown(Visual(*(tensor[index] for tensor in self.visual)), seen)


def all_with_all(system: System, shown: Shown, texts: Batch, block: int) -> NDArray[np.float32]:
    """[I, C]: blocks of pictures by blocks of texts, `block` pairs in each."""
    score_IC = torch.empty(len(shown), len(texts))
    tall = min(len(shown), max(1, int(block**0.5)))  # pictures of a block
    for text_C in texts.text_mask_BT.sum(1).argsort().split(max(1, block // tall)):
        for start in range(0, len(shown), tall):
            part = shown.some(slice(start, start + tall))
            image_P = torch.arange(len(part), device=text_C.device).repeat_interleave(len(text_C))
            score_P = _match(system, part, texts, image_P, text_C.repeat(len(part)))
            score_IC[start : start + tall, text_C.cpu()] = score_P.view(len(part), -1).cpu()
    return score_IC.numpy()


def some_with_some(system: System, shown: Shown, texts: Batch, image_P: Tensor, text_P: Tensor, block: int) -> NDArray[np.float32]:
    """[P] of the picture and the text of each pair; those of one picture go together."""
    device = texts.text_BT.device
    order_P = image_P.argsort(stable=True)
    score_P = torch.empty(len(order_P))
    for pair_P in order_P.split(block):
        which_U, place_P = image_P[pair_P].unique(return_inverse=True)
        score_P[pair_P] = _match(system, shown.some(which_U.to(device)), texts, place_P.to(device), text_P[pair_P].to(device)).cpu()
    return score_P.numpy()


def _match(system: System, shown: Shown, texts: Batch, image_P: Tensor, text_P: Tensor) -> Tensor:
    rows = replace(_cut(texts.rows(text_P)), image_of_BN=image_P[:, None], regions=shown.regions)
    return system.match(system.fuse(rows, shown.visual)).float()


def _cut(texts: Batch) -> Batch:
    """Without columns that are padding in every row."""
    longest = int(texts.text_mask_BT.sum(1).max())
    return replace(
        texts, **{name: getattr(texts, name)[:, :longest] for name in ("text_BT", "text_mask_BT", "segment_BT", "word_BT")}
    )


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, dimension 1 as long as the longest; False and zero in the padding."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, most - part.shape[1])) for part in parts])
