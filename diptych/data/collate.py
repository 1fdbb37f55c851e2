"""Samples and their decoded pictures to a `Batch` of rows and indices: the one place where texts become tokens and boxes move.

    samples + pictures --resize, augment--> Images [I]        a row is (one text, the picture(s) of its sample)
                       \\-----tokenize----> text_BT, word_BT   rows of one sample share its pictures' encoding

With `data.pairs` a row of the training is a pair of runs of sentences of the sample's texts (data/pairs.py). Else, in training
`texts_per_image` of a sample's texts are drawn; otherwise every text is a row, in order, and rows of different samples
that show the same picture share it. A row's id is sample_id * ROWS_PER_SAMPLE + the text's place in its sample; every draw
depends on that id or on the sample's, never on what else is in the batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.config import DataConfig, TextConfig, UserError
from diptych.contracts import (
    ROWS_PER_SAMPLE,
    Annotated,
    Batch,
    Detected,
    Encoding,
    Images,
    Phrase,
    Regions,
    Sample,
    Texts,
    Tokenizer,
)
from diptych.data.pairs import Pair, pack
from diptych.data.picture import Box, Pixels, flip, randaugment, resize
from diptych.draw import Draw

NOTHING = Encoding([], [], [])  # in the place of a text that is not there
_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class Collate:
    tokenizer: Tokenizer
    text: TextConfig
    data: DataConfig
    training: bool

    def __call__(
        self,
        samples: Sequence[Sample],
        pictures: Sequence[Sequence[Pixels]],
        sample_ids: Sequence[int],
        draw: Draw,
        others: Sequence[Sequence[Sample]] | None = None,
    ) -> Batch:
        """One batch of `samples`.

        pictures: of each sample, as `picture.decode_sample` gives them. sample_ids: places in the global order of the run.
        others: for each sample a few of other global indices, for negatives; every row keeps them as `batch.others`.
        """
        rows = self._rows(samples, sample_ids, draw)
        row_B = np.array([sample_ids[i] * ROWS_PER_SAMPLE + place for i, place in rows], dtype=np.int64)
        pairs = self._pairs(samples, rows, row_B, draw, others)
        encodings = [true.encoding for true, _ in pairs] if pairs else [self._encode(_text(samples[i], place)) for i, place in rows]
        false, false_phrases = [false.encoding if false else NOTHING for _, false in pairs], ()
        if not pairs:
            false, false_phrases = zip(*self._false_texts(samples, rows, row_B, draw, others), strict=True)
        length = max(len(encoding.ids) for encoding in (*encodings, *false))  # common, so that objectives can swap texts in place
        texts = texts_of(encodings, self.tokenizer.pad_id, length, [true.second for true, _ in pairs])
        false_text = None
        if any(encoding.ids for encoding in false):
            false_text = texts_of(false, self.tokenizer.pad_id, length, [pair.second if pair else 0 for _, pair in pairs])
        images, regions, annotated, image_of_SN = self._see(samples, pictures, sample_ids, draw)
        sample_of_B = torch.tensor([i for i, _ in rows], dtype=torch.int64)
        return Batch(
            text_BT=texts.token_BT,
            text_mask_BT=texts.mask_BT,
            segment_BT=texts.segment_BT,
            word_BT=texts.word_BT,
            row_B=torch.from_numpy(row_B),
            image_of_BN=None if images is None else image_of_SN[sample_of_B],
            images=images,
            regions=regions,
            annotated=annotated,
            false_text=false_text,
            keys=tuple(samples[i].key for i, _ in rows),
            samples=tuple(samples[i] for i, _ in rows),
            phrases=tuple(
                _in_tokens(samples[i].phrases[place], encoding) if samples[i].phrases and not pairs else ()
                for (i, place), encoding in zip(rows, encodings, strict=True)
            ),
            false_phrases=false_phrases if any(false_phrases) else (),
            others=() if others is None else tuple(tuple(others[i]) for i, _ in rows),
        )

    # ------------------------------------------------------------------------------------------------------ texts

    def _rows(self, samples: Sequence[Sample], sample_ids: Sequence[int], draw: Draw) -> list[tuple[int, int]]:
        """(sample, place of its text) of each row; a sample without text is one row of the empty text."""
        count_S = [max(len(sample.texts), 1) for sample in samples]
        if max(count_S) > ROWS_PER_SAMPLE:
            raise ValueError(f"a sample has {max(count_S)} texts; at most {ROWS_PER_SAMPLE} are possible")
        wanted = self.data.texts_per_image if self.training else ROWS_PER_SAMPLE
        if self.training and self.data.pairs:
            return [(i, place) for i in range(len(samples)) for place in range(wanted)]
        lot_ST = draw.uniform("texts", sample_ids, max(count_S)) if max(count_S) > wanted else None
        rows = []
        for i, count in enumerate(count_S):
            places = range(count) if lot_ST is None or count <= wanted else lot_ST[i, :count].argsort()[:wanted].tolist()
            rows += [(i, place) for place in places]
        return rows

    def _pairs(
        self,
        samples: Sequence[Sample],
        rows: Sequence[tuple[int, int]],
        row_B: np.ndarray,
        draw: Draw,
        others: Sequence[Sequence[Sample]] | None,
    ) -> list[tuple[Pair, Pair | None]]:
        """(true, false) pair of each row, or nothing where rows are single texts."""
        if not (self.training and self.data.pairs):
            return []
        most, short = self.text.max_tokens, self.data.pairs.short
        return [
            pack(samples[i], others[i] if others else (), self._encode, most, short, draw.generator("pair", row))
            for (i, _), row in zip(rows, row_B.tolist(), strict=True)
        ]

    def _encode(self, text: str) -> Encoding:
        return self.tokenizer.encode(text, self.text.max_tokens)

    def _false_texts(
        self,
        samples: Sequence[Sample],
        rows: Sequence[tuple[int, int]],
        row_B: np.ndarray,
        draw: Draw,
        others: Sequence[Sequence[Sample]] | None,
    ) -> list[tuple[Encoding, tuple[Phrase, ...]]]:
        """A text for each row that is not true of its picture: the data set's own checked one, or one of another sample.

        Another's where the set has none, and in `data.foreign` of the rows: near texts alone never show what a text about
        something quite different looks like. Where neither is there, the encoding has no tokens at all and the row of
        `Batch.false_text` is masked out. Its phrases are marked as the true one's are, or what is hidden would tell them apart.
        """
        is_foreign_B = draw.uniform("foreign", row_B)[:, 0] < self.data.foreign
        lot_B = draw.uniform("false text", row_B)[:, 0].tolist()
        chosen: list[tuple[Encoding, tuple[Phrase, ...]]] = []
        for (i, place), is_foreign, lot in zip(rows, is_foreign_B.tolist(), lot_B, strict=True):
            sample, phrases = samples[i], ()
            text = sample.false_texts[place] if sample.false_texts and not is_foreign else ""
            if text and sample.phrases:
                phrases = _in_false(sample.texts[place], text, sample.phrases[place])
            if not text and others is not None:
                other, left = next(((one, left) for one in others[i] if (left := _foreign(sample, one))), (sample, []))
                if left:
                    place = left[int(lot * len(left))]
                    text = other.texts[place]
                    phrases = [phrase._replace(box=None) for phrase in other.phrases[place]] if other.phrases else ()
            encoding = self._encode(text) if text else NOTHING
            chosen.append((encoding, _in_tokens(phrases, encoding)))
        return chosen

    # ---------------------------------------------------------------------------------------------------- pictures

    def _see(
        self, samples: Sequence[Sample], pictures: Sequence[Sequence[Pixels]], sample_ids: Sequence[int], draw: Draw
    ) -> tuple[Images | None, Regions | None, Annotated | None, Tensor]:
        """Distinct pictures, what is in them, their annotated boxes, and which of them each sample uses [S, N]."""
        slots = max((len(p) for p in pictures), default=0)
        image_of_SN = torch.full((len(samples), slots), -1, dtype=torch.int64)
        pixels: list[Pixels] = []
        boxes: list[list[Box]] = []
        sizes: list[tuple[int, ...]] = []
        detected: list[Detected] = []
        known: dict[tuple[object, object], int] = {}
        for i, (sample, own) in enumerate(zip(samples, pictures, strict=True)):
            for n, pixel_HW3 in enumerate(own):
                # in training each sample is a draw of its own: sharing would make counts depend on the batch's layout
                key = (i, n) if self.training else (sample.images[n], sample.boxes if n == 0 else ())
                if key not in known:
                    known[key] = len(pixels)
                    resized, moved = self._prepare(sample, n, pixel_HW3, sample_ids[i], draw)
                    pixels.append(resized)
                    boxes.append(moved)
                    sizes.append(pixel_HW3.shape[:2])
                    detected += sample.regions[n : n + 1]
                image_of_SN[i, n] = known[key]
        if not pixels:
            return None, None, None, image_of_SN
        if detected and len(detected) != len(pixels):
            raise UserError(f"{len(pixels) - len(detected)} of {len(pixels)} pictures of a batch come without region features")
        annotated = _annotated(boxes, sizes)
        own = None if annotated is None else Regions(annotated.box_IR4, annotated.mask_IR)
        return _padded(pixels), _detected(detected) if detected else own, annotated, image_of_SN

    def _prepare(self, sample: Sample, n: int, pixel_HW3: Pixels, sample_id: int, draw: Draw) -> tuple[Pixels, list[Box]]:
        """The n-th picture of a sample at its final size, augmented in training, and its boxes in [0, 1]."""
        height, width = pixel_HW3.shape[:2]
        boxes = [_relative(box.xyxy, height, width) for box in sample.boxes] if n == 0 else []
        pixel_HW3 = resize(pixel_HW3, self.data.image)
        augment = self.data.image.augment if self.training else "none"
        if sample.regions and augment != "none":
            raise UserError(f"data.image.augment={augment}: region features were taken from pictures as they are; set it to none")
        match augment:
            case "flip":
                is_flipped = draw.uniform("flip", sample_id)[0, 0] < 0.5
                if is_flipped and not any(_SIDES.search(text) for text in (*sample.texts, *sample.false_texts)):
                    return flip(pixel_HW3, boxes)
            case "randaugment":
                return randaugment(pixel_HW3, boxes, draw.generator(f"randaugment {n}", sample_id))
        return pixel_HW3, boxes


def foreign_texts(sample: Sample, other: Sample) -> list[str]:
    """Texts of another sample that this one does not have: false of its picture, as far as the data can tell."""
    return [other.texts[place] for place in _foreign(sample, other)]


def _foreign(sample: Sample, other: Sample) -> list[int]:
    own = set(sample.texts)
    return [place for place, text in enumerate(other.texts) if text not in own]


def _in_false(true: str, false: str, phrases: Sequence[Phrase]) -> tuple[Phrase, ...]:
    """The same words' spans in a near text; none where words were added or left out."""
    here, there = ([word.span() for word in re.finditer(r"\w+", text)] for text in (true, false))
    if len(here) != len(there):
        return ()
    moved = []
    for phrase in phrases:
        words = [n for n, (start, end) in enumerate(here) if start < phrase.end and end > phrase.start]
        if words:
            moved.append(phrase._replace(start=there[words[0]][0], end=there[words[-1]][1], box=None))
    return tuple(moved)


