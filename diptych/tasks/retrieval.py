"""Image-text retrieval: find the picture of a text among all pictures, and a text of a picture among all texts.

    zero-shot, or after fine-tuning     score of every (picture, text) pair -> ranks -> R@1, 5, 10 both ways
      fusion systems                    the match logit; each picture is encoded once, pairs go through in blocks
      systems with towers               one product of the two sides
    fine-tuning
      fusion systems (ViLT, sec. 4.1)   one true text and 15 of other samples for a picture -> cross-entropy over 16 match logits
      systems with towers (ALIGN)       the contrast goes on, on the task's pairs

A gallery is a split: its first `data.limit` pictures, with the first `texts` texts of each (five, as the COCO protocol says; some
pictures have more). COCO's "1K" figures are those of folds=5 over the 5,000 test pictures.

What differs from ViLT's code: it fine-tunes a copy of the matching head's "match" row and freezes the head; here the system's own
logit (match against mismatch) goes on learning. Negative texts are drawn by global sample, not from the batch, so a run does not
depend on how batches are laid out. In fine-tuning the system's dropout is on, as there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import IGNORE, ROWS_PER_SAMPLE, Batch, Evaluation, LossTerm, Regions, System, Task, Tokenizer, Towers, Visual
from diptych.data.collate import foreign_texts, texts_of
from diptych.draw import Draw
from diptych.metrics import recall
from diptych.tasks.recipe import tenth

TOP = 5  # candidates that an item keeps, for galleries


class Retrieval(Task):
    purpose = "retrieval"
    reads = ("fuse", "towers")
    needs_labels = False

    class Config(config.Config):
        kind: Literal["retrieval"] = "retrieval"
        texts: PositiveInt = 5  # of each picture in the gallery
        folds: PositiveInt = 1  # also report the mean over so many galleries, cut from the split
        negatives: PositiveInt = 15  # texts of other samples beside the true one, in fine-tuning
        block: PositiveInt = 1024  # pairs scored at a time

        def build(self, system: System, tokenizer: Tokenizer) -> Retrieval:
            return Retrieval(self, system, tokenizer)

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.has_towers = type(system).towers is not System.towers
        self.negatives = system.negatives if self.has_towers else config.negatives

    # --------------------------------------------------------------------------------------------------- training

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Each row becomes a group: its own text first, then one of each other sample. Towers contrast the batch as it is.

        Where that has no other text, the own text fills the place and its label asks nothing; a group of only such is not counted.
        """
        if self.has_towers:
            return self.system.corrupt(batch, draw)
        wide = 1 + self.config.negatives
        if any(len(others) < self.config.negatives for others in batch.others) or not batch.others:
            raise UserError("retrieval needs texts of other samples: fine-tune on at least two samples")
        lot_BN = draw.uniform("retrieval/negative", batch.row_B.numpy(), self.config.negatives)
        texts, is_asked = [], []
        for b, sample in enumerate(batch.samples):
            own = sample.texts[int(batch.row_B[b]) % ROWS_PER_SAMPLE]
            for lot, other in zip(lot_BN[b], batch.others[b], strict=False):
                foreign = foreign_texts(sample, other)
                texts.append(foreign[int(lot * len(foreign))] if foreign else own)
                is_asked.append(bool(foreign))
        encodings = [self.tokenizer.encode(text, self.system.config.text.positions) for text in texts]
        length = max(batch.text_BT.shape[1], *(len(encoding.ids) for encoding in encodings))
        negative = texts_of(encodings, self.tokenizer.pad_id, length)

        def beside(true_BT: Tensor, false_MT: Tensor, pad: int) -> Tensor:
            true_B1T = F.pad(true_BT, (0, length - true_BT.shape[1]), value=pad)[:, None]
            return torch.cat([true_B1T, false_MT.unflatten(0, (len(batch), wide - 1))], 1).flatten(0, 1)

        label_BG = torch.where(torch.tensor(is_asked).view(len(batch), -1), 0, IGNORE)
        return replace(
            batch.rows(torch.arange(len(batch)).repeat_interleave(wide)),
            text_BT=beside(batch.text_BT, negative.token_BT, self.tokenizer.pad_id),
            text_mask_BT=beside(batch.text_mask_BT, negative.mask_BT, 0),
            segment_BT=beside(batch.segment_BT, negative.segment_BT, 0),
            word_BT=beside(batch.word_BT, negative.word_BT, -1),
            group_B=torch.arange(len(batch)).repeat_interleave(wide),
            false_text=None,
            phrases=(),
            labels={"retrieval": F.pad(label_BG, (1, 0), value=1).flatten()},
            counts={**batch.counts, "retrieval": float((label_BG != IGNORE).any(1).sum())},
        )

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        if self.has_towers:
            return self.system(batch)
        wide = 1 + self.config.negatives
        label_GN = batch.labels["retrieval"].unflatten(0, (-1, wide))
        logit_GN = (
            self.system.match(self.system.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT)))
            .float()
            .unflatten(0, (-1, wide))
        )
        logit_GN = logit_GN.masked_fill(label_GN == IGNORE, -torch.inf)
        true_G = torch.zeros(len(logit_GN), dtype=torch.int64, device=logit_GN.device)
        right = ((logit_GN.detach().argmax(1) == 0) & (label_GN == 0).any(1)).sum()
        count = batch.counts["retrieval"]
        return {
            "retrieval": LossTerm(F.cross_entropy(logit_GN, true_G, reduction="sum"), count, metrics={"accuracy": (right, count)})
        }

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Recall in percent, by official names: txt_ for finding texts, img_ for finding pictures."""
        gallery = _Gallery()
        pictures: list[Visual] = []
        seen: list[Regions] = []
        products: list[Towers] = []
        for batch in batches:
            batch = batch.rows((batch.row_B % ROWS_PER_SAMPLE < self.config.texts).nonzero()[:, 0])
            gallery.add(batch)
            if self.has_towers:
                products.append(self.system.towers(batch))
            else:
                pictures.append(self.system.see(batch))
                seen += [batch.regions] if batch.regions else []
        if not gallery.keys:
            return Evaluation({}, [], [])
        score_IC = (
            gallery.products(products)
            if products
            else self._matches(_joined(pictures), _labels(seen, len(pictures)), gallery.rows(self.tokenizer.pad_id))
        )
        image_of_C = np.array(gallery.image_of)
        items = _items(gallery, score_IC, image_of_C)
        predictions = [{name: item[name] for name in ("type", "key", "top")} for item in items]
        metrics, folds = recall.recall(score_IC, image_of_C), self.config.folds
        if folds > 1:
            in_folds = recall.recall_in_folds(score_IC, image_of_C, folds)
            metrics |= {f"{folds} folds/{name}": value for name, value in in_folds.items()}
        return Evaluation(metrics, items, predictions)

    def _matches(self, visual: Visual, regions: Regions | None, texts: Batch) -> NDArray[np.float32]:
        """[I, C] match logits: blocks of pictures by blocks of texts, the texts of a block of about one length."""
        images, captions = len(visual.token_IVD), len(texts)
        score_IC = torch.empty(images, captions)
        tall = min(images, max(1, int(self.config.block**0.5)))  # pictures of a block
        for column_C in texts.text_mask_BT.sum(1).argsort().split(max(1, self.config.block // tall)):
            some = _cut(texts.rows(column_C))
            for start in range(0, images, tall):
                part = Visual(*(tensor[start : start + tall] for tensor in visual))
                whose = _of_pictures(regions, slice(start, start + tall))
                score_IC[start : start + tall, column_C.cpu()] = self._match(part, whose, some).cpu()
        return score_IC.numpy()

    def _match(self, visual: Visual, regions: Regions | None, texts: Batch) -> Tensor:
        """[P, C] of every one of some pictures with every one of some texts."""
        images, device = len(visual.token_IVD), texts.text_BT.device
        pairs = replace(
            texts.rows(torch.arange(len(texts), device=device).repeat(images)),
            image_of_BN=torch.arange(images, device=device).repeat_interleave(len(texts))[:, None],
            regions=regions,
        )
        return self.system.match(self.system.fuse(pairs, visual)).float().view(images, len(texts))


def finetuning(recipe: Recipe) -> Recipe:
    """A tenth of the steps, at the same learning rate; in batches a sixteenth as large where each picture meets 16 texts."""
    is_contrast = hasattr(recipe.system, "contrast")
    batch_size = recipe.train.batch_size if is_contrast else max(8, recipe.train.batch_size // 16)
    return tenth(recipe, Retrieval.Config(), batch_size)


@dataclass
class _Gallery:
    """All pictures (by key) and texts of a split, and which picture each text describes."""

    keys: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    image_of: list[int] = field(default_factory=list)
    parts: list[Batch] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        if batch.image_of_BN is None or batch.images is None:
            raise UserError("retrieval needs pictures, and this data set has texts only")
        before, place_B = len(self.keys), batch.image_of_BN[:, 0].tolist()
        sample_of = dict(zip(reversed(place_B), reversed(batch.samples), strict=True))  # the first row of each picture
        shown = [sample_of[place] for place in range(len(batch.images.pixel_I3HW))]
        self.keys += [sample.key for sample in shown]
        self.groups += [sample.group or sample.key for sample in shown]
        self.image_of += [before + place for place in place_B]
        self.texts += [sample.texts[row % ROWS_PER_SAMPLE] for sample, row in zip(batch.samples, batch.row_B.tolist(), strict=True)]
        self.parts.append(Batch(batch.text_BT, batch.text_mask_BT, batch.segment_BT, batch.word_BT, batch.row_B))

    def rows(self, pad_id: int) -> Batch:
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
        a_IE = a_CE[torch.tensor([first[image] for image in range(len(self.keys))], device=a_CE.device)]
        return (a_IE @ b_CE.T).float().cpu().numpy()


def _joined(parts: Sequence[Visual]) -> Visual:
    """Encoded pictures of several batches, padded to the most tokens."""
    return Visual(*(_padded([part[n] for part in parts]) for n in range(3)))


def _labels(parts: Sequence[Regions], batches: int) -> Regions | None:
    """What a detector saw in the pictures of all batches, but for the features: those are in the encoded pictures."""
    if len(parts) < batches or any(part.soft_label_IRK is None for part in parts):
        return None
    labels = [part.soft_label_IRK for part in parts if part.soft_label_IRK is not None]
    return Regions(
        _padded([part.box_IR4 for part in parts]), _padded([part.mask_IR for part in parts]), soft_label_IRK=_padded(labels)
    )


def _of_pictures(regions: Regions | None, some: slice) -> Regions | None:
    if regions is None or regions.soft_label_IRK is None:
        return None
    return Regions(regions.box_IR4[some], regions.mask_IR[some], soft_label_IRK=regions.soft_label_IRK[some])


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, dimension 1 as long as the longest; False and zero in the padding."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0) * (part.ndim - 2) + (0, most - part.shape[1])) for part in parts])


def _cut(texts: Batch) -> Batch:
    """Without columns that are padding in every row."""
    longest = int(texts.text_mask_BT.sum(1).max())
    return replace(
        texts, **{name: getattr(texts, name)[:, :longest] for name in ("text_BT", "text_mask_BT", "segment_BT", "word_BT")}
    )


def _items(gallery: _Gallery, score_IC: NDArray[np.float32], image_of_C: NDArray[np.int64]) -> list[dict[str, Any]]:
    """One for each query: its rank (1 is best) and the best candidates, over the whole gallery."""
    text_rank_I, image_rank_C = recall.ranks(score_IC, image_of_C)
    items = []
    for i, rank in enumerate(text_rank_I.tolist()):
        best = np.argsort(-score_IC[i], kind="stable")[:TOP].tolist()
        about = {"key": gallery.keys[i], "group": gallery.groups[i], "query": gallery.keys[i]}
        top = [{"text": gallery.texts[c], "key": gallery.keys[gallery.image_of[c]], "score": float(score_IC[i, c])} for c in best]
        items.append(_query("image_to_text", "txt", rank, top) | about)
    place: Counter[int] = Counter()
    for c, rank in enumerate(image_rank_C.tolist()):
        i = gallery.image_of[c]
        best = np.argsort(-score_IC[:, c], kind="stable")[:TOP].tolist()
        about = {"key": f"{gallery.keys[i]}#{place[i]}", "group": gallery.groups[i], "query": gallery.texts[c]}
        place[i] += 1
        top = [{"key": gallery.keys[image], "score": float(score_IC[image, c])} for image in best]
        items.append(_query("text_to_image", "img", rank, top) | about | {"truth": gallery.keys[i]})
    return items


def _query(kind: str, name: str, rank: int, top: list[dict[str, Any]]) -> dict[str, Any]:
    scores = {f"{name}_r{k}": float(rank < k) for k in recall.KS}
    return {"type": kind, "rank": rank + 1, "score": scores[f"{name}_r1"], "scores": scores, "top": top}
