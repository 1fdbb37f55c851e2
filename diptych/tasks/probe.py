"""What a frozen picture encoder knows: a linear classifier and the nearest neighbours say a picture's label (Wu et al., CVPR 2018).

    picture -> encoder, frozen -> mean of its tokens -> normalise -> Linear -> label                                (linear)
                                                    \\-> cosines with the bank, the training pictures seen last -> vote      (knn)

    vote for a label = sum over the k nearest of the bank with that label of exp(cosine / temperature)

Nothing of the system is trained, not even its batch normalisation's running statistics; `--from SYSTEM:PRESET` probes one with
random weights, the control. The bank is filled while the classifier trains and travels with the weights. Cosines are taken about
the bank's mean: what all pictures share would else drown their differences, above all in an encoder that was not trained.
The classifier's input is batch-normalised, as is usual where encoders of different scales are compared (MAE, appendix A.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config, dist
from diptych.config import Recipe, UserError
from diptych.contracts import IGNORE, Batch, Evaluation, LossTerm, Reader, System, Task, Tokenizer
from diptych.nn import batch_norm
from diptych.nn.batch_norm import BatchNorm
from diptych.nn.exact import exact


class Probe(Task):
    purpose = "probe"
    reads = ("see",)
    fixed = frozenset({"labels"})
    bank_KD: Tensor
    bank_label_K: Tensor
    place: Tensor

    class Config(config.Config):
        kind: Literal["probe"] = "probe"
        labels: tuple[str, ...] = Field(default=(), repr=False)  # taken from the training data where empty
        neighbours: PositiveInt = 20
        temperature: PositiveFloat = 0.07
        bank: PositiveInt = 16_384  # at most so many training pictures

        def build(self, system: System, tokenizer: Tokenizer) -> Probe:
            return Probe(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        if config.labels:
            return config
        labels = {str(s.labels["label"]) for r in readers for s in (r[i] for i in range(len(r))) if "label" in s.labels}
        if len(labels) < 2:
            raise UserError(f"probe needs labelled pictures; the training data has {len(labels)} different labels")
        bank = min(config.bank, sum(map(len, readers)))
        return config.model_copy(update={"labels": tuple(sorted(labels)), "bank": bank})

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        if not config.labels:
            raise UserError("task.labels is empty: training fills it from the data")
        if type(system).see is System.see:
            raise UserError("probe reads pictures, and this system has no encoder for them")
        self.config, self.system = config, system.requires_grad_(False)
        width = system.config.width
        self.norm = BatchNorm(width)
        self.linear = nn.Linear(width, len(config.labels))
        self._place_of = {label: place for place, label in enumerate(config.labels)}
        self.register_buffer("bank_KD", torch.zeros(config.bank, width))
        self.register_buffer("bank_label_K", torch.full((config.bank,), IGNORE))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._staged: list[tuple[Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> Probe:
        super().train(mode)
        self.system.eval()
        return self

    def label(self, batch: Batch) -> Batch:
        """`probe` [B]: the place of the label, IGNORE where training never met it."""
        label_B = torch.tensor([self._place_of.get(str(s.labels.get("label")), IGNORE) for s in batch.samples])
        if batch.image_of_BN is None:
            raise UserError("probe needs pictures, and this data set has texts only")
        label_B = label_B.masked_fill(batch.image_of_BN[:, 0] < 0, IGNORE)
        count = float((label_B != IGNORE).sum())
        return replace(batch, labels={**batch.labels, "probe": label_B}, counts={**batch.counts, "probe": count})

    @torch.no_grad()
    def features(self, batch: Batch) -> Tensor:
        """[B, D]"""
        assert batch.image_of_BN is not None
        return self.system.see(batch).mean().float()[batch.image_of_BN[:, 0]]

    def logits(self, x_BD: Tensor) -> Tensor:
        return self.linear(self.norm(x_BD[:, :, None, None])[:, :, 0, 0])

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        x_BD, label_B = self.features(batch), batch.labels["probe"]
        if self.training:
            self._staged.append((x_BD[label_B != IGNORE], label_B[label_B != IGNORE]))
        logit_BK = self.logits(x_BD).float()
        right = (logit_BK.detach().argmax(1) == label_B).sum()
        loss = F.cross_entropy(logit_BK, label_B, reduction="sum", ignore_index=IGNORE)
        count = batch.counts["probe"]
        return {"probe": LossTerm(loss, count, metrics={"accuracy": (right, count)})}

    @torch.no_grad()
    def after_step(self) -> None:
        batch_norm.commit(self.norm)
        if self._staged:
            x_CD, label_C = (dist.gather_rows(torch.cat(parts))[0] for parts in zip(*self._staged, strict=True))
            size = len(self.bank_KD)
            to_C = ((self.place + torch.arange(len(x_CD), device=x_CD.device)) % size)[-size:]
            self.bank_KD[to_C], self.bank_label_K[to_C] = x_CD[-size:], label_C[-size:]
            self.place.copy_((self.place + len(x_CD)) % size)
            self._staged.clear()

    def discard_step(self) -> None:
        batch_norm.discard(self.norm)
        self._staged.clear()

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Accuracy in percent of the classifier and of the neighbours. A label that training never met counts as missed."""
        items: list[dict[str, Any]] = []
        predictions: list[dict[str, str]] = []
        for batch in batches:
            x_BD = self.features(batch)
            linear_B, knn_B = (score_BK.argmax(1).tolist() for score_BK in (self.logits(x_BD), self.votes(x_BD)))
            asked = zip(batch.samples, batch.labels["probe"].tolist(), linear_B, knn_B, strict=True)
            for sample, label, linear, knn in asked:
                scores = {"linear": float(linear == label), "knn": float(knn == label)}
                about = {"key": sample.key, "group": sample.group or sample.key, "type": "picture"}
                items.append(about | {"score": scores["linear"], "scores": scores})
                predictions.append({"key": sample.key, "linear": self.config.labels[linear], "knn": self.config.labels[knn]})
        if not items:
            return Evaluation({}, [], [])
        metrics = {name: 100 * sum(item["scores"][name] for item in items) / len(items) for name in ("linear", "knn")}
        return Evaluation(metrics, items, predictions)

    def votes(self, x_BD: Tensor) -> Tensor:
        """[B, K] of the nearest pictures of the bank."""
        is_filled_K = self.bank_label_K != IGNORE
        vote_BK = x_BD.new_zeros(len(x_BD), len(self.config.labels))
        if not is_filled_K.any():
            return vote_BK
        bank_KD, label_K = self.bank_KD[is_filled_K], self.bank_label_K[is_filled_K]
        mean_D = bank_KD.mean(0)
        with exact(x_BD):  # in bf16 the nearest of many near ones are not told apart
            cosine_BK = F.normalize(x_BD - mean_D, dim=1) @ F.normalize(bank_KD - mean_D, dim=1).T
        near_BN, place_BN = cosine_BK.topk(min(self.config.neighbours, len(bank_KD)), 1)
        return vote_BK.scatter_add_(1, label_K[place_BN], ((near_BN - 1) / self.config.temperature).exp())


def finetuning(recipe: Recipe) -> Recipe:
    """A linear classifier needs no warm-up, and pictures of the size that the encoder was trained on."""
    train = recipe.train.model_copy(
        update={
            "freeze": (),
            "steps": max(30, min(recipe.train.steps, 1500)),
            "batch_size": max(16, min(recipe.train.batch_size, 128)),
            "lr": 1e-2,
            "warmup": 0.0,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "accumulate": 1,
        }
    )
    return recipe.model_copy(update={"task": Probe.Config(), "train": train})
