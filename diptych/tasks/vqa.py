"""Visual question answering: a picture, a question, an answer of few words (VQA v2, Goyal et al., CVPR 2017).

    classifier   fused question + picture -> pooled -> Linear - LayerNorm - GELU - Linear -> a logit for each known answer
    cloze        "is the dog red? [MASK]" -> fused -> the system's own masked-word head, restricted to the answer words

The classifier is ViLT's (section 4.1 there): binary cross-entropy against soft targets (0, .3, .6, .9, 1 for 0, 1, 2, 3, 4 or more
of ten annotators), summed over answers. The cloze head brings no new parameter: what pre-training learnt of words answers before
any label is seen, so few labels do; answers must be single tokens of the vocabulary. Its loss is the cross-entropy against the
same targets, scaled to a sum of 1.

The answers are those of the training questions, normalised as the official scorer does, and given at least `min_count` times
(9 in papers: 3,129 answers of train and val). They are part of the configuration, so they travel with the weights. What differs
from ViLT's code: answers are looked up normalised (it misses some), and in a fixed order (its own depends on the run).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import IGNORE, Batch, Evaluation, LossTerm, ParamGroup, Reader, Sample, System, Task, Tokenizer, by_decay
from diptych.metrics import vqa_accuracy
from diptych.nn.head import MLP
from diptych.tasks.recipe import tenth
from diptych.tasks.withhold import withheld

MANY = 100_000  # questions from which on answers may be rare enough to leave out


class VQA(Task):
    purpose = "vqa"
    headline = "accuracy, the mean over types of questions"
    reads = ("fuse", "read")
    fixed = frozenset({"head", "answers", "min_count"})
    predicts, allowed = ("question_id", "answer"), ()
    _token_K: Tensor

    class Config(config.Config):
        kind: Literal["vqa"] = "vqa"
        head: Literal["classifier", "cloze"] = "classifier"
        answers: tuple[str, ...] = Field(default=(), repr=False)  # taken from the training questions where empty
        min_count: PositiveInt | None = None  # None: 9, as published, from 100,000 questions on; 1 below, where none can be spared
        head_lr: PositiveFloat = 10.0  # learning rate of the classifier's parameters, times train.lr
        withhold: Literal["none", "picture", "question"] = "none"  # a control: grey pictures, or empty questions

        def build(self, system: System, tokenizer: Tokenizer) -> VQA:
            return VQA(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        asked = sum(len(reader) for reader in readers)
        if config.answers:
            known = set(config.answers)
            if not any(known & targets(reader[i]).keys() for reader in readers for i in range(len(reader))):
                raise UserError(f"task.answers: none of them answers any of the {asked} training questions")
            return config
        floor = config.min_count or (9 if asked >= MANY else 1)
        count = Counter(
            vqa_accuracy.normalised(sample.labels["answer"])
            for reader in readers
            for sample in (reader[i] for i in range(len(reader)))
            if "answer" in sample.labels
        )
        if not count:
            raise UserError(f"none of the {asked} training questions has an answer to learn from")
        if not any(count):
            raise UserError(
                f"all answers of the {asked} training questions are articles or punctuation, which the score leaves out"
            )
        answers = tuple(sorted((answer for answer, n in count.items() if n >= floor and answer), key=lambda a: (-count[a], a)))
        if not answers:
            raise UserError(f"task.min_count={floor}: no answer of the {asked} training questions was given so often; lower it")
        return config.model_copy(update={"answers": answers})

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        if not config.answers:
            raise UserError("task.answers is empty: fine-tuning fills it from the training questions")
        self.config, self.system = config, system
        self._place = {answer: k for k, answer in enumerate(config.answers)}
        self._tokenizer = tokenizer
        if config.head == "classifier":
            width = system.config.width
            self.head = MLP(width, 2 * width, len(config.answers))
        else:
            if type(system).words is System.words:
                raise UserError(f"task.head=cloze needs a masked-word head, and {type(system).__name__} has none: set classifier")
            self.head = None
            self.register_buffer("_token_K", torch.tensor(_single_tokens(config.answers, tokenizer)), persistent=False)

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """Soft targets, IGNORE in rows that ask nothing; for the cloze, a [MASK] behind each question.

        A control loses its picture or its question here, in training and in evaluation.
        """
        what = "text" if self.config.withhold == "question" else self.config.withhold
        batch = withheld(batch, what, self._tokenizer)
        target_BK = torch.zeros(len(batch), len(self.config.answers))
        for target_K, sample in zip(target_BK, batch.samples, strict=True):
            for answer, target in targets(sample).items():
                if answer in self._place:
                    target_K[self._place[answer]] = target
            # without public answers nothing is asked; nor where a cross-entropy has no known answer to point at
            if "answers" not in sample.labels or (self.head is None and not target_K.any()):
                target_K.fill_(IGNORE)
        asked = (target_BK[:, 0] != IGNORE).sum()
        batch = replace(batch, labels={**batch.labels, "vqa": target_BK}, counts={**batch.counts, "vqa": float(asked)})
        return batch if self.head is not None else self._with_mask(batch)

    def _with_mask(self, batch: Batch) -> Batch:
        """[CLS] question [MASK] [SEP]; where the text is as long as the system can read, its last token makes room."""
        length_B = batch.text_mask_BT.sum(1)
        grown = min(int(length_B.max()) + 1, max(self.system.config.text.positions, int(length_B.max())))
        more = max(grown - batch.text_BT.shape[1], 0)
        mask_at_B = torch.minimum(length_B - 1, torch.tensor(grown - 2))

        def put(tensor_BT: Tensor, pad: int, at_mask: int, at_end: int) -> Tensor:
            tensor_BT = F.pad(tensor_BT, (0, more), value=pad)
            tensor_BT = tensor_BT.scatter(1, mask_at_B[:, None], torch.full_like(mask_at_B, at_mask)[:, None].to(tensor_BT.dtype))
            return tensor_BT.scatter(1, mask_at_B[:, None] + 1, torch.full_like(mask_at_B, at_end)[:, None].to(tensor_BT.dtype))

        return replace(
            batch,
            text_BT=put(batch.text_BT, self._tokenizer.pad_id, self._tokenizer.mask_id, self._tokenizer.sep_id),
            text_mask_BT=put(batch.text_mask_BT, 0, 1, 1),
            segment_BT=put(batch.segment_BT, 0, 0, 0),
            word_BT=put(batch.word_BT, -1, -1, -1),
            false_text=None,  # of another length now, and nothing asks for it
        )

    # --------------------------------------------------------------------------------------------------- training

    def logits(self, batch: Batch) -> Tensor:
        """[B, K] of each known answer."""
        if self.head is not None:
            return self.head(self.system.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT)).pooled_BD).float()
        last_B = batch.text_mask_BT.sum(1) - 2  # [MASK] stands before [SEP]
        is_asked_BT = torch.arange(batch.text_BT.shape[1], device=last_B.device) == last_B[:, None]
        text_BTD = self.system.fuse(batch, read_BT=is_asked_BT).text_BTD
        return self.system.words(text_BTD[is_asked_BT]).float()[:, self._token_K]

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        is_asked_B = batch.labels["vqa"][:, 0] != IGNORE
        logit_PK, target_PK = self.logits(batch)[is_asked_B], batch.labels["vqa"][is_asked_B]
        if self.head is not None:
            loss = F.binary_cross_entropy_with_logits(logit_PK, target_PK, reduction="sum")
        else:
            loss = F.cross_entropy(logit_PK, target_PK / target_PK.sum(1, keepdim=True), reduction="sum")
        right = target_PK.gather(1, logit_PK.detach().argmax(1, keepdim=True)).sum()
        count = batch.counts["vqa"]
        return {"vqa": LossTerm(loss, count, metrics={"accuracy": (right, count)})}

    def param_groups(self) -> list[ParamGroup]:
        if self.head is None:
            return self.system.param_groups()
        return [*self.system.param_groups(), *by_decay(self.head.parameters(), "head ", self.config.head_lr)]

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def answer(self, batch: Batch, top: int = 5) -> list[list[tuple[str, float]]]:
        """The likeliest answers of each row, best first, with their probabilities. The batch has been through `label`."""
        logit_BK = self.logits(batch)
        chance_BK = logit_BK.sigmoid() if self.head is not None else logit_BK.softmax(1)
        best = chance_BK.topk(min(top, chance_BK.shape[1]), dim=1)
        return [
            [(self.config.answers[k], p) for k, p in zip(places, chances, strict=True)]
            for places, chances in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Official accuracy in percent. Questions without public answers are predicted, not scored."""
        items: list[dict[str, Any]] = []
        predictions = []
        for batch in batches:
            for sample, answers in zip(batch.samples, self.answer(batch), strict=True):
                predicted = answers[0][0]
                predictions.append({"question_id": sample.labels.get("question_id", sample.key), "answer": predicted})
                if "answers" in sample.labels:
                    items.append(_item(sample, answers))
        return self.concluded(items, predictions)

    @classmethod
    def judge(cls, sample: Sample, answer: str) -> dict[str, Any] | None:
        return _item(sample, [(answer, 1.0)]) if "answers" in sample.labels else None

    @classmethod
    def concluded(cls, items: list[dict[str, Any]], predictions: list[Any]) -> Evaluation:
        columns = ([item[name] for item in items] for name in ("score", "type", "answer_type", "pair"))
        return Evaluation(vqa_accuracy.summary(*columns) if items else {}, items, predictions)