def texts_of(encodings: Sequence[Encoding], pad_id: int, length: int, second: Sequence[int] = ()) -> Texts:
    """Encodings padded to a common length. `second`: where segment 1 of each begins, if they have one."""
    token_BT = np.full((len(encodings), length), pad_id, dtype=np.int64)
    word_BT = np.full_like(token_BT, -1)
    length_B = np.empty(len(encodings), dtype=np.int64)
    for b, encoding in enumerate(encodings):
        length_B[b] = len(encoding.ids)
        token_BT[b, : len(encoding.ids)] = encoding.ids
        word_BT[b, : len(encoding.ids)] = encoding.words
    mask_BT = np.arange(length) < length_B[:, None]
    is_second_BT = mask_BT & (np.arange(length) >= np.array(second)[:, None]) if second else np.zeros_like(mask_BT)
    return Texts(
        torch.from_numpy(token_BT),
        torch.from_numpy(mask_BT),
        torch.from_numpy(is_second_BT.astype(np.int64)),
        torch.from_numpy(word_BT),
    )


def _text(sample: Sample, place: int) -> str:
    return sample.texts[place] if sample.texts else ""


def _in_tokens(phrases: Sequence[Phrase], encoding: Encoding) -> tuple[Phrase, ...]:
    """Character spans as token spans of whole words; what was cut off with a long text is left out."""
    moved = []
    for phrase in phrases:
        words = {
            w for w, (start, end) in zip(encoding.words, encoding.offsets, strict=True) if start < phrase.end and end > phrase.start
        }
        inside = [t for t, word in enumerate(encoding.words) if word >= 0 and word in words]
        if inside:
            moved.append(phrase._replace(start=inside[0], end=inside[-1] + 1))
    return tuple(moved)


