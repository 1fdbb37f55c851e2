"""Zero-shot classification: which of many names a picture goes by, asked of a system that was only pre-trained (CLIP, ALIGN).

    name of a class -> put into each prompt, "a drawing of a {}" -> texts
      systems with towers      each text's side of length one -> their mean -> length one        its product with the picture's side
      fusion systems           mean over the prompts of the match logits of picture and text

The ensemble of prompts is CLIP's (Radford et al., ICML 2021, section 3.1.4), a mean of embeddings, so that many prompts cost a
picture no more than one; ALIGN takes CLIP's 80 for ImageNet. The few here are ours, for drawings; `task.prompts` is a list of your
own. Averaging match logits is ours: fusion systems have no embedding to average.

The classes are all names that the split's pictures have, so a split decides how hard it is: `chance` stands beside the scores.
Labels of one name are one class. Ties count against the system.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator
from torch import Tensor

from diptych import config
from diptych.config import UserError
from diptych.contracts import Batch, Evaluation, Sample, System, Task, Tokenizer
from diptych.metrics import recall
from diptych.tasks.gallery import Shown, all_with_all, rows_of

TOP = 5
TEXTS = 256  # encoded at a time, by towers


class ZeroShot(Task):
    purpose = "probe"
    reads = ("fuse", "towers")
    needs_labels = False

    class Config(config.Config):
        kind: Literal["zeroshot"] = "zeroshot"
        prompts: tuple[str, ...] = ("{}", "a {}", "the {}", "a picture of a {}", "a drawing of a {}")
        classes: tuple[str, ...] = ()  # names to choose from; empty: all that the split's pictures have
        block: PositiveInt = 1024  # pairs that a fusion system scores at a time

        @field_validator("prompts")
        @classmethod
        def _have_a_place(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
            if not prompts or any(prompt.count("{}") != 1 for prompt in prompts):
                raise ValueError('each prompt needs one {} where the name goes, as in "a drawing of a {}"')
            return prompts

        def build(self, system: System, tokenizer: Tokenizer) -> ZeroShot:
            return ZeroShot(self, system, tokenizer)

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.has_towers = type(system).towers is not System.towers

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """Accuracy in percent: the right name first, or among the first five; and the mean over classes of the first."""
        samples, picture_of = list[Sample](), list[int]()
        sides, shown = list[Tensor](), list[Shown]()
        pictures = 0
        for batch in batches:
            if batch.image_of_BN is None or batch.images is None:
                raise UserError("zeroshot needs pictures, and this data set has texts only")
            samples += batch.samples
            if self.has_towers:
                sides.append(self.system.towers(batch).a_BE)
            else:
                picture_of += (pictures + batch.image_of_BN[:, 0]).tolist()
                shown.append(Shown(self.system.see(batch), batch.regions))
                pictures += len(shown[-1])
        if not samples:
            return Evaluation({}, [], [])
        names = [_name(sample) for sample in samples]
        classes = list(self.config.classes) or sorted(set(names))
        score_KN = (
            self._products(classes, torch.cat(sides)) if sides else self._matches(classes, Shown.joined(shown))[:, picture_of]
        )
        return _evaluation(samples, names, classes, score_KN)

    def _texts(self, classes: Sequence[str]) -> list[str]:
        """Every class in each prompt, class by class."""
        return [prompt.replace("{}", name) for name in classes for prompt in self.config.prompts]

    def _products(self, classes: Sequence[str], side_NE: Tensor) -> NDArray[np.float32]:
        """[K, N] cosines of each class with each picture."""
        texts, most = self._texts(classes), self.system.config.text.positions
        parts = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
        said_CE = torch.cat([self.system.towers(rows_of(some, self.tokenizer, most, side_NE.device)).b_BE for some in parts])
        class_KE = F.normalize(said_CE.unflatten(0, (len(classes), -1)).mean(1), dim=1)
        return (class_KE @ side_NE.T).float().cpu().numpy()

    def _matches(self, classes: Sequence[str], shown: Shown) -> NDArray[np.float32]:
        """[K, I] mean match logits of each class with each picture."""
        rows = rows_of(self._texts(classes), self.tokenizer, self.system.config.text.positions, shown.visual.token_IVD.device)
        score_IC = all_with_all(self.system, shown, rows, self.config.block)
        return score_IC.reshape(len(score_IC), len(classes), -1).mean(2).T


def _name(sample: Sample) -> str:
    """What a picture goes by: its label's name if the data give one, else the label with spaces."""
    label = str(sample.labels["label"])
    return str(sample.labels.get("name") or label.replace("_", " ").replace("-", " "))


def _evaluation(
    samples: Sequence[Sample], names: Sequence[str], classes: Sequence[str], score_KN: NDArray[np.float32]
) -> Evaluation:
    place = {name: k for k, name in enumerate(classes)}
    label_N = np.array([place.get(name, -1) for name in names])
    rank_N = np.where(label_N < 0, len(classes), recall.ranks(score_KN, label_N.clip(0))[1])  # a name not among them is missed
    items: list[dict[str, Any]] = []
    predictions = []
    for n, (sample, name, rank) in enumerate(zip(samples, names, rank_N.tolist(), strict=True)):
        best = np.argsort(-score_KN[:, n], kind="stable")[:TOP].tolist()
        top = [(classes[k], float(score_KN[k, n])) for k in best]
        scores = {"top1": float(rank < 1), "top5": float(rank < TOP)}
        about = {"key": sample.key, "group": sample.group or sample.key, "type": name, "truth": name, "rank": rank + 1}
        items.append(about | {"score": scores["top1"], "scores": scores, "top": top})
        predictions.append({"key": sample.key, "label": top[0][0], "top": top})
    first_N = rank_N < 1
    by_class = [first_N[np.array(names) == name].mean() for name in dict.fromkeys(names)]
    metrics = {
        "top1": first_N.mean(),
        "top5": (rank_N < TOP).mean(),
        "mean_per_class": np.mean(by_class),
        "chance": 1 / len(classes),
    }
    return Evaluation({name: 100 * float(value) for name, value in metrics.items()}, items, predictions)
