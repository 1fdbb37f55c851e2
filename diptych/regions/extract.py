"""A picture through a trained detector into a region store, once, for all systems that read regions.

    detected   the detector's own boxes, their features and class probabilities
    true       the annotated boxes, described by the same network: what a perfect detector's boxes would give. An upper bound and a
               quick start (an image root, `cnn`, can do this without ever having learnt to find boxes), to be named as such

Pictures are taken by name, so several data sets and splits fill one store, and what it holds already is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from diptych.config import ImageConfig, Recipe, TextConfig, UserError
from diptych.contracts import Batch, Detected, Reader, Regions, Sample, System, Tokenizer
from diptych.data.collate import Collate
from diptych.data.mixture import Source
from diptych.data.picture import BrokenPicture, decode_sample
from diptych.data.stream import Pictures
from diptych.draw import Draw
from diptych.regions.store import RegionStore, Writer, key_of

BATCH = 64
Boxes = Literal["detected", "true"]


@runtime_checkable
class Describes(Protocol):
    """A system that says of given boxes what they hold."""

    @property
    def region_width(self) -> int: ...
    @property
    def region_classes(self) -> tuple[str, ...]:
        """ "background" first."""
        ...

    def describe(self, batch: Batch, regions: Regions) -> Regions:
        """The same boxes with features and soft labels."""
        ...


@runtime_checkable
class Detects(Describes, Protocol):
    """One that finds the boxes itself."""

    def detect(self, batch: Batch) -> Regions: ...


def extract(
    system: System,
    recipe: Recipe,
    tokenizer: Tokenizer,
    sources: Sequence[Source],
    out: Path,
    boxes: Boxes,
    made: Mapping[str, Any],
    tell: Callable[[str], None] = lambda line: None,
) -> RegionStore:
    """made: what the store says of its origin (the run, and its weights' hash)."""
    name = type(system).__name__
    if not isinstance(system, Describes):
        raise UserError(f"{name} describes no regions; `diptych pretrain detector` gives one that does")
    if boxes == "detected" and not isinstance(system, Detects):
        raise UserError(
            f"{name} finds no boxes; --boxes true describes the annotated ones, `diptych pretrain detector` gives one that does"
        )
    writer = Writer(out, system.region_width, system.region_classes, {**made, "boxes": boxes})
    collate = Collate(tokenizer, TextConfig(max_tokens=3), recipe.data, training=False)
    system.eval()
    device = next(system.parameters()).device
    for source in sources:
        for n, (samples, pictures) in enumerate(_unseen(source.reader, writer, recipe.data.image, tell)):
            batch = collate(samples, pictures, list(range(len(samples))), Draw(0)).to(device)
            with torch.inference_mode():
                if boxes == "true":
                    found = system.describe(batch, batch.regions or no_regions(len(samples), device))
                else:
                    assert isinstance(system, Detects)
                    found = system.detect(batch)
            writer.add({key_of(sample.images[0]): own for sample, own in zip(samples, of_pictures(found), strict=True)})
            if n % 20 == 0:
                done = f"{len(writer.keys):,} pictures of {len(source.reader):,} samples"
                tell(f"{source.name}: {done}, {writer.rows:,} regions in {out}")
    return writer.finish()


class AtSight:
    """What a detector sees in single pictures, looked at when they are asked for: in the place of a store."""

    def __init__(self, system: System, recipe: Recipe, tokenizer: Tokenizer):
        assert isinstance(system, Detects)
        self.system, self.detector, self.image = system.eval(), system, recipe.data.image
        self._collate = Collate(tokenizer, TextConfig(max_tokens=3), recipe.data, training=False)

    @torch.inference_mode()
    def __getitem__(self, image: Path | bytes) -> Detected:
        sample = Sample(key_of(image), (image,))
        batch = self._collate([sample], [decode_sample(sample, self.image)], [0], Draw(0))
        (seen,) = of_pictures(self.detector.detect(batch.to(next(self.system.parameters()).device)))
        return seen


def of_pictures(regions: Regions) -> list[Detected]:
    """A batch's regions, picture by picture, without padding."""
    assert regions.feature_IRD is not None and regions.soft_label_IRK is not None
    parts = zip(regions.mask_IR, regions.box_IR4, regions.feature_IRD, regions.soft_label_IRK, strict=True)
    return [
        Detected(box[mask].float().cpu().numpy(), feature[mask].half().cpu().numpy(), label[mask].half().cpu().numpy())
        for mask, box, feature, label in parts
    ]


def _unseen(
    reader: Reader, writer: Writer, image_config: ImageConfig, tell: Callable[[str], None]
) -> Iterator[tuple[list[Sample], list[Pictures]]]:
    """Batches of one-picture samples that the store does not hold; a second picture of a sample is a sample of its own."""
    waiting: list[tuple[Sample, Pictures]] = []
    named: dict[str, Path | bytes] = {}
    for sample in (reader[i] for i in range(len(reader))):
        for n, image in enumerate(sample.images):
            key = key_of(image)
            if key in named:
                if named[key] != image:
                    raise UserError(f"{image}: {named[key]} has the same folder and name, by which a store tells pictures apart")
                continue
            named[key] = image
            if writer.has(image):
                continue
            alone = replace(sample, images=(image,), texts=(), false_texts=(), phrases=(), boxes=sample.boxes if n == 0 else ())
            try:
                waiting.append((alone, decode_sample(alone, image_config)))
            except BrokenPicture as error:
                tell(f"{image if isinstance(image, Path) else sample.key}: left out, {error}")
                continue
            if len(waiting) == BATCH:
                yield _apart(waiting)
                waiting = []
    if waiting:
        yield _apart(waiting)


def _apart(pairs: Sequence[tuple[Sample, Pictures]]) -> tuple[list[Sample], list[Pictures]]:
    return [sample for sample, _ in pairs], [pictures for _, pictures in pairs]


def no_regions(pictures: int, device: torch.device) -> Regions:
    mask: Tensor = torch.zeros(pictures, 1, dtype=torch.bool, device=device)
    return Regions(torch.zeros(pictures, 1, 4, device=device), mask)
