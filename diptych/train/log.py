"""What a run tells: one live line for a person, `metrics.jsonl` for a program, TensorBoard (or another tracker) for curves.

A record is flat: step, samples, loss (the weighted total), loss/NAME, NAME/METRIC, lr, gradient_norm, skipped, and what depends
on the clock: seconds (over all sittings), samples_per_second, waiting (share of the time spent on waiting for data), memory_gb.
After a resume, lines beyond the checkpoint are cut off, so the file reads as if nothing had happened.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from diptych.config import UserError, nearest

LIVE_LINE_EVERY = 0.2  # seconds
PLAIN_LINE_EVERY = 60.0  # where standard error is not a terminal


class Tracker(Protocol):
    def log(self, record: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Journal:
    """The log of one run. On ranks other than the first it is silent and writes nothing."""

    def __init__(self, directory: Path, steps: int, trackers: Sequence[str] = (), quiet: bool = False, active: bool = True):
        self.file = directory / "metrics.jsonl"
        self.steps = steps
        self.active = active
        self.quiet = quiet or not active
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal and not self.quiet else None
        self.last_look = time.monotonic()
        self.directory = directory
        self.tracker_names = trackers if active else ()
        self.trackers: list[Tracker] = []
        self.complaints: set[str] = set()

    @contextmanager
    def open(self, step: int, about: Mapping[str, Any]) -> Iterator[None]:
        """Write and show from after `step` on."""
        for name in self.tracker_names:
            self._try(lambda name=name: self.trackers.append(_tracker(name, self.directory, step, about)), name)
        if self.live is not None:
            self.live.start()
        with self._told_of_threads():
            try:
                yield
            finally:
                if self.live is not None:
                    with suppress(OSError):
                        self.live.stop()
                for tracker in self.trackers:
                    self._try(tracker.close, "tracker")

    @contextmanager
    def _told_of_threads(self) -> Iterator[None]:
        """TensorBoard writes from a thread of its own: what the disk refuses there is told as all else is."""
        before = threading.excepthook

        def told(args: threading.ExceptHookArgs) -> None:
            error = args.exc_value
            if isinstance(error, OSError):
                self._complain("tracker", error)
            else:
                before(args)

        threading.excepthook = told
        try:
            yield
        finally:
            threading.excepthook = before

    def tell(self, message: str) -> None:
        """One line for the person, above the live line."""
        if not self.quiet:
            with suppress(OSError):  # a terminal that is gone
                self.console.print(Text(message), soft_wrap=True)

    def is_watched(self) -> bool:
        """Whether someone sees the live line and the last look is old enough."""
        return self.live is not None and time.monotonic() - self.last_look > LIVE_LINE_EVERY

    def record(self, record: Mapping[str, float]) -> None:
        self.write(self.file, record)
        for tracker in self.trackers:
            self._try(lambda tracker=tracker: tracker.log(record), "tracker")

    def write(self, file: Path, record: Mapping[str, Any]) -> None:
        """One line of a .jsonl file."""
        if self.active:
            line = (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace")  # see checkpoint.to_json
            self._try(lambda: append(file, line), str(file))

    def show(self, record: Mapping[str, float]) -> None:
        with suppress(OSError):  # a terminal that is gone
            if self.live is not None:
                self.last_look = time.monotonic()
                self.live.update(Text(progress_line(record, self.steps), overflow="ellipsis", no_wrap=True), refresh=True)
            elif not self.quiet and (time.monotonic() - self.last_look > PLAIN_LINE_EVERY or record["step"] == self.steps):
                self.last_look = time.monotonic()
                print(progress_line(record, self.steps), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Before a checkpoint is renamed: its log must not be younger than itself."""
        if self.active and self.file.exists():
            with self.file.open("rb") as file:
                os.fsync(file.fileno())

    def _try(self, write: Callable[[], object], what: str) -> None:
        """A full disk must not end a run that can still compute: complain once and go on."""
        try:
            write()
        except OSError as error:
            self._complain(what, error)

    def _complain(self, what: str, error: OSError) -> None:
        if what not in self.complaints:
            self.complaints.add(what)
            self.tell(f"cannot write {what}: {error.strerror or error}; training goes on")


class Stopwatch:
    """Seconds of training over all sittings, and how those since the last record were spent."""

    def __init__(self, seconds_before: float):
        self.started = time.perf_counter() - seconds_before
        self.start_window()

    def total(self) -> float:
        return time.perf_counter() - self.started

    def start_window(self) -> None:
        self.window_started = time.perf_counter()
        self.waited = 0.0
        self.steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began
        self.steps += 1

    def rates(self, samples_per_step: int) -> dict[str, float]:
        elapsed = time.perf_counter() - self.window_started
        return {"samples_per_second": self.steps * samples_per_step / elapsed, "waiting": self.waited / elapsed}


def append(file: Path, line: bytes) -> None:
    """Append a line whole or not at all."""
    with file.open("ab", buffering=0) as out:
        size = out.seek(0, os.SEEK_END)
        try:
            if out.write(line) != len(line):
                raise OSError(f"only a part of the line fitted into {file}")
        except OSError:
            out.truncate(size)
            raise


def cut_after(file: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was torn."""
    if not file.exists():
        return
    kept = 0
    with file.open("r+b") as lines:
        for line in lines:
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
        lines.truncate(kept)


def last_losses(file: Path) -> dict[str, float]:
    """loss and loss/NAME of the last record that has them."""
    if file.exists():
        for line in reversed(file.read_text(encoding="utf-8").splitlines()):
            losses = {name: value for name, value in json.loads(line).items() if name.startswith("loss")}
            if losses:
                return losses
    return {}


def progress_line(record: Mapping[str, float], steps: int) -> str:
    """step 1200/6000  mlm 2.314  itm 0.541  412 samples/s  waiting 2 %  0.9 GB  3:12 left"""
    losses = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in record.items() if name.startswith("loss/")]
    parts = [f"step {record['step']}/{steps}", *losses, f"{record['samples_per_second']:.0f} samples/s"]
    parts += [f"waiting {record['waiting']:.0%}", f"{record['memory_gb']:.1f} GB"]
    if record["skipped"]:
        parts.append(f"{record['skipped']} skipped")
    samples_left = (steps - record["step"]) * record["samples"] / record["step"]
    if record["step"] < steps and record["samples_per_second"] > 0:
        parts.append(f"{clock(samples_left / record['samples_per_second'])} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def memory_gb(device: torch.device) -> float:
    """The peak so far: of the accelerator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, kilobytes elsewhere


# ---------------------------------------------------------------------------------------------------- trackers


class _TensorBoard:
    def __init__(self, directory: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        self.writer.close()


class _Run:
    """Weights & Biases, and trackio, which has its interface."""

    def __init__(self, name: str, directory: Path, about: Mapping[str, Any]):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"tracker {name}: not installed; pip install {name}") from error
        self.run = module.init(project="diptych", name=directory.name, config=dict(about))
        self.module = module

    def log(self, record: Mapping[str, float]) -> None:
        self.module.log(dict(record), step=int(record["step"]))

    def close(self) -> None:
        self.module.finish()


def _tracker(name: str, directory: Path, step: int, about: Mapping[str, Any]) -> Tracker:
    if name == "tensorboard":
        return _TensorBoard(directory, step)
    if name in ("wandb", "trackio"):
        return _Run(name, directory, about)
    raise UserError(f"no tracker '{name}'{nearest(name, ('tensorboard', 'wandb', 'trackio'))}")
