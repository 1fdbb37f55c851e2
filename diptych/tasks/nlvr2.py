"""NLVR2: is a sentence true of two pictures (Suhr et al., ACL 2019)?

A system reads one text beside one picture; how it comes to read two is a choice (UNITER, section 4 and appendix):

    pair           [text ; 1st picture] -> pooled \\
                                                    joined -> Linear - LayerNorm - GELU - Linear -> false, true      (ViLT, Oscar)
                   [text ; 2nd picture] -> pooled /
    pair-biattn    the same two passes, whose sequences then look at each other and are pooled by a learned weight:
                       a' = ReLU(W [a ; attention of a to b]),  b' likewise;  joined sums of softmax(ReLU(w . a')) a' -> Linear
    triplet        [text ; 1st picture ; 2nd picture] -> pooled -> the first head, half as wide

A picture brings its place with it in every one: the hinge adds an embedding of the row's first or second picture to its tokens
(`system.fusion.pictures=2`). What has been pre-trained with one picture a row knows one place; the second begins as a copy of it,
as in ViLT's code (train/start.py). In the passes of `pair` the other picture's place is empty, and costs nothing.

What differs: the heads of UNITER's pair and triplet are ViLT's here. Its dropout in the bi-attention is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import Batch, Evaluation, Fused, LossTerm, ParamGroup, Reader, Sample, System, Task, Tokenizer, by_decay
from diptych.metrics import consistency
from diptych.nn.attention import multi_head
from diptych.nn.head import MLP
from diptych.nn.transformer import initialise
from diptych.tasks import classify
from diptych.tasks.recipe import tenth
from diptych.tasks.withhold import Withhold, withheld

TRUTHS = ("False", "True")  # as the public files spell them


class NLVR2(Task):
    purpose = "nlvr2"
    headline = "accuracy, the mean over true and false sentences; chance is 50"
    reads = ("fuse", "read")
    fixed = frozenset({"encoding", "heads"})
    predicts, allowed, has_header = ("identifier", "label"), TRUTHS, False

    class Config(config.Config):
        kind: Literal["nlvr2"] = "nlvr2"
        encoding: Literal["pair", "pair-biattn", "triplet"] = "pair"
        heads: PositiveInt = 4  # of pair-biattn's attention; fine-tuning takes as many as the hinge has
        head_lr: PositiveFloat = 10.0  # learning rate of the head's parameters, times train.lr
        withhold: Withhold = "none"  # a control: grey pictures, or empty sentences

        def build(self, system: System, tokenizer: Tokenizer) -> NLVR2:
            return NLVR2(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        classify.refuse_unlabelled("nlvr2", readers)
        return config

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self._tokenizer = config, system, tokenizer
        width = system.config.width
        self.look = None
        match config.encoding:
            case "pair":
                self.head = MLP(2 * width, 2 * width, len(TRUTHS))
            case "pair-biattn":
                self.look = BiAttention(width, config.heads)
                self.head = nn.Linear(2 * width, len(TRUTHS)).apply(initialise)
            case "triplet":
                self.head = MLP(width, 2 * width, len(TRUTHS))

    def label(self, batch: Batch) -> Batch:
        """`nlvr2` [B]: a place in TRUTHS. A control loses its pictures or its sentence here."""
        for sample in batch.samples:
            if self.reads_pictures and len(sample.images) != 2:
                raise UserError(f"nlvr2 compares two pictures, and {sample.key} has {len(sample.images) or 'none'}")
        batch = withheld(batch, self.config.withhold, self._tokenizer)
        return classify.labelled(batch, "nlvr2", {False: 0, True: 1})

    # --------------------------------------------------------------------------------------------------- training

    def logits(self, batch: Batch) -> Tensor:
        """[B, 2]"""
        if self.config.encoding == "triplet":
            return self.head(self.system.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT)).pooled_BD).float()
        both = one_by_one(batch)
        if self.look is None:
            pooled_BD = self.system.fuse(both, read_BT=torch.zeros_like(both.text_mask_BT)).pooled_BD
            return self.head(torch.cat(pooled_BD.chunk(2), 1)).float()
        return self.head(self.look(self.system.fuse(both))).float()

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"nlvr2": classify.loss(self.logits(batch), batch.labels["nlvr2"], batch.counts["nlvr2"])}

    def param_groups(self) -> list[ParamGroup]:
        own = [parameter for name, parameter in self.named_parameters() if not name.startswith("system.")]
        return [*self.system.param_groups(), *by_decay(own, "head ", self.config.head_lr)]

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def compare(self, batch: Batch) -> list[dict[str, float]]:
        """The probability that each row's sentence is false or true. The batch has been through `label`."""
        return [dict(zip(TRUTHS, chances, strict=True)) for chances in self.logits(batch).softmax(1).tolist()]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Accuracy and consistency in percent. In an interval, a sentence's consistency counts once, with its first pair."""
        items: list[dict[str, Any]] = []
        predictions = []
        for batch in batches:
            for sample, chances in zip(batch.samples, self.compare(batch), strict=True):
                predicted = max(chances, key=lambda truth: chances[truth])
                predictions.append({"identifier": sample.labels.get("question_id", sample.key), "label": predicted})
                if "label" in sample.labels:
                    items.append(_item(sample, chances))
        return self.concluded(items, predictions)

    @classmethod
    def judge(cls, sample: Sample, answer: str) -> dict[str, Any] | None:
        return _item(sample, {answer: 1.0}) if "label" in sample.labels else None

    @classmethod
    def concluded(cls, items: list[dict[str, Any]], predictions: list[Any]) -> Evaluation:
        if not items:
            return Evaluation({}, items, predictions)
        sentences = [item["sentence"] for item in items]
        is_right = [item["score"] == 1 for item in items]
        whole = consistency.of_sentences(is_right, sentences)
        for item, sentence in zip(items, sentences, strict=True):
            once = {"consistency": float(whole.pop(sentence))} if sentence in whole else {}
            item["scores"] = {"accuracy": item["score"], **once}
        return Evaluation(consistency.summary(is_right, sentences), items, predictions)


