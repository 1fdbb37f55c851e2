"""Detection: find the annotated things; scored by COCO's average precision (metrics/average_precision.py).

    picture -> system.detect -> boxes with class probabilities -> of each box its likeliest class and how sure that is

    AP, AP50, AP75     mean over the classes annotated in the split; one that training never met cannot be found, and counts 0
    AP50_any           boxes alone, whatever they are called
    found              mean over pictures with n things of the share of these that its n surest boxes find (overlap .5, right class)

It needs no fine-tuning on a system that was trained to find things. Fine-tuning goes on with that objective alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import Batch, Evaluation, LossTerm, Reader, Regions, Sample, System, Task, Tokenizer
from diptych.data.picture import upright_size
from diptych.metrics.average_precision import Detection, Truth, average_precision, coco, overlap
from diptych.tasks.coco_results import bbox, image_id


@runtime_checkable
class Detects(Protocol):
    """A system that finds things, each with a probability of every class, "background" first."""

    @property
    def region_classes(self) -> tuple[str, ...]: ...

    def detect(self, batch: Batch) -> Regions: ...


@runtime_checkable
class Learns(Protocol):
    """And whose losses of it are its own, apart from what else it learns."""

    def label(self, batch: Batch) -> Batch: ...

    def finding(self, batch: Batch) -> dict[str, LossTerm]: ...


class DetectionTask(Task):
    purpose = "retrieval"  # whole pictures, each once; their boxes come with them
    reads = ("detect",)
    needs_labels = False

    class Config(config.Config):
        kind: Literal["detection"] = "detection"

        def build(self, system: System, tokenizer: Tokenizer) -> DetectionTask:
            return DetectionTask(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        if not any(reader[i].boxes for reader in readers for i in range(len(reader))):
            raise UserError("detection learns from boxes, and the training data have none")
        return config

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        if not isinstance(system, Detects):
            raise UserError(f"{type(system).__name__} finds nothing; `diptych list systems` shows which do: detect")
        self.config, self.system = config, system
        self.detector: Detects = system
        self._class_of = {name: k for k, name in enumerate(system.region_classes)}

    # --------------------------------------------------------------------------------------------------- training

    def label(self, batch: Batch) -> Batch:
        return self.system.label(batch) if isinstance(self.system, Learns) else batch

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        if not isinstance(self.system, Learns):
            raise UserError(f"{type(self.system).__name__} learns to detect by pre-training: give it this data there")
        return self.system.finding(batch)

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """In percent. Predictions are COCO's results, with the classes' names beside."""
        detections: list[Detection] = []
        truths: list[Truth] = []
        items: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        class_of, classes = dict(self._class_of), self.detector.region_classes
        for batch in batches:
            if batch.images is None or batch.image_of_BN is None:
                raise UserError("detection needs pictures, and this data set has texts only")
            place_B = batch.image_of_BN[:, 0].tolist()
            sample_of = dict(zip(reversed(place_B), reversed(batch.samples), strict=True))  # the first row of each picture
            found = self.detector.detect(batch)
            assert found.soft_label_IRK is not None
            score_IR, class_IR = (part.cpu().numpy() for part in found.soft_label_IRK[..., 1:].float().max(-1))
            mask_IR, box_IR4 = found.mask_IR.cpu().numpy(), found.box_IR4.float().cpu().numpy()
            for i in range(len(batch.images.pixel_I3HW)):
                sample, is_there_R = sample_of[i], mask_IR[i]
                order_R = np.argsort(-score_IR[i][is_there_R], kind="stable")
                one = Detection(*(part[i][is_there_R][order_R] for part in (box_IR4, class_IR + 1, score_IR)))
                true_R = np.zeros(0, np.int64) if batch.regions is None else batch.regions.mask_IR[i].cpu().numpy().nonzero()[0]
                names = [sample.boxes[r].name for r in true_R]
                true_R4 = np.zeros((0, 4)) if batch.regions is None else batch.regions.box_IR4[i].cpu().numpy()[true_R]
                truth = Truth(true_R4, [class_of.setdefault(name, len(class_of)) for name in names])
                detections.append(one)
                truths.append(truth)
                if names:
                    share = _found(one, truth)
                    about = {"key": sample.key, "group": sample.group or sample.key, "type": "picture"}
                    items.append(about | {"score": share, "scores": {"found": share}})
                predictions += _results(sample, one, classes)
        if not items:
            return Evaluation({}, [], predictions)
        any_detections = [one._replace(class_R=np.zeros_like(one.class_R)) for one in detections]
        any_truths = [truth._replace(class_R=np.zeros_like(truth.class_R)) for truth in truths]
        metrics = coco(detections, truths) | {"AP50_any": average_precision(any_detections, any_truths)}
        return Evaluation(metrics | {"found": 100 * sum(item["score"] for item in items) / len(items)}, items, predictions)


def _results(sample: Sample, detection: Detection, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A picture's entries in COCO's result file; the data set may not number a class, and has its name then."""
    number_of = sample.labels.get("category_ids", {})
    size = upright_size(sample.images[0])
    if size is None:  # a grey square has stood in its place, and has no pixels to point at
        return []
    xyxy_R4 = np.asarray(detection.box_R4, np.float64) * (size * 2)
    return [
        {
            "image_id": image_id(sample.key),
            "category_id": number_of.get(classes[place]),
            "category": classes[place],
            "bbox": bbox(xyxy),
            "score": score,
        }
        for xyxy, place, score in zip(xyxy_R4.tolist(), *(np.asarray(p).tolist() for p in detection[1:]), strict=True)
    ]


def _found(detection: Detection, truth: Truth) -> float:
    """The share of a picture's n things that its n surest boxes find, each box one thing."""
    true_S4, class_S = np.asarray(truth.box_R4, np.float64), np.asarray(truth.class_R)
    box_R4, class_R = (np.asarray(part)[: len(class_S)] for part in (detection.box_R4, detection.class_R))
    overlap_RS = overlap(box_R4.astype(np.float64), true_S4) * (class_R[:, None] == class_S)
    free_S = np.ones(len(class_S), np.bool_)
    for overlap_S in overlap_RS:
        best = int(np.argmax(overlap_S * free_S))
        if free_S[best] and overlap_S[best] >= 0.5:
            free_S[best] = False
    return float((~free_S).mean())


def finetuning(recipe: Recipe) -> Recipe:
    """A tenth of the steps at a tenth of the rate, with nothing frozen."""
    train = recipe.train.model_copy(update={"freeze": (), "steps": max(recipe.train.steps // 10, 1), "lr": recipe.train.lr / 10})
    return recipe.model_copy(update={"task": DetectionTask.Config(), "train": train})
