"""One optimiser step, as arithmetic: the gradient of the global mean, whatever the number of ranks and micro-steps.

backward   each loss is sum * weight / global count, so gradients add up over micro-steps and ranks
reduce     gradients summed over ranks (dist.py)
judge      finite losses and gradient: clip, update, `after_step`; otherwise everything is left as it was before the step
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from diptych import dist
from diptych.config import TrainConfig
from diptych.contracts import Batch, LossTerm, Trainable
from diptych.draw import Draw
from diptych.train.optim import Optimizers
from diptych.train.precision import autocast

Sums = dict[str, list[float]]  # name -> [sum, count]


@dataclass(frozen=True)
class Outcome:
    """Sums over all ranks and micro-steps, the same on every rank."""

    sums: Sums  # "loss/NAME" and "NAME/METRIC"
    weights: dict[str, float]  # of each loss
    norm: float  # of the gradient, before it was clipped

    @property
    def not_finite(self) -> list[str]:
        """The losses, or else the gradient, that forbid an update."""
        losses = [f"loss/{name}" for name in self.weights if not math.isfinite(self.sums[f"loss/{name}"][0])]
        return losses or ([] if math.isfinite(self.norm) else ["gradient"])

    def loss(self, name: str) -> float:
        total, count = self.sums[f"loss/{name}"]
        return total / count if count else 0.0


class Stepper:
    def __init__(self, model: Trainable, optimizers: Optimizers, train: TrainConfig, device: torch.device, precision: torch.dtype):
        self.model = model
        self.optimizers = optimizers
        self.train = train
        self.device = device
        self.precision = precision
        self.noise = Draw(train.seed)
        self.running = running_statistics(model)

    def __call__(self, step: int, batches: Sequence[Batch], counts: Mapping[str, float]) -> Outcome:
        """`counts` are the labels of each objective over all ranks and micro-steps of this step."""
        statistics = [buffer.clone() for buffer in self.running]
        totals = Totals()
        for micro, batch in enumerate(batches):
            totals.add(self.backward(step, micro, batch, counts))
        with record_function("update"):
            return self.update(step, totals, statistics)

    def update(self, step: int, totals: Totals, statistics: Sequence[Tensor]) -> Outcome:
        """`statistics`: what the running ones were before the step."""
        dist.sum_gradients(self.optimizers.params)
        outcome = totals.over_ranks(norm=self.clip())
        if outcome.not_finite:
            for buffer, before in zip(self.running, statistics, strict=True):
                buffer.copy_(before)
            self.model.discard_step()
        else:
            dist.average([buffer for buffer in self.running if buffer.is_floating_point()])
            self.optimizers.step(step)
            with torch.no_grad():
                self.model.after_step()
        self.optimizers.clear()
        return outcome

    def backward(self, step: int, micro: int, batch: Batch, counts: Mapping[str, float]) -> dict[str, LossTerm]:
        batch = batch.to(self.device)
        torch.manual_seed(self.noise.seed_of(f"dropout/{dist.rank()}", step * self.train.accumulate + micro))
        with record_function("forward"), autocast(self.device, self.precision):
            terms = self.model(batch)
        check_counts(self.model, terms, batch)
        shares = [term.sum.float() * (term.weight / counts[name] if counts[name] else 0.0) for name, term in terms.items()]
        with record_function("backward"):
            torch.stack(shares).sum().backward()
        return terms

    def clip(self) -> float:
        """The norm of the whole gradient before it is clipped.

        Beyond 1.8e19 its square is more than fp32 holds, and it comes out infinite. Such a step is skipped, clipped or not: Adam
        would keep squares of that size, and those weights would not move again.
        """
        gradients = [parameter.grad for parameter in self.optimizers.params if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.train.clip is not None:
            nn.utils.clip_grads_with_norm_(self.optimizers.params, self.train.clip, norm)
        return norm.item()


class Totals:
    """Losses and metrics of the micro-steps; read from the device once, after the last backward pass."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Tensor | float, float]] = []
        self.weights: dict[str, float] = {}

    def add(self, terms: Mapping[str, LossTerm]) -> None:
        for name, term in terms.items():
            self.weights[name] = term.weight
            self.entries.append((f"loss/{name}", term.sum, term.count))
            self.entries += [(f"{name}/{metric}", total, count) for metric, (total, count) in term.metrics.items()]

    def over_ranks(self, norm: float) -> Outcome:
        on_device = [total.detach().float() for _, total, _ in self.entries if isinstance(total, Tensor)]
        values = iter(torch.stack(on_device).tolist() if on_device else [])
        mine: Sums = {}
        for name, total, count in self.entries:
            add_sums(mine, {name: [next(values) if isinstance(total, Tensor) else total, count]})
        sums: Sums = {}
        for of_rank in dist.gather(mine):
            add_sums(sums, of_rank)
        return Outcome(sums, self.weights, norm)


def add_sums(total: Sums, more: Mapping[str, Sequence[float]]) -> None:
    for name, (part, count) in more.items():
        before = total.setdefault(name, [0.0, 0.0])
        before[0] += part
        before[1] += count


def check_counts(model: Trainable, terms: Mapping[str, LossTerm], batch: Batch) -> None:
    for name, term in terms.items():
        if term.count != batch.counts.get(name):
            raise RuntimeError(
                f"loss '{name}' of {type(model).__name__} is over {term.count} labels, but the loader announced "
                f"{batch.counts.get(name)}: gradients would be scaled wrongly (see contracts.LossTerm)"
            )


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass changes: torch's batch normalisation has running_mean, running_var, num_batches_tracked."""
    return [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2].startswith(("running_", "num_batches_"))]