def _relative(xyxy: tuple[float, float, float, float], height: int, width: int) -> Box:
    """Pixels to [0, 1], cut to the picture (published boxes run out of it)."""
    x1, y1, x2, y2 = (min(max(v / side, 0.0), 1.0) for v, side in zip(xyxy, (width, height, width, height), strict=True))
    return x1, y1, x2, y2


def _padded(pixels: Sequence[Pixels]) -> Images:
    height, width = max(p.shape[0] for p in pixels), max(p.shape[1] for p in pixels)
    pixel_I3HW = np.zeros((len(pixels), 3, height, width), dtype=np.uint8)
    mask_IHW = np.zeros((len(pixels), height, width), dtype=bool)
    for i, p in enumerate(pixels):
        pixel_I3HW[i, :, : p.shape[0], : p.shape[1]] = p.transpose(2, 0, 1)
        mask_IHW[i, : p.shape[0], : p.shape[1]] = True
    return Images(torch.from_numpy(pixel_I3HW), torch.from_numpy(mask_IHW))


def _annotated(boxes: Sequence[Sequence[Box]], sizes: Sequence[tuple[int, ...]]) -> Annotated | None:
    """Boxes of each picture, in the order of `Sample.boxes`; one without area is masked out but keeps its place."""
    most = max(len(own) for own in boxes)
    if most == 0:
        return None
    box_IR4 = np.zeros((len(boxes), most, 4), dtype=np.float32)
    for i, own in enumerate(boxes):
        box_IR4[i, : len(own)] = np.array(own, dtype=np.float32).reshape(-1, 4)
    has_area_IR = (box_IR4[..., 2] > box_IR4[..., 0]) & (box_IR4[..., 3] > box_IR4[..., 1])
    return Annotated(torch.from_numpy(box_IR4), torch.from_numpy(has_area_IR), torch.tensor(sizes))


def _detected(pictures: Sequence[Detected]) -> Regions:
    """A detector's boxes of each picture, with features and class scores."""
    widths = {(own.feature_RD.shape[1], own.soft_label_RK.shape[1]) for own in pictures}
    if len(widths) > 1:
        described = " and ".join(f"{width} wide with {classes} classes" for width, classes in sorted(widths))
        raise UserError(f"region features of one batch are {described}: take them from one detector")
    most = max(1, *(len(own.box_R4) for own in pictures))

    def padded(parts: Sequence[np.ndarray]) -> Tensor:
        whole = np.zeros((len(parts), most, parts[0].shape[1]), dtype=np.float32)
        for i, part in enumerate(parts):
            whole[i, : len(part)] = part
        return torch.from_numpy(whole)

    box_IR4, feature_IRD, soft_label_IRK = (padded(parts) for parts in zip(*pictures, strict=True))
    count_I = torch.tensor([len(own.box_R4) for own in pictures])
    return Regions(box_IR4, torch.arange(most) < count_I[:, None], feature_IRD, soft_label_IRK)