def _item(sample: Sample, chances: Mapping[str, float]) -> dict[str, Any]:
    return {**classify.item(sample, chances), "sentence": sample.labels.get("sentence", sample.key)}


def one_by_one(batch: Batch) -> Batch:
    """Each row twice: all beside their first picture, then all beside their second, each in its place. Texts alone just twice."""
    rows = torch.arange(len(batch), device=batch.text_BT.device)
    if batch.image_of_BN is None:
        return batch.rows(rows.repeat(2))
    first_BN, second_BN = (batch.image_of_BN.clone() for _ in range(2))
    first_BN[:, 1], second_BN[:, 0] = -1, -1
    return replace(batch.rows(rows.repeat(2)), image_of_BN=torch.cat([first_BN, second_BN]))


class BiAttention(nn.Module):
    """Two sequences look at each other and become one vector: UNITER's "pair-biattn"."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise UserError(f"task.heads={heads}: a width of {width} does not split into so many")
        self.heads = heads
        self.query, self.pair, self.out = (
            nn.ModuleList(nn.Linear(width, wide) for _ in range(2)) for wide in (width, 2 * width, width)
        )
        self.mix, self.weigh = nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.apply(initialise)

    def forward(self, fused: Fused) -> Tensor:
        """[B, 2D] of 2B rows, as `one_by_one` lays them."""
        x_BSD = torch.cat([fused.text_BTD, fused.image_BVD], 1)
        mask_BS = torch.cat([fused.text_mask_BT, fused.image_mask_BV], 1)
        x, mask = x_BSD.chunk(2), mask_BS.chunk(2)
        return torch.cat([self._pooled(n, x[n], x[1 - n], mask[n], mask[1 - n]) for n in (0, 1)], 1)

    def _pooled(self, n: int, own_BSD: Tensor, other_BSD: Tensor, mask_BS: Tensor, other_mask_BS: Tensor) -> Tensor:
        key_BSD, value_BSD = self.pair[n](other_BSD).chunk(2, -1)
        looked_BSD = self.out[n](multi_head(self, self.heads, self.query[n](own_BSD), key_BSD, value_BSD, other_mask_BS))
        mixed_BSD = F.relu(self.mix(torch.cat([looked_BSD, own_BSD], -1)))
        score_BS = F.relu(self.weigh(mixed_BSD)[..., 0]).float().masked_fill(~mask_BS, -torch.inf)
        return (score_BS.softmax(1)[:, None].to(mixed_BSD.dtype) @ mixed_BSD)[:, 0]


def finetuning(recipe: Recipe) -> Recipe:
    """ViLT's, scaled, and a hinge with two places for pictures."""
    if (fusion := getattr(recipe.system, "fusion", None)) is None:
        return tenth(recipe, NLVR2.Config())
    system = recipe.system.model_copy(update={"fusion": fusion.model_copy(update={"pictures": 2})})
    return tenth(recipe.model_copy(update={"system": system}), NLVR2.Config(heads=fusion.heads))
