"""What pre-training learnt: every objective's loss and metrics on samples that were not trained on, each once.

Samples are labelled and corrupted as in training, by the recipe's seed, so two models are asked the same. With `data.shuffled`
every text stands beside another sample's picture: what is still guessed then is guessed from the text alone.

Intervals are a cluster bootstrap over batches: a metric is sum / count over the batches that are drawn, 2.5th to 97.5th percentile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from diptych.config import Recipe, UserError
from diptych.contracts import Tokenizer, Trainable
from diptych.data.mixture import Mixture, Source
from diptych.data.stream import Refusal, Stream
from diptych.draw import Draw
from diptych.train.evaluate import REPLICATES
from diptych.train.precision import autocast, choose_precision
from diptych.train.step import Sums, add_sums

BATCH = 64


@dataclass(frozen=True)
class Measured:
    """(sum, count) of each batch, by name: "loss/NAME" and "NAME/METRIC"."""

    batches: list[Sums]
    n: int  # samples

    @property
    def metrics(self) -> dict[str, float]:
        sums: Sums = {}
        for batch in self.batches:
            add_sums(sums, batch)
        return {name: part / count for name, (part, count) in sums.items() if count}

    def items(self) -> list[dict[str, Any]]:
        """A batch as a question, so that two models are compared pair by pair; (sum, count) of each metric in it."""
        return [{"key": f"batch {k}", "sums": batch} for k, batch in enumerate(self.batches)]

    def ci95(self, seed: int = 0) -> dict[str, list[float]]:
        weight_RK = np.random.default_rng(seed).multinomial(
            len(self.batches), np.full(len(self.batches), 1 / len(self.batches)), REPLICATES
        )
        found = {}
        for name in self.metrics:
            part_K, count_K = np.array([batch.get(name, [0.0, 0.0]) for batch in self.batches]).T
            with np.errstate(invalid="ignore"):  # a replicate without any label
                low, high = np.nanpercentile((weight_RK @ part_K) / (weight_RK @ count_K), [2.5, 97.5])
            found[name] = [float(low), float(high)]
        return found


def objectives(
    model: Trainable, recipe: Recipe, data: Sequence[Source], tokenizer: Tokenizer, limit: int | None = None
) -> Measured:
    total = min(sum(len(source.reader) for source in data), limit or 1 << 62)
    size = min(BATCH, total)
    draw, device = Draw(recipe.train.seed), next(model.parameters()).device
    steps = total // size
    unaugmented = recipe.data.model_copy(update={"image": recipe.data.image.model_copy(update={"augment": "none"})})
    once = recipe.train.model_copy(update={"steps": steps, "batch_size": size, "accumulate": 1})
    recipe = recipe.model_copy(update={"data": unaugmented, "train": once})
    stream = Stream.training(model, recipe, Mixture([replace(source, weight=None) for source in data], draw), tokenizer, draw)
    batches: list[Sums] = []
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(device, choose_precision(recipe.train.precision, device)):
        for item in stream.loader(0, recipe.data.workers):
            if isinstance(item, Refusal):
                raise UserError(item.reason)
            sums: Sums = {}
            for name, term in model(item.batch.to(device)).items():
                metrics = {f"{name}/{metric}": pair for metric, pair in term.metrics.items()}
                for called, (part, count) in {f"loss/{name}": (term.sum, term.count), **metrics}.items():
                    add_sums(sums, {called: [float(part), count]})
            batches.append(sums)
    model.train(was_training)
    model.discard_step()
    return Measured(batches, steps * size)