def targets(sample: Sample) -> dict[str, float]:
    """Answer -> the accuracy it would be given, from the annotators' answers."""
    count = Counter(vqa_accuracy.normalised(answer) for answer in sample.labels.get("answers", ()))
    return {answer: vqa_accuracy.share(n, count.total()) for answer, n in count.items()}


def finetuning(recipe: Recipe) -> Recipe:
    """ViLT's, scaled."""
    return tenth(recipe, VQA.Config())


def _item(sample: Sample, answers: list[tuple[str, float]]) -> dict[str, Any]:
    given = sample.labels["answers"]
    return {
        "key": sample.key,
        "group": sample.group or sample.key,
        "score": vqa_accuracy.accuracy(answers[0][0], given),
        "type": sample.labels.get("question_type", ""),
        "answer_type": sample.labels.get("answer_type", ""),
        "pair": sample.labels.get("pair", ""),
        "question": sample.texts[0],
        "truth": sample.labels.get("answer", given[0]),
        "answer": answers[0][0],
        "top": answers,
    }


def _single_tokens(answers: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    pieces = {answer: tokenizer.ids_of(answer) for answer in answers}
    broken = [answer for answer, ids in pieces.items() if len(ids) != 1 or ids[0] == tokenizer.unk_id]
    if broken:
        shown = ", ".join(f"'{answer}'" for answer in broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise UserError(
            f"task.head=cloze needs answers of one token; {shown} are not: use task.head=classifier or a higher task.min_count"
        )
    return [ids[0] for ids in pieces.values()]
