"""Ctrl-C, SIGTERM and a lost terminal (SIGHUP) ask for an end after the step at hand; a further Ctrl-C leaves at once.

For that, the first request gives Ctrl-C back to the operating system: Python would hear the second only between two calls into
torch, of which one may last for minutes, or for ever where it waits for another process. A further SIGTERM does not: torchrun and
batch systems may send one request twice, and who is impatient sends SIGKILL.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType

from diptych import dist


class Interrupted(SystemExit):
    """The run was asked to stop, has saved its state and has said how to go on. Exit code 128 + signal, as shells have it."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


class StopRequest:
    """As a context: `signum` is None until someone asks to stop. Only the main thread can listen."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __enter__(self) -> StopRequest:
        self.listening = threading.current_thread() is threading.main_thread()
        if self.listening:
            self.before = {s: signal.signal(s, self._asked) for s in _asking()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.listening:
            for signum, handler in self.before.items():
                signal.signal(signum, handler)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            return
        self.signum = signum
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if dist.is_first():
            with suppress(OSError):  # a terminal that is gone
                os.write(2, b"\nstopping after this step; Ctrl-C leaves at once\n")


def _asking() -> list[signal.Signals]:
    asking = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks not to be told
        asking.append(signal.SIGHUP)
    return asking
