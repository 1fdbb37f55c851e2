"""Referring expressions: which thing does a phrase mean? (RefCOCO, RefCOCO+, RefCOCOg)

    picture + phrase -> fuse -> visual tokens x_V, pooled text t
    candidate box    -> hidden = mean over tokens v, weighted by how much of v lies in the box, of ( W x_v + W' (x_v * t) )
                                 + U t + P(where the box is)
                     -> LayerNorm - GELU - Linear -> a logit;  softmax over the picture's candidates

UNITER (section 4) reads a region's own state with a perceptron; here a box is pooled from the tokens under it (nn/box.py), so
that any system that fuses can point: patches, cells or regions. The phrase stands beside (U t, and W', a comparison) because a
hinge without an image stream leaves the picture's tokens untouched by the words. A mean is linear, so tokens are projected before
it is taken: a thousand candidates cost little more than five.

    task.candidates   given       the annotated things of the picture, one of which is meant (UNITER's "ground-truth boxes")
                      detected    what a region store holds of it (--regions), as published models are evaluated
                      windows     boxes of a few sizes and shapes, laid over every picture: for data with nothing but the right box

The loss is UNITER's: cross-entropy over a picture's candidates. The target is the thing itself where it is given, else whatever
overlaps it by more than .5, in equal parts (volta asks each of these by itself, with a binary cross-entropy). A phrase of whose
thing there is no such candidate teaches nothing, and counts as wrong: `reachable` is the share of phrases that have one. Trained
on given boxes, a run may be evaluated on detected ones or windows: `--set task.candidates=...`.

Source of the score: metrics/referring.py, overlap above .5 in pixels of the stored picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import (
    IGNORE,
    ROWS_PER_SAMPLE,
    Annotated,
    Batch,
    Evaluation,
    LossTerm,
    ParamGroup,
    Reader,
    Regions,
    Sample,
    System,
    Task,
    Tokenizer,
    by_decay,
)
from diptych.data.picture import upright_size
from diptych.metrics import referring
from diptych.nn.box import iou, pool
from diptych.nn.place import Place
from diptych.nn.transformer import initialise
from diptych.tasks.coco_results import bbox
from diptych.tasks.recipe import tenth
from diptych.tasks.withhold import Withhold, withheld

NO_CANDIDATE = -1e4  # its logit, as in UNITER: of a picture without any all are equal, not undefined


class BoxScore(nn.Module):
    """A logit for each of some boxes, from the tokens under it."""

    def __init__(self, width: int):
        super().__init__()
        hidden = 2 * width
        self.token = nn.Linear(width, hidden)
        self.both = nn.Linear(width, hidden, bias=False)
        self.text = nn.Linear(width, hidden, bias=False)
        self.place = Place(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.down = nn.Linear(hidden, 1, bias=False)  # a softmax does not see what all candidates have
        self.apply(initialise)

    def forward(self, token_BVD: Tensor, mask_BV: Tensor, covers_BV4: Tensor, text_BD: Tensor, box_BR4: Tensor) -> Tensor:
        text_B1D = text_BD[:, None]
        x_BVH = self.token(token_BVD) + self.both(token_BVD * text_B1D)
        x_BRH = pool(x_BVH, mask_BV, covers_BV4, box_BR4) + self.text(text_B1D) + self.place(box_BR4)
        return self.down(F.gelu(self.norm(x_BRH)))[..., 0].float()


class REC(Task):
    purpose = "rec"
    headline = "how often the right one of the picture's boxes is chosen, the mean over kinds of phrases; chance is one in as many"

    class Config(config.Config):
        kind: Literal["rec"] = "rec"
        candidates: Literal["given", "detected", "windows"] = "given"
        sizes: tuple[PositiveFloat, ...] = (0.18, 0.25, 0.36, 0.51, 0.72)  # of windows: root of the area, in sides of the picture
        shapes: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)  # of windows: width over height, both in sides of the picture
        head_lr: PositiveFloat = 10.0  # learning rate of the head, times train.lr
        withhold: Withhold = "none"  # a control: grey pictures, or no phrase; the candidates stay, and where they lie

        @model_validator(mode="after")
        def _something_to_choose(self) -> REC.Config:
            if self.withhold == "picture" and self.candidates == "detected":
                raise ValueError("withhold=picture takes what a detector saw, and candidates=detected chooses from that")
            return self

        def build(self, system: System, tokenizer: Tokenizer) -> REC:
            return REC(self, system, tokenizer)

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.head = BoxScore(system.config.width)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        """Refuses data that leave nothing to choose."""
        choices = [len(s.boxes) for reader in readers for s in (reader[i] for i in range(len(reader))) if "right" in s.labels]
        if not choices:
            raise UserError("rec learns from phrases whose box is known, and the training data have none")
        if config.candidates == "given" and max(choices) < 2:
            raise UserError(
                "task.candidates=given: the pictures have one box each, so there is nothing to choose from;"
                " --set task.candidates=windows chooses from boxes laid over the picture"
            )
        return config

    @classmethod
    def reads_regions(cls, config: Config) -> bool:
        return config.candidates == "detected"

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """[B, R] the share of each candidate in what is meant; IGNORE in rows that ask nothing or whose thing none meets."""
        batch = withheld(batch, self.config.withhold, self.tokenizer)
        found, there = self._candidates(batch), batch.annotated
        target_BR = torch.full((len(batch), 1 if found is None else found.box_BR4.shape[1]), float(IGNORE))
        for b, sample in enumerate(batch.samples):
            right, image = sample.labels.get("right"), -1 if batch.image_of_BN is None else int(batch.image_of_BN[b, 0])
            if right is None or found is None or there is None or not there.mask_IR[image, right]:
                continue
            if self.config.candidates == "given":
                meant_R = torch.arange(len(target_BR[b])) == right
            else:
                meant_R = (iou(found.box_BR4[b], there.box_IR4[image, right][None])[:, 0] > referring.ENOUGH) & found.mask_BR[b]
            if meant_R.any():
                target_BR[b] = meant_R / meant_R.sum()
        count = float((target_BR[:, 0] != IGNORE).sum())
        return replace(batch, labels={**batch.labels, "rec": target_BR}, counts={**batch.counts, "rec": count})

    def _candidates(self, batch: Batch) -> Candidates | None:
        """Of each row, or nothing where no picture of the batch has any."""
        if batch.image_of_BN is None:
            return None
        if self.config.candidates == "windows":
            return self._everywhere(batch)
        boxes = batch.annotated
        if self.config.candidates == "detected":
            boxes = batch.regions
            if boxes is None or boxes.feature_IRD is None:
                raise UserError("task.candidates=detected: these pictures come without what a detector saw: --regions STORE")
        return None if boxes is None else self._among(batch, boxes)

    @staticmethod
    def _among(batch: Batch, boxes: Annotated | Regions | None) -> Candidates:
        assert boxes is not None and batch.image_of_BN is not None
        picture_B = batch.image_of_BN[:, 0]
        return Candidates(boxes.box_IR4[picture_B], boxes.mask_IR[picture_B])

    def _everywhere(self, batch: Batch) -> Candidates:
        box_BR4 = windows(self.config.sizes, self.config.shapes).to(batch.text_BT.device).expand(len(batch), -1, -1)
        return Candidates(box_BR4, torch.ones_like(box_BR4[..., 0], dtype=torch.bool))

    # --------------------------------------------------------------------------------------------------- training

    def scores(self, batch: Batch, found: Candidates) -> Tensor:
        """[B, R] logits of the candidates."""
        none_BT, all_B1 = torch.zeros_like(batch.text_mask_BT), torch.ones_like(batch.text_mask_BT[:, :1])
        fused = self.system.fuse(batch, read_BT=none_BT, read_BV=all_B1)
        logit_BR = self.head(fused.image_BVD, fused.image_mask_BV, fused.box_BV4, fused.pooled_BD, found.box_BR4)
        return logit_BR.masked_fill(~found.mask_BR, NO_CANDIDATE)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        found, target_BR = self._candidates(batch), batch.labels["rec"]
        if found is None:
            nothing = sum(parameter.sum() * 0 for parameter in self.head.parameters())
            return {"rec": LossTerm(torch.as_tensor(nothing), 0.0, metrics={"accuracy": (0.0, 0.0)})}
        is_asked_B = target_BR[:, 0] != IGNORE
        logit_PR, target_PR = self.scores(batch, found)[is_asked_B], target_BR[is_asked_B]
        loss = F.cross_entropy(logit_PR, target_PR, reduction="sum")
        right = (target_PR.gather(1, logit_PR.detach().argmax(1, keepdim=True)) > 0).sum()
        count = batch.counts["rec"]
        return {"rec": LossTerm(loss, count, metrics={"accuracy": (right, count)})}

    def param_groups(self) -> list[ParamGroup]:
        return [*self.system.param_groups(), *by_decay(self.head.parameters(), "head ", self.config.head_lr)]

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def ground(self, batch: Batch, top: int = 5) -> list[list[Found]]:
        """Where the thing of each row is, likeliest first.

        The candidates of a picture that brings none are what a detector saw, or else windows. Among windows a place is the best of
        those that overlap by more than .5, and as likely as they are together.
        """
        if self.config.candidates == "given" and batch.annotated is None:
            return self._searched(batch, top)
        found = self._candidates(batch)
        if found is None:
            return [[] for _ in range(len(batch))]
        ranked = self._ranked(batch, found)
        return [self._places(one, top) if self.config.candidates == "windows" else one[:top] for one in ranked]

    def _searched(self, batch: Batch, top: int) -> list[list[Found]]:
        """Of pictures that bring no boxes: among what a detector saw, or else among windows."""
        if batch.regions is not None and batch.regions.feature_IRD is not None:
            return [one[:top] for one in self._ranked(batch, self._among(batch, batch.regions))]
        return [self._places(one, top) for one in self._ranked(batch, self._everywhere(batch))]

    def _ranked(self, batch: Batch, found: Candidates) -> list[list[Found]]:
        """Of each row all candidates with their probabilities, best first."""
        chance_BR = self.scores(batch, found).softmax(1)
        order_BR = chance_BR.argsort(dim=1, descending=True, stable=True)
        return [
            [Found(box_R4[r], chance_R[r]) for r in order_R if mask_R[r]]
            for box_R4, mask_R, chance_R, order_R in zip(
                *(part.tolist() for part in (found.box_BR4.float(), found.mask_BR, chance_BR, order_BR)), strict=True
            )
        ]

    @staticmethod
    def _places(ranked: list[Found], top: int) -> list[Found]:
        box_R4, chance_R = torch.tensor([one.box for one in ranked]), torch.tensor([one.probability for one in ranked])
        places = []
        while len(chance_R) and len(places) < top:
            is_here_R = (iou(box_R4[:1], box_R4)[0] > referring.ENOUGH) | (torch.arange(len(chance_R)) == 0)
            places.append(Found(box_R4[0].tolist(), float(chance_R[is_here_R].sum())))
            box_R4, chance_R = box_R4[~is_here_R], chance_R[~is_here_R]
        return sorted(places, key=lambda one: -one.probability)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """In percent. Without a truth a phrase is predicted, not scored."""
        items: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        reachable: list[bool] = []
        for batch in batches:
            for b, ranked in enumerate(self._answered(batch)):
                sample, place = batch.samples[b], int(batch.row_B[b]) % ROWS_PER_SAMPLE
                size = self._size(batch, b)
                boxes = np.round(np.array([one.box for one in ranked]).reshape(-1, 4) * size, 2)  # as annotated, not as in float32
                best = boxes[0] if ranked else np.zeros(4)  # where there is no candidate, nothing is found
                number = sample.labels.get("sent_ids", ())[place : place + 1] or (f"{sample.key}#{place}",)
                about = {"ref_id": sample.labels.get("ref_id", sample.key), "sent_id": number[0]}
                predictions.append(about | {"bbox": bbox(best.tolist())})
                if "right" in sample.labels:
                    truth = np.array(sample.boxes[sample.labels["right"]].xyxy)
                    reachable.append(bool(referring.is_found(boxes, np.tile(truth, (len(boxes), 1))).any()))
                    items.append(_item(sample, place, best, truth, ranked[0].probability if ranked else 0.0))
        if not items:
            return Evaluation({}, items, predictions)
        metrics = {
            "accuracy": 100 * float(np.mean([item["score"] for item in items])),
            "reachable": 100 * float(np.mean(reachable)),
        }
        kinds = sorted({item["type"] for item in items if item["type"]})
        of_kind = {kind: 100 * float(np.mean([i["score"] for i in items if i["type"] == kind])) for kind in kinds}
        return Evaluation(metrics | {f"question_type/{kind}": value for kind, value in of_kind.items()}, items, predictions)

    @staticmethod
    def _size(batch: Batch, b: int) -> np.ndarray:
        """What turns a row's boxes into pixels of the stored picture, which is shrunk on the way where it has no boxes."""
        sample = batch.samples[b]
        if sample.boxes and batch.annotated is not None and batch.image_of_BN is not None:
            height, width = batch.annotated.size_I2[batch.image_of_BN[b, 0]].tolist()
        else:
            # a broken one is reported with the others, and a place in the grey picture that stands for it is no place
            width, height = upright_size(sample.images[0]) or (0, 0)
        return np.array([width, height, width, height])

    def _answered(self, batch: Batch) -> list[list[Found]]:
        """Each row's candidates, best first; a picture without the boxes that others of its batch are given is searched."""
        found = self._candidates(batch)
        ranked = self._ranked(batch, found) if found else [[] for _ in range(len(batch))]
        if self.config.candidates != "given" or all(sample.boxes for sample in batch.samples):
            return ranked
        return [
            own if sample.boxes else searched
            for own, searched, sample in zip(ranked, self._searched(batch, 1), batch.samples, strict=True)
        ]


