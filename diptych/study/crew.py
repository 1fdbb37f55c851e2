"""A crew: processes that take whatever command can be started, so that a failed one costs only what needs it.

    parent    ready() -> commands that nothing is missing for, the most urgent first      ended(command, complaint)
    worker    imports torch once, carries out one command line after the other, says how each ended

Lanes (lanes.py) are for a study whose commands are known beforehand and all needed; a crew for one in which some decide what
comes next, and some may fail. A worker that dies takes its command with it, and is replaced. When the parent dies, however that
comes about, its workers end at once: a killed study leaves nobody behind who holds its run directories.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from diptych import checkpoint
from diptych.config import UserError
from diptych.study.lanes import LOOK_EVERY, Call, Command, last_step, stop


def claim(out: Path, resume: str) -> None:
    """Refuse a folder that is none; or, with resume="never", one that a study was begun or written in."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; a study needs a folder")
    if resume == "never" and any((out / name).exists() for name in ("past", "cells", "report.html")):
        raise UserError(f"{out}: holds a study already; --resume auto goes on with it, or use another --out")


@dataclass(frozen=True)
class AtWork:
    command: Command
    since: float  # of time.monotonic()


class Todo(Protocol):
    """What there is to do, and what follows from what was done."""

    def ready(self) -> Sequence[Command]:
        """Everything that can be started now, the most urgent first; what is given out and not ended stays among it or not."""
        ...

    def ended(self, command: Command, complaint: str, seconds: float) -> None:
        """`complaint` is empty where all went well."""
        ...

    def standing(self, at_work: Sequence[AtWork]) -> str:
        """How far it is, in a line."""
        ...


class Web:
    """Commands that need one another, by the folders which their words name."""

    def __init__(self, commands: Iterable[Command]):
        self._folders = {str(command.makes.parent): command for command in commands}

    def needs(self, command: Command) -> list[Command]:
        """The commands that make what this one names."""
        named = [word.partition("=")[2] if word.startswith(("image=", "text=", "fusion=")) else word for word in command.words]
        found = (self._folders.get(word) for word in named)
        return [other for other in found if other is not None and other.makes != command.makes]

    def line(self, command: Command) -> list[Command]:
        """All that it needs, directly or not, and itself, in order."""
        whole: dict[Path, Command] = {}
        for other in self.needs(command):
            whole |= {step.makes: step for step in self.line(other)}
        return [*whole.values(), command]

    def startable(self, commands: Iterable[Command], failed: Collection[Path]) -> list[Command]:
        """Those that have not been carried out, have not failed, and miss nothing."""
        return [
            command
            for command in commands
            if not command.makes.exists()
            and command.makes not in failed
            and all(need.makes.exists() for need in self.needs(command))
        ]


class Clock:
    """How long commands took, kept in OUT/took.json, and so how long the others will take."""

    def __init__(self, out: Path):
        self.out, self._file = out, out / "took.json"
        self._took: dict[str, float] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}

    def add(self, command: Command, seconds: float) -> None:
        """An interrupted command's sittings add up."""
        self._took[self._name(command)] = round(self.of(command) + seconds, 1)
        checkpoint.write_json(self._file, self._took)

    def of(self, command: Command) -> float:
        return self._took.get(self._name(command), 0.0)

    def left(self, commands: Iterable[Command], left: Iterable[Command], jobs: int) -> float | None:
        """Seconds, by what commands alike have taken; None before there are any. What is at work counts whole."""
        alike: dict[str, list[float]] = {}
        steps: list[float] = []  # seconds a step, of any training
        for command in commands:
            if took := self.of(command):
                alike.setdefault(command.about, []).append(took)
                steps += [took / command.steps] if command.steps else []
        if not steps:
            return None
        mean = statistics.mean(steps)
        return sum(statistics.mean(alike.get(c.about, [c.steps * mean or 10.0])) for c in left) / max(jobs, 1)

    def _name(self, command: Command) -> str:
        return str(command.makes.relative_to(self.out))


