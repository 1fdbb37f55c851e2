"""The nouns that every part of Diptych speaks in. Read this file first.

    Reader -> Sample -> collate -> label -> corrupt -> Batch -> system(batch) -> {name: LossTerm} -> train.loop
                                                            \\-> system.fuse(batch)   -> Fused  -> task head -> loss, prediction
                                                             \\-> system.towers(batch) -> Towers

A `Sample` is what a data set holds: pictures, texts, boxes, labels; no tensors. A `Batch` is rows and indices: a row is one
text with its picture(s), and rows that share a picture share its encoding. `label` turns annotations into label tensors and
`corrupt` masks and swaps; both run in the data loader, so the number of labels is known before the first forward pass.

Dimension letters, used as suffixes of tensor names throughout:

    B rows of a batch        I distinct pictures      N pictures of a row      T text tokens     V visual tokens
    R boxes of a picture     D width                  E embedding              K classes, vocabulary or codebook
    H W height, width        3 colour channels        4 box corners x1 y1 x2 y2

Masks are bool and True where something is real. Boxes are xyxy; in a `Sample` in pixels of the stored picture, everywhere else
in [0, 1] relative to the unpadded picture. Absent fields are None, never zero-filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diptych.config import Config, Recipe
from diptych.draw import Draw

IGNORE = -100  # an integer label that asks nothing; torch's cross_entropy skips it by default
ROWS_PER_SAMPLE = 4096  # a row's id is sample * ROWS_PER_SAMPLE + its place within the sample


# ----------------------------------------------------------------------------------------------------------- data


class Box(NamedTuple):
    """One annotated thing: corners in pixels of the stored picture, its name, its attributes."""

    xyxy: tuple[float, float, float, float]
    name: str = ""
    attributes: tuple[str, ...] = ()


class Phrase(NamedTuple):
    """A span of a text, in characters, that the picture decides: a noun phrase, a colour, a count, a relation word."""

    start: int
    end: int
    kind: str = ""  # free: "object", "colour", "count", "relation", "size"
    box: int | None = None  # place in Sample.boxes


class Detected(NamedTuple):
    """What a detector saw in one picture, from a region store. Boxes are already relative: xyxy in [0, 1]."""

    box_R4: NDArray[np.float32]
    feature_RD: NDArray[np.float16]
    soft_label_RK: NDArray[np.float16]  # probabilities of the detector's classes; the first is "background"


@dataclass(frozen=True)
class Sample:
    """What a reader yields. Fields that a data set does not have stay empty."""

    key: str  # stable and unique in its data set; named in logs, quarantine and predictions
    images: tuple[Path | bytes, ...] = ()
    texts: tuple[str, ...] = ()
    false_texts: tuple[str, ...] = ()  # aligned with texts (or empty): a near text, checked to be false of the picture
    phrases: tuple[tuple[Phrase, ...], ...] = ()  # aligned with texts (or empty)
    boxes: tuple[Box, ...] = ()  # of the first picture
    regions: tuple[Detected, ...] = field(default=(), compare=False)  # of each picture, where a region store is read beside
    labels: Mapping[str, Any] = field(default_factory=dict)  # what a task asks: "answers", "label", "question_type" ...
    language: str = "en"
    group: str = ""  # samples that must share a split and a bootstrap draw; empty: the key

    @property
    def is_question(self) -> bool:
        """Whether its text asks, or is to be judged; other texts describe the picture."""
        return "question_id" in self.labels

    def __post_init__(self) -> None:
        for name in ("false_texts", "phrases"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.texts):
                raise ValueError(f"sample {self.key}: {name} has {len(getattr(self, name))} entries, texts {len(self.texts)}")


@runtime_checkable
class Reader(Protocol):
    """A data set on disk, by position. Reading a sample is cheap: pictures are decoded later, and only when drawn."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...
    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the annotations, the `data_sha256` of a result."""
        ...


class Encoding(NamedTuple):
    """One tokenised text, special tokens included."""

    ids: list[int]
    words: list[int]  # which word a token is a piece of; -1 for special tokens
    offsets: list[tuple[int, int]]  # characters [start, end) of the text; (0, 0) for special tokens


class Tokenizer(Protocol):
    """Text to token ids. Handed in wherever it is needed; parts never choose one."""

    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    def encode(self, text: str, max_tokens: int) -> Encoding:
        """[CLS] text [SEP], cut to at most `max_tokens` ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...
    def token(self, token_id: int) -> str: ...
    def ids_of(self, word: str) -> list[int]:
        """The pieces of one word, without special tokens."""
        ...

    def save(self, path: Path) -> None: ...


