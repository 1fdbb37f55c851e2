"""How good a detector's regions are, on pictures with annotated boxes that it was not trained on.

    AP50         of boxes with their names: right at an overlap of .5 (metrics/average_precision.py), in percent
    AP50_where   the same with all names taken for one: are things found at all? Unknown names count here too
    class        of annotated boxes, given as they are: share whose likeliest class is their name, in percent
    attribute    of annotated boxes with attributes: share whose likeliest attribute is one of them, in percent

Names that the detector never learnt (objects unseen in training) are left out of AP50 and `class`, and counted: `boxes` against
`known_boxes`. A picture that several samples show is judged once in a batch, as often as batches show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from diptych.config import Recipe, TextConfig, UserError
from diptych.contracts import IGNORE, Batch, Reader, Regions, System, Tokenizer
from diptych.data.collate import Collate
from diptych.data.stream import InOrder
from diptych.draw import Draw
from diptych.metrics.average_precision import Detection, Truth, average_precision
from diptych.regions.extract import BATCH, Detects, no_regions


@runtime_checkable
class Judged(Detects, Protocol):
    """A detector with attributes, whose `label` gives the `detector` and `detector_attributes` of annotated boxes."""

    def attributes(self, regions: Regions) -> Tensor:
        """[I, R, K] probabilities."""
        ...


def score(
    system: System, recipe: Recipe, tokenizer: Tokenizer, reader: Reader, limit: int | None = None
) -> Mapping[str, float | int]:
    if not isinstance(system, Judged):
        raise UserError(f"{type(system).__name__} detects nothing to be scored; `diptych regions train` gives one that does")
    collate = Collate(tokenizer, TextConfig(max_tokens=3), recipe.data, training=False)
    pictures = InOrder(reader, collate, system.label, Draw(0), recipe.data.image, BATCH, limit)
    device = next(system.parameters()).device
    named: tuple[list[Detection], list[Truth]] = ([], [])
    anywhere: tuple[list[Detection], list[Truth]] = ([], [])
    right, known, liked, described = 0, 0, 0, 0
    was_training = system.training
    system.eval()
    for delivery in pictures.loader(recipe.data.workers):
        batch: Batch = delivery.batch.to(device)
        true = batch.regions or no_regions(len(batch.image_labels["detector"]), device)
        with torch.inference_mode():
            found, given = system.detect(batch), system.describe(batch, true)
            best_IR = system.attributes(given).argmax(-1)
        class_IR, attribute_IRK = batch.image_labels["detector"], batch.image_labels["detector_attributes"]
        assert given.soft_label_IRK is not None and found.soft_label_IRK is not None
        is_known_IR = class_IR != IGNORE
        right += int(((given.soft_label_IRK.argmax(-1) == class_IR) & is_known_IR).sum())
        known += int(is_known_IR.sum())
        liked += int(attribute_IRK.gather(2, best_IR[..., None])[..., 0].sum())
        described += int(attribute_IRK.any(2).sum())
        sure_IR, class_of_IR = found.soft_label_IRK[..., 1:].max(-1)
        for i in range(len(class_IR)):
            mask_R, true_R4, is_known_R = found.mask_IR[i], true.box_IR4[i], is_known_IR[i]
            box_R4, name_R, sure_R = (part[i, mask_R].cpu().numpy() for part in (found.box_IR4, class_of_IR + 1, sure_IR))
            named[0].append(Detection(box_R4, name_R, sure_R))
            named[1].append(Truth(true_R4[is_known_R].cpu().numpy(), class_IR[i, is_known_R].cpu().numpy()))
            whole_R4 = true_R4[true.mask_IR[i]].cpu().numpy()
            anywhere[0].append(Detection(box_R4, np.zeros(len(box_R4)), sure_R))
            anywhere[1].append(Truth(whole_R4, np.zeros(len(whole_R4))))
    system.train(was_training)
    boxes = sum(len(np.asarray(truth.class_R)) for truth in anywhere[1])
    if not boxes:
        raise UserError("no box is annotated in these pictures: there is nothing to score a detector by")
    return {
        "AP50": average_precision(*named),
        "AP50_where": average_precision(*anywhere),
        "class": 100 * right / max(known, 1),
        "attribute": 100 * liked / max(described, 1),
        "pictures": len(named[0]),
        "boxes": boxes,
        "known_boxes": known,
    }


def lines(split: str, scored: Mapping[str, Any]) -> list[str]:
    """For reading."""
    head = f"{split}: {scored['pictures']:,} pictures, {scored['known_boxes']:,} of {scored['boxes']:,} boxes of known names"
    return [head, *(f"{name:>12} {scored[name]:6.2f}" for name in ("AP50", "AP50_where", "class", "attribute"))]
