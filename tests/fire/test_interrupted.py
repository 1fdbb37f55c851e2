"""What people and systems do to a run: Ctrl-C once and twice, and a loader process shot down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy_run
from torch.utils.data import get_worker_info
from toy_run import state_of, train

from diptych.config import UserError
from diptych.data.mixture import Source

LONG = {"steps": 100_000, "checkpoint_every": 5}


@contextmanager
def started(out: Path, at_step_3: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, which tells standard output when its third step is done, and then does something."""
    program = f"""
import collections, itertools, signal, sys; sys.path.insert(0, {str(Path(toy_run.__file__).parent)!r})
import toy_run
from diptych.train.loop import Loop
report = Loop.report
def reported(loop, outcome):
    report(loop, outcome)
    if loop.progress.step == 3:
        print("three", flush=True)
        {at_step_3}
Loop.report = reported
toy_run.train(toy_run.Path({str(out)!r}), train={LONG!r}, data={{"workers": 1}}, quiet=False)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "three\n"
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)


def ctrl_c(child: subprocess.Popen[str]) -> None:
    """As a terminal sends it: to the run and to its loader processes."""
    os.killpg(child.pid, signal.SIGINT)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path):
    with started(tmp_path, "pass") as child:
        ctrl_c(child)
        said = child.communicate(timeout=300)[1]
    assert child.returncode == 130
    assert "stopping after this step; Ctrl-C leaves at once" in said
    assert "is saved in" in said and "the same command goes on from there" in said
    assert "Traceback" not in said
    assert list((tmp_path / "checkpoints").glob("step-*"))


def test_a_second_ctrl_c_leaves_at_once_even_from_within_a_call_that_never_returns(tmp_path: Path):
    """A loop in C that never comes back to Python, as a hung collective would be."""
    with started(tmp_path, "signal.pause(); collections.deque(itertools.repeat(0), maxlen=0)") as child:
        ctrl_c(child)
        assert child.stderr is not None
        assert any("stopping after this step" in line for line in child.stderr)
        time.sleep(1)  # into the loop
        assert child.poll() is None
        ctrl_c(child)
        assert child.wait(timeout=60) == -signal.SIGINT  # which a shell shows as 130
        child.communicate(timeout=60)  # the loader process leaves, too: it would hold the pipe open


@dataclass
class Deadly(toy_run.Pictures):
    """Whoever reads picture 17 in a loader process dies, as if the system had taken it for its memory."""

    def __getitem__(self, index: int):
        if index == 17 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 about fork beside threads
def test_a_lost_loader_process_is_one_line_and_the_run_goes_on_without_it(tmp_path: Path):
    often = {"checkpoint_every": 1}
    with pytest.raises(UserError, match=r"step \d: a loader process was killed from outside; .* the same command goes on"):
        train(tmp_path / "a", source=[Source("toy", Deadly())], train=often, data={"workers": 1})
    train(tmp_path / "a", source=[Source("toy", Deadly())], train=often)
    train(tmp_path / "b", source=[Source("toy", Deadly())], train=often)
    assert state_of(tmp_path / "a") == state_of(tmp_path / "b")
