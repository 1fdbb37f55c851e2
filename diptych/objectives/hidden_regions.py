"""Which regions are hidden, and what a detector said of them: what MRFR, MRC and MRC-KL share (UNITER, section 3.2).

    each region of a row is hidden with probability `rate`, and at least one in every row that has any

Rows that share a picture hide regions of their own. Labels are [B, R], 1 for a hidden region and IGNORE elsewhere, so that each
objective announces how many it will average over; the system takes the features away where it embeds them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diptych.contracts import IGNORE, Batch, Fused, Regions
from diptych.draw import Draw
from diptych.objectives import example_rows


def hide(name: str, rate: float, batch: Batch, draw: Draw) -> Batch:
    """The batch with `labels[name]` and its count."""
    regions, picture_B = _regions(batch)
    mask_BR = regions.mask_IR[picture_B.clamp(min=0)].numpy() & (picture_B >= 0).numpy()[:, None]
    lot_BR = np.where(mask_BR, draw.uniform("hide regions", batch.row_B.numpy(), mask_BR.shape[1]), 2.0)
    is_hidden_BR = torch.from_numpy(mask_BR & (lot_BR <= np.maximum(lot_BR.min(1, keepdims=True), np.nextafter(rate, 0))))
    labels_BR = torch.where(is_hidden_BR, 1, IGNORE)
    return replace(
        batch,
        labels={**batch.labels, name: labels_BR},
        counts={**batch.counts, name: float(is_hidden_BR.sum())},
    )


def states(name: str, fused: Fused, batch: Batch) -> Tensor:
    """[P, D] encoded states of the hidden regions, row by row."""
    b_P, r_P = _hidden(name, batch)
    return fused.image_BVD[b_P, r_P]


def targets(name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """[P, F] features and [P, K] class probabilities of the hidden regions, as the detector gave them."""
    regions, picture_B = _regions(batch)
    assert regions.feature_IRD is not None and regions.soft_label_IRK is not None
    b_P, r_P = _hidden(name, batch)
    return regions.feature_IRD[picture_B[b_P], r_P].float(), regions.soft_label_IRK[picture_B[b_P], r_P].float()


def _hidden(name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    b_P, r_P = (batch.labels[name] != IGNORE).nonzero(as_tuple=True)
    return b_P, r_P


def _regions(batch: Batch) -> tuple[Regions, Tensor]:
    assert batch.regions is not None and batch.image_of_BN is not None
    return batch.regions, batch.image_of_BN[:, 0]


FEATURES, CLASSES = 10, 6


def rows() -> Batch:
    """The rows of other examples, with regions: as many as their pictures have tokens."""
    pictures, random = example_rows.visual(), torch.Generator().manual_seed(4)
    shape = pictures.mask_IV.shape
    regions = Regions(
        pictures.box_IV4,
        pictures.mask_IV,
        torch.randn(*shape, FEATURES, generator=random),
        torch.randn(*shape, CLASSES, generator=random).mul(3).softmax(-1),
    )
    return replace(example_rows.batch(), regions=regions)
