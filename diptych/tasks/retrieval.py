"""Image-text retrieval: find the picture of a text among all pictures, and a text of a picture among all texts.

    zero-shot, or after fine-tuning     score of every (picture, text) pair -> ranks -> R@1, 5, 10 both ways
      fusion systems                    the match logit; each picture is encoded once, pairs go through in blocks
      systems with towers               one product of the two sides
      a cascade of both                 towers propose k texts of each picture and k pictures of each text, fusion ranks those
    fine-tuning
      fusion systems (ViLT, sec. 4.1)   one true text and 15 of other samples for a picture -> cross-entropy over 16 match logits
      systems with towers (ALIGN)       the contrast goes on, on the task's pairs

A gallery is a split: its first `data.limit` pictures, with the first `texts` texts of each (five, as the COCO protocol says; some
pictures have more). COCO's "1K" figures are those of folds=5 over the 5,000 test pictures.

What differs from ViLT's code: it fine-tunes a copy of the matching head's "match" row and freezes the head; here the system's own
logit (match against mismatch) goes on learning. Negative texts are drawn by global sample, not from the batch, so a run does not
depend on how batches are laid out. In fine-tuning the system's dropout is on, as there.

The cascade is that of ALBEF (Li et al., NeurIPS 2021) and others, except that there one network proposes and ranks; here any run
of towers proposes. What was not proposed to a query stands behind all that was, in the order that the towers gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import (
    IGNORE,
    ROWS_PER_SAMPLE,
    Batch,
    Evaluation,
    LossTerm,
    Reader,
    Sample,
    System,
    Task,
    Tokenizer,
    Towers,
)
from diptych.data.collate import foreign_texts, texts_of
from diptych.draw import Draw
from diptych.metrics import recall
from diptych.tasks.gallery import Gallery, Shown, all_with_all, some_with_some
from diptych.tasks.recipe import tenth

TOP = 5  # candidates that an item keeps, for galleries


class Proposer(Protocol):
    def __call__(self, shown: Sequence[Sample], texts: Sequence[str]) -> NDArray[np.float32]:
        """[I, C] how well each picture and each text go together, at the price of I + C passes."""
        ...


class Retrieval(Task):
    purpose = "retrieval"
    headline = "R@1, the mean of both ways; chance is one in as many pictures"
    reads = ("fuse", "towers")
    needs_labels = False

    class Config(config.Config):
        kind: Literal["retrieval"] = "retrieval"
        texts: PositiveInt = 5  # of each picture in the gallery
        folds: PositiveInt = 1  # also report the mean over so many galleries, cut from the split
        negatives: PositiveInt = 15  # texts of other samples beside the true one, in fine-tuning
        block: PositiveInt = 1024  # pairs scored at a time
        cascade: str | None = None  # a run of towers that proposes to a system that fuses; in evaluation
        propose: PositiveInt = 20  # how many texts of each picture, and pictures of each text
        full: bool = True  # beside a cascade also score all pairs, to compare

        def build(self, system: System, tokenizer: Tokenizer) -> Retrieval:
            return Retrieval(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        if config.cascade:
            raise UserError("task.cascade is of evaluation alone: diptych evaluate retrieval --set task.cascade=RUN")
        texts = (text for reader in readers for place in range(len(reader)) for text in reader[place].texts)
        first = next(texts, "")
        if all(text == first for text in texts):
            raise UserError(f"retrieval learns from texts that differ, and all of these data say '{first}'")
        return config

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.has_towers = type(system).towers is not System.towers
        self.negatives = system.negatives if self.has_towers else config.negatives
        self.proposer: Proposer | None = None  # of a cascade: handed in by who can load a run

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
        gallery, shown, products = Gallery(), list[Shown](), list[Towers]()
        for batch in batches:
            batch = batch.rows((batch.row_B % ROWS_PER_SAMPLE < self.config.texts).nonzero()[:, 0])
            new_I = gallery.add(batch)
            if self.has_towers:
                products.append(self.system.towers(batch))
            else:
                shown.append(Shown(self.system.see(batch), batch.regions).some(new_I.to(batch.text_BT.device)))
        if not gallery.shown:
            return Evaluation({}, [], [])
        if self.config.folds > len(gallery.shown):
            raise UserError(f"task.folds={self.config.folds}: pictures in the gallery: {len(gallery.shown)}; set at most so many")
        if products:
            return self._scored(gallery, gallery.products(products))
        pictures, texts = Shown.joined(shown), gallery.texts_alone(self.tokenizer.pad_id)
        if self.config.cascade:
            return self._in_cascade(gallery, pictures, texts)
        return self._scored(gallery, all_with_all(self.system, pictures, texts, self.config.block))

    def _scored(self, gallery: Gallery, score_IC: NDArray[np.float32]) -> Evaluation:
        image_of_C, folds = np.array(gallery.image_of), self.config.folds
        metrics = recall.recall(score_IC, image_of_C)
        if folds > 1:
            in_folds = recall.recall_in_folds(score_IC, image_of_C, folds)
            metrics |= {f"{folds} folds/{name}": value for name, value in in_folds.items()}
        return _evaluation(gallery, score_IC, score_IC, metrics)

    def _in_cascade(self, gallery: Gallery, pictures: Shown, texts: Batch) -> Evaluation:
        """The metrics of the cascade by their official names; beside them those of what proposes alone, and of all pairs."""
        if self.proposer is None:
            raise ValueError("task.cascade, and nobody who proposes")
        if self.config.folds > 1:
            raise UserError("task.folds are galleries cut from one table of all pairs, which task.cascade spares: leave one out")
        proposed_IC, image_of_C = self.proposer(gallery.shown, gallery.texts), np.array(gallery.image_of)
        by_image_IC, by_text_IC = (among_best(proposed_IC, self.config.propose, axis) for axis in (1, 0))
        asked_IC = by_image_IC | by_text_IC
        match_IC = np.full(asked_IC.shape, np.nan, np.float32)
        if self.config.full:
            match_IC = all_with_all(self.system, pictures, texts, self.config.block)
        else:
            image_P, text_P = map(torch.from_numpy, asked_IC.nonzero())
            match_IC[asked_IC] = some_with_some(self.system, pictures, texts, image_P, text_P, self.config.block)
        for_texts_IC, for_images_IC = (reranked(match_IC, proposed_IC, is_IC) for is_IC in (by_image_IC, by_text_IC))
        text_rank_I, image_rank_C = recall.ranks(for_texts_IC, image_of_C)[0], recall.ranks(for_images_IC, image_of_C)[1]
        metrics = recall.summary(text_rank_I, image_rank_C) | {"pairs": float(asked_IC.sum())}
        metrics |= {f"proposed/{name}": value for name, value in recall.recall(proposed_IC, image_of_C).items()}
        if self.config.full:
            metrics |= {f"full/{name}": value for name, value in recall.recall(match_IC, image_of_C).items()}
            metrics["full/pairs"] = float(match_IC.size)
        return _evaluation(gallery, for_texts_IC, for_images_IC, metrics)


def among_best(score_IC: NDArray[np.float32], k: int, axis: int) -> NDArray[np.bool_]:
    """Which are among the k best of their row (axis 1) or column (axis 0); of equal ones the first."""
    order_IC = np.argsort(-score_IC, axis=axis, kind="stable")
    chosen_IC = np.zeros(score_IC.shape, bool)
    np.put_along_axis(chosen_IC, order_IC[:, :k] if axis == 1 else order_IC[:k], True, axis)
    return chosen_IC


def reranked(match_IC: NDArray[np.float32], proposed_IC: NDArray[np.float32], asked_IC: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Match logits of what was proposed; all others behind those, in the order in which they would have been."""
    behind = np.nanmin(match_IC[asked_IC]) - 1 - proposed_IC.max()
    return np.where(asked_IC, match_IC, proposed_IC + behind)