@dataclass
class Images:
    """Distinct pictures, padded at the right and bottom to a common size. uint8 until a system normalises them."""

    pixel_I3HW: Tensor  # uint8, 0..255, RGB
    mask_IHW: Tensor  # bool; explicit, for a black picture is real too

    @property
    def size_I2(self) -> Tensor:
        """Unpadded (height, width) in pixels, int64."""
        return torch.stack([self.mask_IHW.any(2).sum(1), self.mask_IHW.any(1).sum(1)], 1)


@dataclass
class Regions:
    """Boxes of each distinct picture: a detector's with its features and class scores, or else the annotated ones."""

    box_IR4: Tensor
    mask_IR: Tensor
    feature_IRD: Tensor | None = None
    soft_label_IRK: Tensor | None = None


@dataclass
class Annotated:
    """The annotated boxes of each distinct picture in the order of `Sample.boxes`, whatever a detector saw beside them."""

    box_IR4: Tensor
    mask_IR: Tensor  # False also where a box has no area
    size_I2: Tensor  # (height, width) of the stored picture, int64: to tell boxes in its pixels again


@dataclass
class Texts:
    """One text for each row."""

    token_BT: Tensor  # int64
    mask_BT: Tensor  # bool
    segment_BT: Tensor  # int64; 0 for the first segment
    word_BT: Tensor  # int64; which word a token is a piece of, -1 for special and padding tokens


