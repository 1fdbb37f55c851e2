"""Visual entailment: is a sentence true of a picture, false, or left open (SNLI-VE, Xie et al., 2019)?

    fused sentence + picture -> pooled -> Linear - LayerNorm - GELU - Linear -> entailment, neutral, contradiction

Cross-entropy against the gold label. UNITER (section 4) trains on the shares of its annotators' labels instead; the head is
ViLT's of question answering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from diptych import config
from diptych.config import Recipe
from diptych.contracts import Batch, Evaluation, LossTerm, ParamGroup, Reader, Sample, System, Task, Tokenizer, by_decay
from diptych.data.snli_ve import LABELS
from diptych.metrics.vqa_accuracy import by
from diptych.nn.head import MLP
from diptych.tasks import classify
from diptych.tasks.recipe import tenth
from diptych.tasks.withhold import Withhold, withheld


class VE(Task):
    purpose = "ve"
    headline = "accuracy, the mean over the three labels; chance is 33.3"
    reads = ("fuse", "read")
    predicts, allowed = ("pairID", "gold_label"), LABELS

    class Config(config.Config):
        kind: Literal["ve"] = "ve"
        head_lr: PositiveFloat = 10.0  # learning rate of the classifier's parameters, times train.lr
        withhold: Withhold = "none"  # a control: grey pictures, or empty sentences

        def build(self, system: System, tokenizer: Tokenizer) -> VE:
            return VE(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        classify.refuse_unlabelled("ve", readers)
        return config

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self._tokenizer = config, system, tokenizer
        width = system.config.width
        self.head = MLP(width, 2 * width, len(LABELS))

    def label(self, batch: Batch) -> Batch:
        """`ve` [B]: a place in LABELS. A control loses its picture or its sentence here."""
        batch = withheld(batch, self.config.withhold, self._tokenizer)
        return classify.labelled(batch, "ve", {label: k for k, label in enumerate(LABELS)})

    def logits(self, batch: Batch) -> Tensor:
        """[B, 3]"""
        return self.head(self.system.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT)).pooled_BD).float()

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"ve": classify.loss(self.logits(batch), batch.labels["ve"], batch.counts["ve"])}

    def param_groups(self) -> list[ParamGroup]:
        return [*self.system.param_groups(), *by_decay(self.head.parameters(), "head ", self.config.head_lr)]

    @torch.no_grad()
    def entails(self, batch: Batch) -> list[dict[str, float]]:
        """The probability of each label, row by row. The batch has been through `label`."""
        return [dict(zip(LABELS, chances, strict=True)) for chances in self.logits(batch).softmax(1).tolist()]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Accuracy in percent, over all sentences and over those of each label."""
        items: list[dict[str, Any]] = []
        predictions = []
        for batch in batches:
            for sample, chances in zip(batch.samples, self.entails(batch), strict=True):
                predicted = max(chances, key=lambda label: chances[label])
                predictions.append({"pairID": sample.labels.get("question_id", sample.key), "gold_label": predicted})
                if "label" in sample.labels:
                    items.append(classify.item(sample, chances))
        return self.concluded(items, predictions)

    @classmethod
    def judge(cls, sample: Sample, answer: str) -> dict[str, Any] | None:
        return classify.item(sample, {answer: 1.0}) if "label" in sample.labels else None

    @classmethod
    def concluded(cls, items: list[dict[str, Any]], predictions: list[Any]) -> Evaluation:
        for item in items:
            item["scores"] = {"accuracy": item["score"], item["type"]: item["score"]}
        if not items:
            return Evaluation({}, items, predictions)
        score_Q = np.array([item["score"] for item in items])
        metrics = {"accuracy": 100 * float(score_Q.mean()), **by([item["type"] for item in items], score_Q)}
        return Evaluation(metrics, items, predictions)


def finetuning(recipe: Recipe) -> Recipe:
    return tenth(recipe, VE.Config())
