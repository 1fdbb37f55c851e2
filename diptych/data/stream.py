"""Batches by number: item k of a `Stream` is micro-step k of one rank, as a pure function of (seed, k).

    step, micro = divmod(k, accumulate)
    samples of a step        [step * batch_size, (step + 1) * batch_size)      the same whatever the number of ranks
    samples of a micro-step  slice `micro * ranks + rank` of those             labelled and corrupted here, in the loader

Worker processes compute items and keep no state, so a run is resumed at any item with any number of workers, and continues the
same order of samples in another world. A picture that cannot be read is replaced by a sample that depends on the draw alone, and
named in `Delivery.broken`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from diptych.config import ImageConfig, Recipe, UserError
from diptych.contracts import Batch, Reader, Sample, Tokenizer, Trainable
from diptych.data.collate import Collate
from diptych.data.mixture import Mixture
from diptych.data.picture import BrokenPicture, decode_sample
from diptych.draw import Draw

SUBSTITUTES = 32  # tries for one broken picture; with half of all pictures broken, 32 in a row are a chance of 2^-32

Pictures = Sequence[NDArray[np.uint8]]


class Broken(NamedTuple):
    """A picture that could not be read."""

    key: str
    path: str
    reason: str


class Delivery(NamedTuple):
    batch: Batch
    broken: tuple[Broken, ...]


class Refusal(NamedTuple):
    """A user's error met in a loader process, carried as a value: raised there, torch would bury its one line in a traceback."""

    reason: str


class Collates(Protocol):
    def __call__(
        self,
        samples: Sequence[Sample],
        pictures: Sequence[Pictures],
        sample_ids: Sequence[int],
        draw: Draw,
        others: Sequence[Sequence[Sample]] | None = None,
    ) -> Batch: ...


