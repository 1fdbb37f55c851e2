"""One class of a few for each row, told by a sample's "label": what visual entailment and NLVR2 have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, LossTerm, Reader, Sample


def refuse_unlabelled(task: str, readers: Sequence[Reader]) -> None:
    if not any("label" in reader[i].labels for reader in readers for i in range(len(reader))):
        raise UserError(f"{task} learns from labels, and the training data have none")


def labelled(batch: Batch, task: str, place_of: Mapping[Any, int]) -> Batch:
    """The place of each row's label under the task's name; IGNORE where there is none."""
    label_B = torch.tensor([place_of.get(sample.labels.get("label"), IGNORE) for sample in batch.samples], dtype=torch.int64)
    count = float((label_B != IGNORE).sum())
    return replace(batch, labels={**batch.labels, task: label_B}, counts={**batch.counts, task: count})


def loss(logit_BK: Tensor, label_B: Tensor, count: float) -> LossTerm:
    """Cross-entropy."""
    right = (logit_BK.detach().argmax(1) == label_B).sum()
    entropy = F.cross_entropy(logit_BK.float(), label_B, reduction="sum", ignore_index=IGNORE)
    return LossTerm(entropy, count, metrics={"accuracy": (right, count)})


def item(sample: Sample, chances: Mapping[str, float]) -> dict[str, Any]:
    """What an evaluation keeps of one labelled row."""
    truth = str(sample.labels["label"])
    top = sorted(chances.items(), key=lambda pair: -pair[1])
    return {
        "key": sample.key,
        "group": sample.group or sample.key,
        "score": float(top[0][0] == truth),
        "type": truth,
        "question": sample.texts[0],
        "truth": truth,
        "answer": top[0][0],
        "top": top,
    }