@dataclass
class Batch:
    """Rows and indices: a row is one text with the picture(s) that `image_of_BN` names."""

    text_BT: Tensor  # int64 token ids
    text_mask_BT: Tensor
    segment_BT: Tensor
    word_BT: Tensor
    row_B: Tensor  # int64: the row's id in the whole run; what is drawn for a row depends on this and nothing else
    image_of_BN: Tensor | None = None  # int64 into images; -1 = no picture in this slot
    images: Images | None = None
    group_B: Tensor | None = None  # int64: rows of one question (VCR's four candidates, retrieval's 1 + 15)
    regions: Regions | None = None
    annotated: Annotated | None = None
    false_text: Texts | None = None  # a text that is not true of the row's picture, for ITM and its relatives
    labels: dict[str, Tensor] = field(default_factory=dict)  # of rows: first dimension B; integers use IGNORE
    image_labels: dict[str, Tensor] = field(default_factory=dict)  # of distinct pictures: first dimension I
    step: int = 0  # optimiser step of the run: what is drawn once for all ranks depends on it
    counts: dict[str, float] = field(default_factory=dict)  # objective -> labels it will average over, set by corrupt / label
    keys: tuple[str, ...] = ()  # sample key of each row
    samples: tuple[Sample, ...] = ()  # sample of each row; only inside the loader, dropped before the batch leaves it
    phrases: tuple[tuple[Phrase, ...], ...] = ()  # of each row, start and end in *tokens*; only inside the loader
    false_phrases: tuple[tuple[Phrase, ...], ...] = ()  # the same of false_text
    others: tuple[tuple[Sample, ...], ...] = ()  # of each row: samples of other global indices; only inside the loader

    def __len__(self) -> int:
        return len(self.text_BT)

    def to(self, device: torch.device | str) -> Batch:
        return _map_tensors(self, lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:  # called by torch's DataLoader
        return _map_tensors(self, lambda t: t.pin_memory())

    def rows(self, index: Tensor) -> Batch:
        """The rows named by `index` [B'], in that order, repeats allowed. Pictures stay as they are."""
        picked = index.tolist()
        return replace(
            self,
            **{name: _pick(getattr(self, name), index) for name in _ROW_TENSORS},
            false_text=None if self.false_text is None else _map_tensors(self.false_text, lambda t: t[index]),
            labels={name: label[index] for name, label in self.labels.items()},
            **{name: tuple(getattr(self, name)[i] for i in picked) if getattr(self, name) else () for name in _ROW_TUPLES},
        )

    def with_false_text(self, is_false_B: Tensor) -> Batch:
        """The rows that `is_false_B` names with their false text in the place of their own."""
        false, is_false_B1 = self.false_text, is_false_B[:, None]
        assert false is not None
        return replace(
            self,
            text_BT=torch.where(is_false_B1, false.token_BT, self.text_BT),
            text_mask_BT=torch.where(is_false_B1, false.mask_BT, self.text_mask_BT),
            segment_BT=torch.where(is_false_B1, false.segment_BT, self.segment_BT),
            word_BT=torch.where(is_false_B1, false.word_BT, self.word_BT),
            phrases=tuple(
                false if swapped else true
                for swapped, true, false in zip(is_false_B, self.phrases, self.false_phrases or repeat(()), strict=False)
            ),
        )

    @staticmethod
    def stack(parts: Sequence[Batch]) -> Batch:
        """Rows of several batches over the *same* pictures, one after the other.

        A part that lacks a label has IGNORE there, so each objective still averages over its own rows. Counts add up.
        """
        first = parts[0]
        labels = {}
        for name in {name: None for part in parts for name in part.labels}:
            like = next(part.labels[name] for part in parts if name in part.labels)
            labels[name] = torch.cat([part.labels.get(name, like.new_full((len(part), *like.shape[1:]), IGNORE)) for part in parts])
        counts: dict[str, float] = {}
        for part in parts:
            for name, count in part.counts.items():
                counts[name] = counts.get(name, 0.0) + count
        return replace(
            first,
            **{
                name: None if getattr(first, name) is None else torch.cat([getattr(part, name) for part in parts])
                for name in _ROW_TENSORS
            },
            false_text=None,
            labels=labels,
            counts=counts,
            **{name: sum((getattr(part, name) for part in parts), ()) for name in _ROW_TUPLES},
        )


_ROW_TENSORS = ("text_BT", "text_mask_BT", "segment_BT", "word_BT", "row_B", "image_of_BN", "group_B")
_ROW_TUPLES = ("keys", "samples", "phrases", "false_phrases", "others")


def _pick(tensor: Tensor | None, index: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[index]


def _map_tensors(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same dataclass with `change` applied to every tensor in it, however deep."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, dict):
        return {name: _map_tensors(value, change) for name, value in part.items()}
    if isinstance(part, Batch | Images | Regions | Annotated | Texts):
        return replace(part, **{f.name: _map_tensors(getattr(part, f.name), change) for f in fields(part)})
    return part


# ------------------------------------------------------------------------------------------------- encoded tensors


class Visual(NamedTuple):
    """Pictures as tokens: patches, cells or regions. One row a distinct picture."""

    token_IVD: Tensor
    mask_IV: Tensor
    box_IV4: Tensor  # what each token covers, xyxy in [0, 1]; a whole-image token covers everything

    def mean(self) -> Tensor:
        """[I, D] of each picture's real tokens."""
        mask_IV1 = self.mask_IV[..., None]
        return (self.token_IVD * mask_IV1).sum(1) / mask_IV1.sum(1)


class Fused(NamedTuple):
    """Text and picture(s) of each row after they have seen each other."""

    text_BTD: Tensor
    text_mask_BT: Tensor
    image_BVD: Tensor
    image_mask_BV: Tensor
    image_slot_BV: Tensor  # int64: which of the row's N pictures a visual token belongs to
    box_BV4: Tensor
    pooled_BD: Tensor
    middle_BTD: Tensor | None = None  # the text before the last layer, from encoders that hand it out

    def rows(self, index_R: Tensor) -> Fused:
        """The rows named by `index_R`, in that order."""
        return Fused._make(None if part is None else part[index_R] for part in self)


class Towers(NamedTuple):
    """Two L2-normalised sides (image and text, text and text, two views) and the temperature that divides their cosines."""

    a_BE: Tensor
    b_BE: Tensor
    temperature: Tensor


@dataclass(frozen=True)
class LossTerm:
    """A loss as a sum and a count, so that the trainer can divide by the count over all ranks and micro-steps.

    `count` is on the host and equals what `corrupt` announced in `Batch.counts`; a count of 0 comes with a sum of 0 that
    still has a gradient path. `metrics` are (sum, count) pairs to log: never losses.
    """

    sum: Tensor
    count: float
    weight: float = 1.0
    metrics: Mapping[str, tuple[Tensor | float, float]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ what can be trained


class ParamGroup(NamedTuple):
    """Parameters that share an optimiser and its settings; `train.lr` times `lr_factor` is their rate."""

    params: list[nn.Parameter]
    name: str
    lr_factor: float = 1.0
    weight_decay: bool | float = True  # True: `train.weight_decay`; a number: that one
    optimizer: Literal["adamw", "lamb", "lars", "sgd"] = "adamw"


def by_decay(params: Iterable[nn.Parameter], of: str = "", lr_factor: float = 1.0) -> list[ParamGroup]:
    """Parameters that are trained: those that decay (matrices) and those that don't (biases, norms, vectors)."""
    trained = [p for p in params if p.requires_grad]
    return [
        ParamGroup([p for p in trained if p.ndim > 1], f"{of}matrices", lr_factor),
        ParamGroup([p for p in trained if p.ndim <= 1], f"{of}vectors", lr_factor, weight_decay=False),
    ]


class Trainable(nn.Module):
    """What the training loop drives: a system in pre-training, a task in fine-tuning."""

    negatives: int = 1  # how many samples of other global indices the loader draws beside each sample (`Batch.others`)
    reads_pictures: bool = True  # False: the loader leaves them on the disk

    @classmethod
    def prepare(cls, config: Any, readers: Sequence[Reader], tokenizer: Tokenizer) -> Any:
        """The configuration completed from the training data (answers, class names), so that labels travel with the weights."""
        return config

    def label(self, batch: Batch) -> Batch:
        """In the loader, at training and at evaluation: annotations (`batch.samples`) become label tensors."""
        return batch

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """In the loader, in training only: masks, swaps, samples. Depends on the rows' ids alone, never on the layout."""
        return batch

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """One training step's losses, in the same order of names on every rank."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def param_groups(self) -> list[ParamGroup]:
        """All trainable parameters."""
        return by_decay(self.parameters())

    def after_step(self) -> None:
        """Commit what `forward` staged (dictionaries, queues, momentum encoders). Once per successful optimiser step."""

    def discard_step(self) -> None:
        """Drop what `forward` staged: the step's loss or gradient was not finite."""


class System(Trainable):
    """A paper: encoders, hinge and objectives, all visible in one file."""

    Config: ClassVar[type[Config]]
    purpose: ClassVar[str | tuple[str, ...]] = "pretrain"  # what its readers' samples are for: "documents" need no picture
    practises_on: ClassVar[str] = "scenes"  # which of the embedded data, where none are named
    config: Any  # an instance of its own Config
    reads_regions: ClassVar[bool] = False  # True: its samples bring what a detector saw (--regions STORE)
    taught_by_regions: ClassVar[bool] = False  # True: they do in pre-training alone
    made_in_finetuning: ClassVar[tuple[str, ...]] = ()  # parts that a pre-trained run does not hold

    @classmethod
    def for_task(cls, config: Any, reads: Sequence[str]) -> Any:
        """The configuration with the parts that fine-tuning adds for a task that reads so (`Task.reads`): a hinge on towers."""
        return config

    def see(self, batch: Batch) -> Visual:
        """Encode each distinct picture of the batch once."""
        raise NotImplementedError(f"{type(self).__name__} does not offer `see`")

    def fuse(
        self, batch: Batch, visual: Visual | None = None, read_BT: Tensor | None = None, read_BV: Tensor | None = None
    ) -> Fused:
        """Encode rows jointly. `visual` spares the pictures' encoding where one set of pictures meets many texts.

        `read_BT`: the only text positions whose states will be read, beside [CLS]; with it, `read_BV` ([B, V] or [B, 1]): the only
        visual tokens, none if left out. A system may leave all others at zero. One that reads text alone does just that, so
        that tasks can ask it, too: the control that never sees a picture.
        """
        if type(self).read is System.read:
            raise NotImplementedError(f"{type(self).__name__} does not offer `fuse`")
        return self.read(batch, read_BT)

    def read(self, batch: Batch, read_BT: Tensor | None = None) -> Fused:
        """Encode rows of text alone, pictures or not: no visual tokens come out."""
        raise NotImplementedError(f"{type(self).__name__} does not offer `read`")

    def towers(self, batch: Batch) -> Towers:
        """Pictures (a) and texts (b) of the rows, apart from each other; a is zero in rows without a picture."""
        raise NotImplementedError(f"{type(self).__name__} does not offer `towers`")

    def match(self, fused: Fused) -> Tensor:
        """[B] logit that the text belongs to the picture."""
        raise NotImplementedError(f"{type(self).__name__} does not offer `match`")

    def words(self, x_PD: Tensor) -> Tensor:
        """[P, K] logits of the vocabulary at encoded text positions: the masked-word head."""
        raise NotImplementedError(f"{type(self).__name__} does not offer `words`")


@dataclass(frozen=True)
class Evaluation:
    """What a task found on one split."""

    metrics: dict[str, float]  # official names, in percent where the field says percent
    items: list[dict[str, Any]]  # one a question: key, group, score in [0, 1], and what to break results down by
    predictions: list[Any]  # in the public benchmark's submission format


Offer = Literal["fuse", "read", "see", "towers", "decode", "detect"]


class Task(Trainable):
    """A downstream task on a system: answer space, head, loss, metric, prediction file."""

    Config: ClassVar[type[Config]]
    purpose: ClassVar[str]  # what its readers' samples are for
    reads: ClassVar[tuple[Offer, ...]] = ("fuse",)  # asked of a system: any will do; with "read", texts alone are a control
    fixed: ClassVar[frozenset[str]] = frozenset()  # keys of its Config that its weights are made for: evaluation can't change them
    headline: ClassVar[str] = ""  # what the mean over types of its items' `score` is, in words, and chance
    has_header: ClassVar[bool] = True  # of a table of its predictions: whether the benchmark's begins with the columns' names
    needs_labels: ClassVar[bool] = True  # False: it can be evaluated on a system that was never fine-tuned (zero-shot)
    config: Any  # an instance of its own Config
    system: System

    @property
    def reads_pictures(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.system.reads_pictures

    @classmethod
    def reads_regions(cls, config: Any) -> bool:
        """Whether its samples must bring what a detector saw (--regions STORE), whatever the system reads."""
        return False

    def after_step(self) -> None:
        self.system.after_step()

    def discard_step(self) -> None:
        self.system.discard_step()

    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Predict every row and score it; without gradient, in the order given."""
        raise NotImplementedError(f"{type(self).__name__}.evaluate")


Preset = Callable[[], Recipe]
