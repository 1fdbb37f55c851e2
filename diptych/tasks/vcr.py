"""Visual commonsense reasoning: choose an answer, then the reason for it (VCR, Zellers et al., CVPR 2019).

    Q->A     [CLS] question [SEP] answer [SEP]            a row for each of four answers     \\
                                                                                              pooled -> MLP -> a logit a row,
    QA->R    [CLS] question answer [SEP] rationale [SEP]  a row for each of four rationales  /    softmax over a question's rows

What precedes the first [SEP] is segment 0, the candidate segment 1 (UNITER has a type of its own for each; here a system has
two). Both subtasks are trained together, by the same head, as UNITER's code does; rationales are learnt and
scored beside the right answer (metrics/vcr_accuracy.py). For the leaderboard's file they are also asked beside each wrong one: 20
rows a question. UNITER's second stage of pre-training, on VCR's own texts, is not built here.

References. A text calls a thing by its name and number, "Riley 2" (data/vcr.py), and box number 2 of the picture carries the
number's tag: a learned vector that is added to every visual token, as far as the token lies in the box:

    token_v += sum over boxes n of  (share of v's area inside box n) * tag_n

One mechanism for every kind of system, because every system says what its tokens cover: patches and cells under the box, and
regions of a detector inside it, take the tag before the hinge, where words and tokens meet. It starts as the word vector of the
number, so it says to begin with what the word says. (UNITER and VL-BERT put the annotated boxes themselves among the regions,
which needs their features; MERLOT draws them in colour, which needs pixels.) All boxes of a picture are tagged, whether a text
speaks of them or not: questions about one picture share its encoding. Box `references` + 1 and those behind it have no tag;
published pictures list people first.

With data of your own (data/vcr_jsonl.py) a question may have any number of answers, and no rationales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import (
    IGNORE,
    Batch,
    Encoding,
    Evaluation,
    LossTerm,
    ParamGroup,
    Reader,
    Sample,
    System,
    Task,
    Tokenizer,
    Visual,
    by_decay,
)
from diptych.data.collate import texts_of
from diptych.metrics import vcr_accuracy
from diptych.nn.box import coverage
from diptych.nn.head import MLP
from diptych.tasks.recipe import tenth
from diptych.tasks.withhold import Withhold, withheld

LONGEST = 220  # tokens, as published for UNITER
SUBTASKS = ("answer", "rationale")


class VCRTask(Task):
    purpose = "vcr"
    headline = "Q->AR, the answer and its reason both right; chance is 6.25"
    fixed = frozenset({"references"})

    class Config(config.Config):
        kind: Literal["vcr"] = "vcr"
        max_tokens: int = Field(default=40, ge=8)  # of question, answer and rationale; the longer of the two sides is cut
        references: PositiveInt = 32  # boxes of a picture that have a tag
        head_lr: PositiveFloat = 10.0  # learning rate of the classifier and the tags, times train.lr
        withhold: Withhold = "none"  # a control: grey pictures without tags; or candidates alone, without what they answer
        block: PositiveInt = 256  # rows scored at a time

        def build(self, system: System, tokenizer: Tokenizer) -> VCRTask:
            return VCRTask(self, system, tokenizer)

    @classmethod
    def prepare(cls, config: Config, readers: Sequence[Reader], tokenizer: Tokenizer) -> Config:
        if not any("right" in reader[i].labels for reader in readers for i in range(len(reader))):
            raise UserError("vcr learns from questions whose right answer is known, and the training data have none")
        return config

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self.tokenizer = config, system, tokenizer
        width = system.config.width
        self.head = MLP(width, 2 * width, 1, bias=False)
        self.reference = nn.Embedding(config.references, width)
        with torch.no_grad():
            for n, tag_D in enumerate(self.reference.weight):
                tag_D.copy_(system.text.word.weight[tokenizer.ids_of(str(n + 1))].sum(0))  # pyright: ignore

    # --------------------------------------------------------------------------------------------- in the loader

    def label(self, batch: Batch) -> Batch:
        """A row for each candidate of each thing that is asked, and whether it is right."""
        if self.config.withhold == "picture":
            batch = replace(
                withheld(batch, "picture", self.tokenizer), annotated=None
            )  # where things lie tells of the picture, too
        owner_B, group_B = [], []
        encodings: list[Encoding] = []
        second_B: list[int] = []
        label_B: dict[str, list[int]] = {name: [] for name in SUBTASKS}
        groups = 0
        for b, sample in enumerate(batch.samples):
            for asked in questions(sample):
                query = self._pieces(*asked.query) if self.config.withhold != "text" else []
                for k, candidate in enumerate(asked.candidates):
                    encoding, second = self._joined(query, self._pieces(candidate))
                    encodings.append(encoding)
                    second_B.append(second)
                    owner_B.append(b)
                    group_B.append(groups)
                    for name in SUBTASKS:
                        is_asked = name == asked.subtask and asked.right is not None
                        label_B[name].append(int(k == asked.right) if is_asked else IGNORE)
                groups += 1
        texts = texts_of(encodings, self.tokenizer.pad_id, max(len(e.ids) for e in encodings), second_B)
        rows = batch.rows(torch.tensor(owner_B))
        return replace(
            rows,
            text_BT=texts.token_BT,
            text_mask_BT=texts.mask_BT,
            segment_BT=texts.segment_BT,
            word_BT=texts.word_BT,
            group_B=torch.tensor(group_B),
            false_text=None,
            phrases=(),
            labels={**rows.labels, **{name: torch.tensor(labels) for name, labels in label_B.items()}},
            counts={**batch.counts, **{name: float(labels.count(1)) for name, labels in label_B.items()}},
        )

    def corrupt(self, batch: Batch, draw: Any) -> Batch:
        """Rationales beside wrong answers have no label: training leaves them out."""
        is_asked_B = torch.stack([batch.labels[name] != IGNORE for name in SUBTASKS]).any(0)
        return batch.rows(is_asked_B.nonzero()[:, 0]) if is_asked_B.any() else batch

    def _pieces(self, *texts: str) -> list[tuple[int, int]]:
        """(token, word) of the texts one after the other, without special tokens."""
        pieces: list[tuple[int, int]] = []
        for text in texts:
            found, first = self.tokenizer.encode(text, self.config.max_tokens), 1 + max((word for _, word in pieces), default=-1)
            pieces += [(i, word + first) for i, word in zip(found.ids[1:-1], found.words[1:-1], strict=True)]
        return pieces

    def _joined(self, query: Sequence[tuple[int, int]], candidate: Sequence[tuple[int, int]]) -> tuple[Encoding, int]:
        """[CLS] query [SEP] candidate [SEP], the longer side cut at its end, and where the candidate begins."""
        room = self.config.max_tokens - 3
        keep = min(len(candidate), max(room - len(query), room // 2))
        query, candidate = query[: room - keep], candidate[:keep]
        first = 1 + max((word for _, word in query), default=-1)
        pieces = [(self.tokenizer.cls_id, -1), *query, (self.tokenizer.sep_id, -1)]
        pieces += [*((i, word + first) for i, word in candidate), (self.tokenizer.sep_id, -1)]
        ids, words = zip(*pieces, strict=True)
        return Encoding([*ids], [*words], [(0, 0)] * len(ids)), len(query) + 2

    # --------------------------------------------------------------------------------------------------- training

    def see(self, batch: Batch) -> Visual:
        """The pictures with a tag on whatever lies in a box."""
        visual, there = self.system.see(batch), batch.annotated
        if there is None:  # a parameter that a step leaves out would have no gradient to be summed over ranks
            return visual._replace(token_IVD=visual.token_IVD + 0 * self.reference.weight.sum().to(visual.token_IVD.dtype))
        tags = min(there.box_IR4.shape[1], self.config.references)
        share_IRV = coverage(there.box_IR4[:, :tags], visual.box_IV4) * there.mask_IR[:, :tags, None]
        tag_IVD = share_IRV.transpose(1, 2) @ self.reference.weight[:tags]
        return visual._replace(token_IVD=visual.token_IVD + tag_IVD.to(visual.token_IVD.dtype))

    def logits(self, batch: Batch, visual: Visual) -> Tensor:
        """[B] of each candidate."""
        fused = self.system.fuse(batch, visual, read_BT=torch.zeros_like(batch.text_mask_BT))
        return self.head(fused.pooled_BD).float()[:, 0]

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        logit_GN = by_group(self.logits(batch, self.see(batch)), batch, -torch.inf)
        losses = {}
        for name in SUBTASKS:
            label_GN = by_group(batch.labels[name], batch, IGNORE)
            right_G = torch.where((label_GN == 1).any(1), (label_GN == 1).int().argmax(1), IGNORE)
            hits = (logit_GN.detach().argmax(1) == right_G).sum()
            loss, count = F.cross_entropy(logit_GN, right_G, reduction="sum"), batch.counts[name]
            losses[name] = LossTerm(loss, count, metrics={"accuracy": (hits, count)})
        return losses

    def param_groups(self) -> list[ParamGroup]:
        own = [*self.head.parameters(), *self.reference.parameters()]
        return [*self.system.param_groups(), *by_decay(own, "head ", self.config.head_lr)]

    # ------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Questions without a public answer are predicted, not scored."""
        items: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        judgements: list[vcr_accuracy.Right] = []
        for batch in batches:
            for sample, (answer_K, *rationale_KJ) in self._chances(batch):
                row = {"annot_id": sample.labels.get("question_id", sample.key)}
                row |= {f"answer_{k}": chance for k, chance in enumerate(answer_K)}
                for k, rationale_J in enumerate(rationale_KJ):
                    row |= {f"rationale_conditioned_on_a{k}_{j}": chance for j, chance in enumerate(rationale_J)}
                predictions.append(row)
                if "right" in sample.labels:
                    right, reason = sample.labels["right"], sample.labels.get("right_rationale")
                    judgements.append(vcr_accuracy.judged(answer_K, rationale_KJ, right, reason))
                    items.append(_item(sample, judgements[-1], answer_K))
        return Evaluation(vcr_accuracy.summary(judgements), items, predictions)

    @torch.no_grad()
    def choose(self, batch: Batch) -> list[list[float]]:
        """The probability of each answer to each question. The batch has been through `label`."""
        return [answer_K for _, (answer_K, *_) in self._chances(batch)]

    def _chances(self, batch: Batch) -> Iterator[tuple[Sample, list[list[float]]]]:
        """Each sample with the probabilities of everything it asks, in the order of `questions`."""
        visual = self.see(batch)
        parts = torch.arange(len(batch), device=batch.text_BT.device).split(self.config.block)
        logit_B = torch.cat([self.logits(batch.rows(part), visual) for part in parts])
        chance_GN = by_group(logit_B, batch, -torch.inf).softmax(1).tolist()
        place = row = 0
        while row < len(batch):
            sample = batch.samples[row]
            asked = [*questions(sample)]
            yield sample, [chance_GN[place + n][: len(one.candidates)] for n, one in enumerate(asked)]
            place += len(asked)
            row += sum(len(one.candidates) for one in asked)


