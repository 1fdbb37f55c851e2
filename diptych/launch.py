"""`--ranks N`: one command as several processes of this machine, as torchrun would start them, and ended as a plain one.

The process at hand becomes rank 0 and keeps the terminal; the others are started with the same words and keep silent. Ctrl-C
reaches all of them, and each ends by itself when another has ended (dist.py). What one of them alone complained of is passed on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, NamedTuple

from diptych.config import UserError

PATIENCE = 60.0  # seconds that the others have to follow when rank 0 has done its work
GRACE = 5.0  # seconds that a process has to follow one that failed
_MARK = "DIPTYCH_LAUNCHED"  # in the environment of processes that were started here


def _cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_launched() -> bool:
    return _MARK in os.environ


class Other(NamedTuple):
    process: subprocess.Popen[bytes]
    said: IO[str]

    def complaint(self) -> str:
        """The last line of one that failed, or nothing."""
        if not self.process.poll():
            return ""
        self.said.seek(0)
        lines = [line for line in self.said.read().splitlines() if line.strip()]
        return lines[-1].removeprefix("diptych: ") if lines else f"a process of this run ended with {self.process.returncode}"


@contextmanager
def ranks(count: int, words: Sequence[str]) -> Iterator[None]:
    """Inside, this process is rank 0 of `count`, and the others carry out `diptych WORDS`."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), _MARK: "1"}
    shared["OMP_NUM_THREADS"] = str(max(1, _cores() // count))
    with ExitStack() as stack:
        stack.enter_context(_environment(shared | {"RANK": "0", "LOCAL_RANK": "0"}))
        others = [_start(rank, words, stack) for rank in range(1, count)]
        is_over = threading.Event()
        stack.callback(is_over.set)
        threading.Thread(target=_watch, args=(others, is_over), daemon=True).start()
        try:
            yield
        except BaseException as error:
            _end(others, GRACE)
            told = next(filter(None, (other.complaint() for other in others)), "")
            if isinstance(error, UserError) and "see what that one said" in str(error) and told:
                raise UserError(told) from error
            raise
        _end(others, PATIENCE)


def _start(rank: int, words: Sequence[str], stack: ExitStack) -> Other:
    said = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))  # noqa: SIM115
    own = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-m", "diptych", *words]
    return Other(subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=said, stderr=said), said)


def _watch(others: Sequence[Other], is_over: threading.Event) -> None:
    """Before the processes have met, rank 0 waits for them inside torch and hears nothing: one that failed ends it from here."""
    while not is_over.wait(1):
        if any(other.process.poll() for other in others) and not is_over.wait(GRACE):
            told = next(filter(None, (other.complaint() for other in others)))
            os.write(2, f"diptych: {told}\n".encode())
            os._exit(2)


def _end(others: Sequence[Other], patience: float) -> None:
    for other in others:
        try:
            other.process.wait(patience)
        except subprocess.TimeoutExpired:
            other.process.kill()
            other.process.wait()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