class Candidates(NamedTuple):
    """Boxes of each row, xyxy in [0, 1]."""

    box_BR4: Tensor
    mask_BR: Tensor


class Found(NamedTuple):
    """A candidate and how likely it is what is meant."""

    box: list[float]  # xyxy in [0, 1]
    probability: float


@cache
def windows(sizes: tuple[float, ...], shapes: tuple[float, ...]) -> Tensor:
    """[R, 4] boxes all over the picture, a third of their side apart: few things overlap none of them by more than .5."""
    found: dict[tuple[float, float, float, float], None] = {}
    for size, shape in product(sizes, shapes):
        width, height = min(size * shape**0.5, 1.0), min(size / shape**0.5, 1.0)
        for x, y in product(*(np.linspace(0, 1 - side, 1 + round((1 - side) / side * 3)).tolist() for side in (width, height))):
            found[x, y, x + width, y + height] = None
    with torch.inference_mode(False):  # it outlives the call, and may be trained with after it was asked with
        return torch.tensor([*found])


def finetuning(recipe: Recipe) -> Recipe:
    """In batches of at most 128 phrases, as UNITER."""
    return tenth(recipe, REC.Config(), min(recipe.train.batch_size, 128))


def _item(sample: Sample, place: int, box_4: np.ndarray, truth_4: np.ndarray, chance: float) -> dict[str, Any]:
    return {
        "key": f"{sample.key}#{place}",
        "group": sample.group or sample.key,
        "type": sample.labels.get("kind", ""),
        "score": float(referring.is_found(box_4, truth_4)[0]),
        "phrase": sample.texts[place],
        "truth": truth_4.tolist(),
        "box": box_4.tolist(),
        "probability": chance,
    }