def finetuning(recipe: Recipe) -> Recipe:
    """A tenth of the steps, at the same learning rate; in batches a sixteenth as large where each picture meets 16 texts."""
    is_contrast = hasattr(recipe.system, "contrast")
    batch_size = recipe.train.batch_size if is_contrast else max(8, recipe.train.batch_size // 16)
    return tenth(recipe, Retrieval.Config(), batch_size)


def _evaluation(
    gallery: Gallery, for_texts_IC: NDArray[np.float32], for_images_IC: NDArray[np.float32], metrics: dict[str, float]
) -> Evaluation:
    """An item for each query: its rank (1 is best) and the best candidates, over the whole gallery.

    Texts of a picture are looked for by one score, pictures of a text by the other: they differ in a cascade.
    """
    image_of_C = np.array(gallery.image_of)
    text_rank_I, image_rank_C = recall.ranks(for_texts_IC, image_of_C)[0], recall.ranks(for_images_IC, image_of_C)[1]
    keys, groups = ([getattr(sample, name) or sample.key for sample in gallery.shown] for name in ("key", "group"))
    items = []
    for i, rank in enumerate(text_rank_I.tolist()):
        best = np.argsort(-for_texts_IC[i], kind="stable")[:TOP].tolist()
        about = {"key": keys[i], "group": groups[i], "query": keys[i]}
        top = [{"text": gallery.texts[c], "key": keys[gallery.image_of[c]], "score": float(for_texts_IC[i, c])} for c in best]
        items.append(_query("image_to_text", "txt", rank, top) | about)
    place: Counter[int] = Counter()
    for c, rank in enumerate(image_rank_C.tolist()):
        i = gallery.image_of[c]
        best = np.argsort(-for_images_IC[:, c], kind="stable")[:TOP].tolist()
        about = {"key": f"{keys[i]}#{place[i]}", "group": groups[i], "query": gallery.texts[c]}
        place[i] += 1
        top = [{"key": keys[image], "score": float(for_images_IC[image, c])} for image in best]
        items.append(_query("text_to_image", "img", rank, top) | about | {"truth": keys[i]})
    return Evaluation(metrics, items, [{name: item[name] for name in ("type", "key", "top")} for item in items])


def _query(kind: str, name: str, rank: int, top: list[dict[str, Any]]) -> dict[str, Any]:
    scores = {f"{name}_r{k}": float(rank < k) for k in recall.KS}
    return {"type": kind, "rank": rank + 1, "score": scores[f"{name}_r1"], "scores": scores, "top": top}
