"""Commands in lanes: each lane runs its commands one after the other, in a process of its own, beside the other lanes.

    lane 0   pretrain cnn ... | pretrain crossgrid ... | finetune vqa ... | evaluate vqa ...
    lane 1   finetune vqa ...                          | finetune vqa ...

Two processes of one thread each are 1.9 times as fast as one, one process of two threads 1.4 to 1.5 times, so studies on a CPU use
lanes. A lane imports torch once and calls the command line within its process; what is said there goes to a log file. Training goes
on where it stopped when the same study is asked for again, since each command keeps its own run directory; an evaluation, which
leaves one file, is done again only if what it judges is newer.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from diptych.config import UserError

LOOK_EVERY = 0.5  # seconds
LINE_EVERY = 60.0  # seconds, where nobody watches

Call = Callable[[Sequence[str]], int]  # carries out the words of a command; its exit code. The command line hands itself in


@dataclass(frozen=True)
class Command:
    """One `diptych` command, and the file that is there when it has been carried out."""

    about: str  # a few words for the progress line
    words: tuple[str, ...]  # without "diptych"
    makes: Path
    steps: int = 0  # of training; 0 where it does not train
    needs: Path | None = None  # what another lane may still be making

    def __str__(self) -> str:
        return shlex.join(["diptych", *self.words])

    @property
    def run(self) -> Path | None:
        """The run directory, of a command that trains."""
        return self.makes.parent if self.steps else None


def run(lanes: Sequence[Sequence[Command]], log: Path, call: Call, tell: Callable[[str], None]) -> None:
    """Carry out all commands. The first failure ends every lane: a `UserError` with what the command said."""
    log.mkdir(parents=True, exist_ok=True)
    for command in (command for lane in lanes for command in lane):
        command.makes.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // len(lanes))
    logs = [log / f"lane-{n}.log" for n in range(len(lanes))]
    context = get_context("spawn")
    processes = [
        context.Process(target=_lane, args=(tuple(lane), file, threads, call), daemon=True)
        for lane, file in zip(lanes, logs, strict=True)
    ]
    for process in processes:
        process.start()
    failed: list[Path] = []
    try:
        while not failed and any(process.is_alive() for process in processes):
            for process in processes:
                process.join(LOOK_EVERY / len(processes))
            failed = [file for process, file in zip(processes, logs, strict=True) if process.exitcode]
            tell("   |   ".join(_standing(lane) for lane in lanes))
        failed = failed or [file for process, file in zip(processes, logs, strict=True) if process.exitcode]
    finally:
        stop(processes)
    if failed:
        said = failed[0].read_text(encoding="utf-8", errors="replace").strip().splitlines() if failed[0].exists() else []
        raise UserError(f"{said[-1].removeprefix('diptych: ') if said else 'a lane ended early'} (see {failed[0]})")


def stop(processes: Sequence[BaseProcess]) -> None:
    """Ask for an end after the step at hand, which is then saved; insist after ten seconds."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _lane(commands: Sequence[Command], log: Path, threads: int, call: Call) -> None:
    """In a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    import torch

    torch.set_num_threads(threads)
    with open(log, "a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        for command in commands:
            if not command.steps and command.makes.exists() and not _is_stale(command):
                continue
            while command.needs and not command.needs.exists():
                time.sleep(LOOK_EVERY)  # whoever makes it is alive, or the parent has ended us
            print(f"$ {command}", flush=True)
            code = call(command.words)
            if code:
                sys.exit(code)


def _is_stale(command: Command) -> bool:
    """Whether what it was made from is newer. (What is not there yet will be.)"""
    return command.needs is not None and (
        not command.needs.exists() or command.needs.stat().st_mtime > command.makes.stat().st_mtime
    )


def _standing(commands: Sequence[Command]) -> str:
    """What a lane is at, and how far: by what its commands have written."""
    now = next((command for command in commands if not command.makes.exists()), None)
    if now is None:
        return "done"
    place = commands.index(now) + 1
    step = last_step(now.run / "metrics.jsonl") if now.run else 0
    return f"{place}/{len(commands)} {now.about}" + (f" {100 * step // now.steps} %" if now.steps else "")


def last_step(metrics: Path) -> int:
    try:
        with open(metrics, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().splitlines()
        return next((int(json.loads(line)["step"]) for line in reversed(lines) if line.endswith(b"}") and line.startswith(b"{")), 0)
    except (OSError, ValueError):
        return 0


def progress_line() -> Callable[[str], None]:
    """Shows what is going on: one line that is written over on a terminal, a line a minute elsewhere."""
    began = time.monotonic()
    spoke = began - LINE_EVERY

    def tell(text: str) -> None:
        nonlocal spoke
        now = time.monotonic()
        if sys.stderr.isatty():
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            print(f"\r{_clock(now - began)}  {text}"[:width].ljust(width), end="", file=sys.stderr, flush=True)
        elif now - spoke >= LINE_EVERY:
            spoke = now
            print(f"{_clock(now - began)}  {text}", file=sys.stderr, flush=True)

    return tell


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