def told(done: int, of: int, lost: int, left: float | None, at_work: Sequence[AtWork]) -> str:
    """A study's progress line: cells, seconds left, and how far each command is."""
    parts = [f"{done + lost} of {of} cells" + (f", {lost} failed" if lost else "")]
    parts += [f"about {max(1, round(left / 60))} min left"] if left else []
    for one in at_work:
        steps = last_step(one.command.run / "metrics.jsonl") if one.command.run else 0
        parts.append(one.command.about + (f" {100 * steps // one.command.steps} %" if steps else ""))
    return "  |  ".join(parts)


def carry_out(todo: Todo, jobs: int, log: Path, call: Call, tell: Callable[[str], None]) -> None:
    """Until nothing is ready and nobody is at work. Interrupted, it ends its workers, who save the step at hand."""
    log.mkdir(parents=True, exist_ok=True)
    crew = [_Worker(log / f"worker-{n}.log", max(1, (os.cpu_count() or 1) // jobs), call) for n in range(jobs)]
    try:
        while True:
            given = {worker.at_work.command.makes for worker in crew if worker.at_work}
            free = [worker for worker in crew if not worker.at_work]
            waiting = [command for command in todo.ready() if command.makes not in given]
            for worker, command in zip(free, waiting, strict=False):
                worker.give(command)
            busy = [worker for worker in crew if worker.at_work]
            if not busy:
                return
            wait([thing for worker in busy for thing in worker.tells], LOOK_EVERY)
            for worker in busy:
                if (how := worker.ended()) is not None:
                    todo.ended(*how)
            tell(todo.standing([worker.at_work for worker in crew if worker.at_work]))
    finally:
        stop([worker.process for worker in crew if worker.process])


class _Worker:
    """One process, started when it is first given something, and again where it died."""

    def __init__(self, log: Path, threads: int, call: Call):
        self.log, self.threads, self.call = log, threads, call
        self.process: BaseProcess | None = None
        self.line: Connection | None = None
        self.at_work: AtWork | None = None

    @property
    def tells(self) -> list[Connection | int]:
        assert self.process is not None and self.line is not None
        return [self.line, self.process.sentinel]

    def give(self, command: Command) -> None:
        if self.process is None or not self.process.is_alive():
            context = get_context("spawn")
            self.line, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, self.log, self.threads, self.call), daemon=True)
            self.process.start()
            theirs.close()  # so that its end shows here
        assert self.line is not None
        command.makes.parent.mkdir(parents=True, exist_ok=True)
        self.at_work = AtWork(command, time.monotonic())
        self.line.send(command)

    def ended(self) -> tuple[Command, str, float] | None:
        """(command, complaint, seconds), once it has."""
        assert self.process is not None and self.line is not None and self.at_work is not None
        is_gone = not self.process.is_alive()  # looked at first: what it said before its end is still in the pipe
        try:
            complaint = str(self.line.recv()) if self.line.poll() else None
        except (EOFError, OSError):
            complaint = None
        if complaint is None and not is_gone:
            return None
        if complaint is None:
            complaint = f"its process ended with {self.process.exitcode} (see {self.log})"
        at_work, self.at_work = self.at_work, None
        return at_work.command, complaint, time.monotonic() - at_work.since


def _work(line: Connection, log: Path, threads: int, call: Call) -> None:
    """In a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    with open(log, "a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        while True:
            try:
                command: Command = line.recv()
            except EOFError:
                return
            print(f"$ {command}", flush=True)
            begins = file.tell()
            code = call(command.words)
            line.send(_last_line(log, begins, code) if code else "")


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _last_line(log: Path, begins: int, code: int) -> str:
    """What a command said at its end."""
    with open(log, "rb") as file:
        file.seek(begins)
        said = file.read().decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("diptych: ") if said else f"ended with {code}"
