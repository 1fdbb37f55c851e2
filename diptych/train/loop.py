"""The training loop: fetch, announce, step, judge, report, save; until the last step or until someone asks to stop.

Everything random is a pure function of (seed, step): batches by data/stream.py, dropout by a generator seeded before each forward
pass (train/step.py). So the state of a run is weights, optimiser state and the few counters of `Progress`, and a run that was
killed and resumed repeats the uninterrupted one bit for bit.

A step whose loss or gradient is not finite is skipped: it takes its place in the data and in the schedule and changes nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from diptych import checkpoint, dist
from diptych.config import TrainConfig, UserError
from diptych.contracts import Batch, Trainable
from diptych.data.stream import Broken, Delivery, Refusal, Stream
from diptych.nn import recompute
from diptych.train.log import Journal, Stopwatch, memory_gb
from diptych.train.optim import Optimizers, freeze, schedule
from diptych.train.profile import Profile
from diptych.train.quarantine import Quarantine
from diptych.train.signals import Interrupted, StopRequest
from diptych.train.step import Outcome, Stepper, Sums, add_sums

Probe = Callable[[Trainable], dict[str, float]]
"""Measures a model on `val` during training. It must leave the weights alone; its draws and its time change nothing."""


@dataclass
class Progress:
    """The counters of a run; with the tensors, all there is to save."""

    step: int = 0  # optimiser steps gone through, skipped ones included: the place in the data and in the schedule
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # of training, over all sittings
    window: Sums = field(default_factory=dict)  # since the last record


class Fetched(NamedTuple):
    batches: list[Batch]
    broken: list[Broken]
    refusals: list[str]


@dataclass
class Loop:
    model: Trainable
    stream: Stream
    train: TrainConfig
    directory: Path
    journal: Journal
    quarantine: Quarantine
    device: torch.device
    precision: torch.dtype
    workers: int = 0
    probe: Probe | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        self.frozen = freeze(self.model, self.train.freeze)
        if self.train.recompute and not recompute.switch_on(self.model):
            raise UserError("train.recompute=true is for transformer layers, and this model has none; set it to false")
        self.optimizers = Optimizers(self.model, self.train)
        self.stepper = Stepper(self.model, self.optimizers, self.train, self.device, self.precision)
        self.progress = Progress()
        self.saved_step = -1  # none; 0 is a state, too

    # ------------------------------------------------------------------------------------------------ the story

    def run(self) -> Progress:
        """Train from wherever `progress` stands to the last step. Raises `Interrupted` when asked to stop, after saving."""
        self.watch = Stopwatch(self.progress.seconds)
        self._train_mode()
        profiling = nullcontext(lambda: None) if self.profile is None else self.profile.recording()
        with StopRequest() as request, self._told_of_lost_workers(), self._loading() as items, profiling as profiled:
            while self.progress.step < self.train.steps:
                fetched = self.fetch(items)
                counts = self.announce(fetched, request)
                outcome = self.stepper(self.progress.step, fetched.batches, counts)
                self.progress.step += 1
                self.judge(outcome, fetched.batches)
                self.report(outcome)
                if self._is_due(self.train.validate_every or self.train.checkpoint_every):
                    self.measure()
                is_sound = not self.progress.skipped_in_a_row or self.progress.step == self.train.steps
                if is_sound and self._is_due(self.train.checkpoint_every):
                    self.save()
                profiled()
        return self.progress

    def fetch(self, items: Iterator[Delivery | Refusal]) -> Fetched:
        """The micro-batches of a step, and what the loader has to say of them."""
        with self.watch.waiting(), record_function("fetch"):
            fetched = [next(items) for _ in range(self.train.accumulate)]
        deliveries = [item for item in fetched if isinstance(item, Delivery)]
        broken = [entry for delivery in deliveries for entry in delivery.broken]
        refusals = [item.reason for item in fetched if isinstance(item, Refusal)]
        return Fetched([delivery.batch for delivery in deliveries], broken, refusals)

    def announce(self, fetched: Fetched, request: StopRequest) -> dict[str, float]:
        """What ranks must know of each other before a step: label counts; broken pictures, refusals, a wish to stop."""
        counts = dist.add_counts(batch.counts for batch in fetched.batches)
        mine = {"counts": counts, "broken": fetched.broken, "refusals": fetched.refusals, "stop": request.signum}
        everyone = dist.gather(mine)
        for of_rank in everyone:
            if of_rank["stop"] is not None:
                self.leave(of_rank["stop"])
        self._quarantine([Broken(*entry) for of_rank in everyone for entry in of_rank["broken"]])
        for of_rank in everyone:
            if of_rank["refusals"]:
                raise UserError(of_rank["refusals"][0])
        return dist.add_counts(of_rank["counts"] for of_rank in everyone)

    def judge(self, outcome: Outcome, batches: Sequence[Batch]) -> None:
        """Count and list a skipped step; a run of them ends training."""
        if not outcome.not_finite:
            self.progress.skipped_in_a_row = 0
            add_sums(self.progress.window, outcome.sums | {"gradient_norm": [outcome.norm, 1]})
            return
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        listed = self.directory / "skipped.jsonl"
        self._list_skipped(listed, outcome, batches)
        reason = f"{', '.join(outcome.not_finite)} not finite"
        self.journal.tell(f"step {self.progress.step} skipped: {reason}; its samples are in {listed}")
        if self.progress.skipped_in_a_row >= self.train.max_skipped:  # above: resumed within a burst, with a lower limit
            self.give_up(listed)

    def give_up(self, listed: Path) -> None:
        """Skipped steps changed nothing but counters, so the state before the burst is still at hand."""
        burst = self.progress.skipped_in_a_row
        self.progress.step -= burst
        self.progress.skipped -= burst
        self.progress.skipped_in_a_row = 0
        self.save()
        raise UserError(
            f"{burst} steps in a row without a finite loss and gradient: stopped, with the state after step {self.progress.step} "
            f"saved and the samples listed in {listed}; try a lower train.lr, or train.precision=fp32"
        )

    def report(self, outcome: Outcome) -> None:
        """The live line now and then, a record every `log_every` steps and at the end."""
        is_due = self._is_due(self.train.log_every)
        if is_due or self.journal.is_watched():
            record = self._record(outcome)
            self.journal.show(record)
            if is_due:
                self.journal.record(record)
                self.progress.window = {}
                self.watch.start_window()

    def measure(self) -> None:
        """Run the probe on the first rank; the others wait in the next exchange."""
        if self.probe is None or not dist.is_first():
            return
        self.model.eval()
        measured = self.probe(self.model)
        self._train_mode()
        self.journal.record({**self._place(), **{f"val/{name}": value for name, value in measured.items()}})

    def save(self) -> None:
        """A checkpoint of the present step. If it cannot be written, the last good one stays."""
        if self.saved_step == self.progress.step:
            return
        self._check_ranks_agree()
        tensors = {"model": checkpoint.weights_of(self.model), "optimizer": self.optimizers.state()}
        if not all(weight.isfinite().all() for weight in tensors["model"].values()):
            raise UserError(
                f"the weights are no longer finite at step {self.progress.step}: stopped; {self._last_good()}; "
                f"try a lower train.lr, or train.precision=fp32"
            )
        self.progress.seconds = self.watch.total()
        samples = self.progress.step * self.train.batch_size
        drawn = {"samples": samples, "samples_by_source": self.stream.mixture.drawn(samples)}
        state = {**asdict(self.progress), **drawn, "layout": self.layout()}
        if dist.gather(dist.is_first() and self._write(tensors, state))[0]:
            self.saved_step = self.progress.step

    def leave(self, signum: int) -> None:
        self.save()
        if self.saved_step == self.progress.step:
            place = f"stopped; step {self.progress.step} of {self.train.steps} is saved in {self.directory}"
            self.journal.tell(f"{place}: the same command goes on from there")
        raise Interrupted(signum)

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint; says what is different from the sitting that wrote it."""
        missing = [*{"model", "optimizer"} - saved.tensors.keys(), *{field.name for field in fields(Progress)} - saved.state.keys()]
        if missing:
            raise UserError(
                f"{saved.path}: has no {missing[0]}: written by another version; remove it to go on from the one before"
            )
        checkpoint.load_weights(self.model, saved.tensors["model"], str(saved.path))
        self.optimizers.load(saved.tensors["optimizer"])
        self.progress = Progress(**{field.name: saved.state[field.name] for field in fields(Progress)})
        self.saved_step = saved.step
        before, now = saved.state.get("layout", {}), self.layout()
        changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
        self.journal.tell(
            f"resumed after step {saved.step} of {self.train.steps}" + (f"; changed: {', '.join(changed)}" if changed else "")
        )

    def layout(self) -> dict[str, Any]:
        """What does not enter the order of samples, but may enter the last bits of a sum."""
        return {
            "ranks": dist.size(),
            "accumulate": self.train.accumulate,
            "workers": self.workers,
            "precision": str(self.precision).removeprefix("torch."),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    # ------------------------------------------------------------------------------------------------ small print

    @contextmanager
    def _loading(self) -> Iterator[Iterator[Delivery | Refusal]]:
        """What there is to train on, from where the run stands.

        Loader processes are ended here and not whenever the iterator is collected: until then torch's handler of SIGCHLD may raise
        the loss of one anywhere in the main thread, long after the run.
        """
        items = self.stream.loader(self.progress.step * self.train.accumulate, self.workers, self.device.type == "cuda")
        try:
            yield items
        finally:
            if self.workers:
                items._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def _told_of_lost_workers(self) -> Iterator[None]:
        """torch raises it wherever the trainer stands when a loader process dies: mostly, the system took it for its memory."""
        try:
            yield
        except (RuntimeError, ConnectionError, EOFError) as error:
            # the last two where one dies in the middle of handing something over; no socket of another kind is read in the loop
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"step {self.progress.step + 1}: a loader process was killed from outside; where memory is short, lower "
                f"data.workers or data.image; {self._last_good()}, and the same command goes on"
            ) from error

    def _is_due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.train.steps

    def _train_mode(self) -> None:
        """Frozen parts stay in evaluation mode: no dropout in them, and their statistics stand still."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def _place(self) -> dict[str, float]:
        step = self.progress.step
        return {"step": step, "samples": step * self.train.batch_size, "seconds": self.watch.total()}

    def _record(self, outcome: Outcome) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self.progress.window.items() if count}
        losses = {name: weight * means[f"loss/{name}"] for name, weight in outcome.weights.items() if f"loss/{name}" in means}
        total = {"loss": sum(losses.values())} if losses else {}
        lr = self.train.lr * schedule(self.train, self.progress.step - 1)
        clock = {**self.watch.rates(self.train.batch_size), "memory_gb": memory_gb(self.device)}
        return {**self._place(), **total, **means, "lr": lr, "skipped": self.progress.skipped, **clock}

    def _quarantine(self, broken: Sequence[Broken]) -> None:
        for entry in self.quarantine.add(broken):
            self.journal.write(self.quarantine.file, {"step": self.progress.step + 1, **entry._asdict()})
            self.journal.tell(f"{entry.path or entry.key}: {entry.reason}; another sample takes its place")
        self.quarantine.check((self.progress.step + 1) * self.train.batch_size)

    def _list_skipped(self, listed: Path, outcome: Outcome, batches: Sequence[Batch]) -> None:
        everyone = dist.gather([list(dict.fromkeys(batch.keys)) for batch in batches])
        keys = [{"rank": r, "micro_step": m, "keys": keys} for r, of_rank in enumerate(everyone) for m, keys in enumerate(of_rank)]
        losses = {name: str(outcome.loss(name)) for name in outcome.weights}  # as text: JSON has no nan
        record = {
            "step": self.progress.step,
            "not_finite": outcome.not_finite,
            "losses": losses,
            "gradient_norm": str(outcome.norm),
        }
        self.journal.write(listed, {**record, "samples": keys})

    def _check_ranks_agree(self) -> None:
        """Parameters and state must be equal on all ranks, for the checkpoint holds those of the first."""
        if dist.size() > 1:
            digests = dist.gather({name: _digest(weight) for name, weight in checkpoint.weights_of(self.model).items()})
            for name, expected in digests[0].items():
                if any(of_rank[name] != expected for of_rank in digests):
                    raise RuntimeError(f"{name} differs between ranks: `after_step` must commit sums over all ranks")

    def _write(self, tensors: Mapping[str, checkpoint.Tensors], state: Mapping[str, Any]) -> bool:
        try:
            self.journal.flush()
            checkpoint.save(self.directory / "checkpoints", self.progress.step, tensors, state)
            return True
        except OSError as error:
            reason = error.strerror or str(error)
            self.journal.tell(f"the checkpoint of step {self.progress.step} could not be written ({reason}); {self._last_good()}")
            return False

    def _last_good(self) -> str:
        step = self.saved_step
        return "there is no checkpoint yet" if step < 0 else f"the last good checkpoint is that of step {step}"


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
