"""Captioning: write what a picture shows; scored by CIDEr-D and BLEU-4 against all texts that the data has of it.

    picture -> system.decode (beam search) -> text -> CIDEr-D, BLEU-4, and how often it is word for word one of the references

It needs no fine-tuning on a system that was pre-trained to write (E2E-VLP); fine-tuning goes on with that objective alone. CIDEr is
printed times 100, as papers do: its document frequencies are those of the split that is scored, so scores of unlike splits do not
compare. The texts' words are Penn Treebank tokens (metrics/penn.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import PositiveInt

from diptych import config
from diptych.config import Recipe, UserError
from diptych.contracts import Batch, Evaluation, LossTerm, System, Task, Tokenizer
from diptych.draw import Draw
from diptych.metrics.bleu import bleu
from diptych.metrics.cider import cider_d
from diptych.metrics.penn import words
from diptych.tasks.coco_results import image_id
from diptych.tasks.gallery import Gallery


class Asks(Protocol):
    def corrupt(self, batch: Batch, draw: Draw) -> Batch: ...


@runtime_checkable
class Writes(Protocol):
    """A system that writes a text of a picture, and how it learns to."""

    captioning: Asks | None  # None: it was built without

    def decode(self, batch: Batch, most: int, beam: int = 1) -> list[list[int]]:
        """Tokens of one text for each distinct picture."""
        ...

    def writing(self, batch: Batch) -> LossTerm: ...


class CaptionTask(Task):
    purpose = "retrieval"  # pictures with all their texts
    reads = ("decode",)
    needs_labels = False

    class Config(config.Config):
        kind: Literal["caption"] = "caption"
        beam: PositiveInt = 5
        most: PositiveInt = 40  # tokens of a text

        def build(self, system: System, tokenizer: Tokenizer) -> CaptionTask:
            return CaptionTask(self, system, tokenizer)

    def __init__(self, config: Config, system: System, tokenizer: Tokenizer):
        super().__init__()
        if not isinstance(system, Writes):
            raise UserError(f"{type(system).__name__} writes no texts; `diptych list systems` shows which do: decode")
        if system.captioning is None:
            raise UserError(f"this {type(system).__name__} was pre-trained without captioning; set system.captioning")
        self.config, self.system, self.tokenizer = config, system, tokenizer
        self.writer: Writes = system
        self.asks: Asks = system.captioning

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        return self.asks.corrupt(batch, draw)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        return {"captioning": self.writer.writing(batch)}

    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """CIDEr, BLEU-4 and exact matches in percent; `cider/10` of an item is its share of what CIDEr-D can at most be.

        A picture of several samples is asked once, and what all of them say of it are its references.
        """
        gallery, written = Gallery(), list[str]()
        for batch in batches:
            if batch.images is None:
                raise UserError("caption needs pictures, and this data set has texts only")
            new_I = gallery.add(batch)
            texts = self.writer.decode(batch, self.config.most, self.config.beam)
            written += [self.tokenizer.decode(texts[place]) for place in new_I.tolist()]
        if not written:
            return Evaluation({}, [], [])
        references: list[list[str]] = [[] for _ in written]
        for text, image in zip(gallery.texts, gallery.image_of, strict=True):
            references[image].append(text)
        cider_I = cider_d(written, references)
        items: list[dict[str, Any]] = []
        for sample, text, true, cider in zip(gallery.shown, written, references, cider_I, strict=True):
            exact = float(any(words(text) == words(other) for other in true))
            about = {"key": sample.key, "group": sample.group or sample.key, "type": "picture", "text": text}
            items.append(about | {"score": cider / 10, "scores": {"cider/10": cider / 10, "exact": exact}})
        metrics = {
            "CIDEr": 100 * sum(cider_I) / len(items),
            "BLEU-4": 100 * bleu(written, references),
            "exact": 100 * sum(item["scores"]["exact"] for item in items) / len(items),
        }
        return Evaluation(metrics, items, [{"image_id": image_id(item["key"]), "caption": item["text"]} for item in items])


def finetuning(recipe: Recipe) -> Recipe:
    """A tenth of the steps at a tenth of the rate, with nothing frozen."""
    train = recipe.train.model_copy(update={"freeze": (), "steps": max(recipe.train.steps // 10, 1), "lr": recipe.train.lr / 10})
    return recipe.model_copy(update={"task": CaptionTask.Config(), "train": train})