@dataclass
class Stream(Dataset["Delivery | Refusal"]):
    """The training data of one rank, micro-step by micro-step."""

    mixture: Mixture
    collate: Collates
    label: Callable[[Batch], Batch]
    corrupt: Callable[[Batch, Draw], Batch]
    draw: Draw
    image: ImageConfig
    steps: int
    batch_size: int  # samples per optimiser step, over all ranks and micro-steps
    accumulate: int = 1
    rank: int = 0
    ranks: int = 1
    negatives: int = 1  # samples of other draws handed to `collate` beside each sample
    foreign: bool = False  # they are wanted even where a sample brings false texts of its own
    shuffled: bool = False  # every text beside another sample's picture
    pictures: bool = True  # False: nothing is decoded, and samples go on without pictures

    @classmethod
    def training(
        cls, model: Trainable, recipe: Recipe, mixture: Mixture, tokenizer: Tokenizer, draw: Draw, rank: int = 0, ranks: int = 1
    ) -> Stream:
        """What a system, or a task on it, is trained on by its recipe."""
        return cls(
            mixture=mixture,
            collate=Collate(tokenizer, recipe.text, recipe.data, training=True),
            label=model.label,
            corrupt=model.corrupt,
            draw=draw,
            image=recipe.data.image,
            steps=recipe.train.steps,
            batch_size=recipe.train.batch_size,
            accumulate=recipe.train.accumulate,
            rank=rank,
            ranks=ranks,
            negatives=model.negatives,
            foreign=recipe.data.foreign > 0,
            shuffled=recipe.data.shuffled,
            pictures=model.reads_pictures,
        )

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.ranks):
            parts = f"train.accumulate={self.accumulate} x {self.ranks} ranks"
            raise UserError(f"train.batch_size={self.batch_size} does not divide by {parts}")

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __getitem__(self, k: int) -> Delivery | Refusal:
        try:
            return self.deliver(k)
        except UserError as error:
            return Refusal(str(error))

    def deliver(self, k: int) -> Delivery:
        draw_N = self.draws_of(k)
        source_N, index_N = self.mixture.locate(draw_N)
        chance_NJ = self.draw.uniform("others", draw_N, self.negatives)
        samples, pictures, others, broken = [], [], [], []
        for n, source, index, chance_J in zip(draw_N.tolist(), source_N.tolist(), index_N.tolist(), chance_NJ, strict=True):
            reader = self.mixture.sources[source].reader
            sample, its_pictures = self._readable(reader, n, index, broken)
            samples.append(sample)
            pictures.append(its_pictures)
            others.append(self._others(reader, sample, index, chance_J))
        batch = replace(self.collate(samples, pictures, draw_N.tolist(), self.draw, others), step=k // self.accumulate)
        batch = self.corrupt(self.label(batch), self.draw)
        return Delivery(replace(batch, samples=(), phrases=(), false_phrases=(), others=()), tuple(broken))

    def draws_of(self, k: int) -> NDArray[np.int64]:
        """Which draws of the global order item k consists of."""
        step, micro = divmod(k, self.accumulate)
        share = self.batch_size // (self.accumulate * self.ranks)
        first = step * self.batch_size + (micro * self.ranks + self.rank) * share
        return np.arange(first, first + share)

    def loader(self, start: int, workers: int, pin: bool = False) -> Iterator[Delivery | Refusal]:
        """Items start, start + 1, ... in order."""
        return iter(_loader(self, range(start, len(self)), workers, pin))

    def _readable(self, reader: Reader, n: int, index: int, broken: list[Broken]) -> tuple[Sample, Pictures]:
        for attempt in range(SUBSTITUTES):
            sample = reader[index]
            if not self.pictures:
                return replace(sample, images=()), ()
            if self.shuffled:
                sample = _beside_another(sample, reader, index, self.draw, n)
            try:
                return sample, decode_sample(sample, self.image)
            except BrokenPicture as error:
                broken.append(_broken(sample, error))
                index = int(self.draw.integers(f"substitute/{attempt}", n, len(reader))[0, 0])
        raise UserError(f"{SUBSTITUTES} samples in a row have unreadable pictures, last {broken[-1].path}: {broken[-1].reason}")

    def _others(self, reader: Reader, sample: Sample, index: int, chance_J: NDArray[np.float64]) -> list[Sample]:
        """Samples of the same source, any but this one. A sample that brings false texts needs no single other to lend its own."""
        is_served = self.negatives == 1 and sample.false_texts and all(sample.false_texts) and not self.foreign
        if len(reader) < 2 or is_served:
            return []
        other_J = (chance_J * (len(reader) - 1)).astype(np.int64)
        return [reader[int(other + (other >= index))] for other in other_J]


@dataclass
class InOrder(Dataset["Delivery | Refusal"]):
    """A split for evaluation: every sample once, in the order of its file, with all its texts.

    A question whose picture cannot be read stays in the count: it is asked about a grey square, and named in `broken`.
    """

    reader: Reader | Sequence[Sample]
    collate: Collates
    label: Callable[[Batch], Batch]
    draw: Draw
    image: ImageConfig
    batch_size: int
    limit: int | None = None  # only the first so many samples
    shuffled: bool = False  # every text beside another sample's picture
    pictures: bool = True  # False: nothing is decoded

    @property
    def size(self) -> int:
        return min(len(self.reader), self.limit or len(self.reader))

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __getitem__(self, k: int) -> Delivery | Refusal:
        try:
            return self.deliver(k)
        except UserError as error:
            return Refusal(str(error))

    def deliver(self, k: int) -> Delivery:
        index_N = range(k * self.batch_size, min((k + 1) * self.batch_size, self.size))
        samples = [self.reader[index] for index in index_N]
        if self.shuffled:
            samples = [_beside_another(s, self.reader, i, self.draw, i) for s, i in zip(samples, index_N, strict=True)]
        if not self.pictures:
            return Delivery(self.label(self.collate(samples, [()] * len(samples), list(index_N), self.draw)), ())
        pictures, broken = [], []
        decoded: dict[object, Pictures | BrokenPicture] = {}  # neighbours often ask about one picture
        for sample in samples:
            place = (sample.images, bool(sample.boxes))
            if place not in decoded:
                decoded[place] = self._decode(sample)
            its_pictures = decoded[place]
            if isinstance(its_pictures, BrokenPicture):
                broken.append(_broken(sample, its_pictures))
                its_pictures = [np.full((self.image.short, self.image.short, 3), 128, np.uint8) for _ in sample.images]
            pictures.append(its_pictures)
        batch = self.label(self.collate(samples, pictures, list(index_N), self.draw))
        return Delivery(batch, tuple(broken))

    def _decode(self, sample: Sample) -> Pictures | BrokenPicture:
        try:
            return decode_sample(sample, self.image)
        except BrokenPicture as error:
            return error

    def loader(self, workers: int, pin: bool = False) -> Iterator[Delivery]:
        for item in _loader(self, range(len(self)), workers, pin):
            if isinstance(item, Refusal):
                raise UserError(item.reason)
            yield item


def _beside_another(sample: Sample, reader: Reader | Sequence[Sample], index: int, draw: Draw, n: int) -> Sample:
    """The texts and labels of one sample; the pictures, boxes and regions of another, drawn for the n-th."""
    if len(reader) < 2:
        raise UserError("data.shuffled=true needs another sample to take the picture from, and there is one alone")
    other = int(draw.integers("shuffled", n, len(reader) - 1)[0, 0])
    shown = reader[other + (other >= index)]
    unboxed = tuple(tuple(phrase._replace(box=None) for phrase in spans) for spans in sample.phrases)
    return replace(sample, images=shown.images, boxes=shown.boxes, regions=shown.regions, phrases=unboxed)


def _broken(sample: Sample, error: BrokenPicture) -> Broken:
    paths = [str(image) for image in sample.images if isinstance(image, Path)]
    return Broken(sample.key, ", ".join(paths), str(error))


def _loader(items: Dataset[Delivery | Refusal], which: range, workers: int, pin: bool) -> DataLoader[Delivery | Refusal]:
    return DataLoader(
        items, batch_size=None, sampler=which, num_workers=workers, worker_init_fn=_leave_stopping_to_the_trainer, pin_memory=pin
    )


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ctrl-C, and SIGTERM under torchrun, reach loader processes too: they go on feeding the step that the trainer finishes.

    A second SIGTERM ends one, so that a hung worker can be got rid of; without their parent they leave by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL) and None)