class Asked(NamedTuple):
    """A softmax: what is asked, and the candidates."""

    subtask: Literal["answer", "rationale"]
    query: tuple[str, ...]
    candidates: tuple[str, ...]
    right: int | None  # None: unknown, or beside a wrong answer


def questions(sample: Sample) -> Iterator[Asked]:
    """Which answer; then, beside each answer in turn, which rationale."""
    labels, question = sample.labels, sample.texts[0]
    choices, right = labels.get("choices", ("",)), labels.get("right")
    yield Asked("answer", (question,), choices, right)
    if "rationales" in labels:
        for k, answer in enumerate(choices):
            reason = labels.get("right_rationale") if k == right else None
            yield Asked("rationale", (question, answer), labels["rationales"], reason)


def by_group(value_B: Tensor, batch: Batch, fill: float) -> Tensor:
    """[G, N] the rows of each group side by side, filled up to the largest."""
    assert batch.group_B is not None
    _, count_G = torch.unique_consecutive(batch.group_B, return_counts=True)
    return pad_sequence([*value_B.split(count_G.tolist())], batch_first=True, padding_value=fill)


def finetuning(recipe: Recipe) -> Recipe:
    """A quarter of the usual batch, for a question is eight rows; texts as long as the system can read beside its tags.

    Nothing is mirrored, for a candidate may speak of left and right.
    """
    room = recipe.system.text.positions - (1 + getattr(recipe.system, "tags", -1))  # pyright: ignore[reportAttributeAccessIssue]
    size = recipe.train.batch_size
    tuned = tenth(recipe, VCRTask.Config(max_tokens=min(LONGEST, room)), max(min(8, size), min(size, 256) // 4))
    if tuned.data.image.augment != "flip":
        return tuned
    image = tuned.data.image.model_copy(update={"augment": "none"})
    return tuned.model_copy(update={"data": tuned.data.model_copy(update={"image": image})})


def _item(sample: Sample, judgement: vcr_accuracy.Right, answer_K: list[float]) -> dict[str, Any]:
    scores = {"Q->A": judgement.answer, "QA->R": judgement.rationale, "Q->AR": judgement.both}
    told = {name: float(value) for name, value in scores.items() if value is not None}
    choices = sample.labels["choices"]
    top = sorted(zip(choices, answer_K, strict=True), key=lambda pair: -pair[1])
    return {
        "key": sample.key,
        "group": sample.group or sample.key,
        "type": "",
        "score": told.get("Q->AR", told["Q->A"]),
        "scores": told,
        "question": sample.texts[0],
        "truth": choices[sample.labels["right"]],
        "answer": top[0][0],
        "top": top,
    }
