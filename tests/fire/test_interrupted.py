"""What people and systems do to a run: Ctrl-C once and twice, and a loader process shot down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy_run
from torch.utils.data import get_worker_info
from toy_run import state_of, train

from diptych.config import UserError
from diptych.data.mixture import Source

LONG = {"steps": 100_000, "checkpoint_every": 5}


def started(out: Path, at_step_3: str) -> subprocess.Popen[str]:
    """A run in a process of its own, which tells standard output when its third step is done, and then does something."""
    program = f"""
import collections, itertools, sys, time; sys.path.insert(0, {str(Path(toy_run.__file__).parent)!r})
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
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "three\n"
    return child


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path):
    child = started(tmp_path, "pass")
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 130
    assert "stopping after this step; Ctrl-C leaves at once" in said
    assert "is saved in" in said and "the same command goes on from there" in said
    assert "Traceback" not in said
    assert list((tmp_path / "checkpoints").glob("step-*"))


def test_a_second_ctrl_c_leaves_at_once_even_from_within_a_call_that_never_returns(tmp_path: Path):
    """A loop in C that never comes back to Python, as a hung collective would be."""
    child = started(tmp_path, "time.sleep(0.5); collections.deque(itertools.repeat(0), maxlen=0)")
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    time.sleep(1)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    child.wait(timeout=60)
    assert time.monotonic() - began < 2
    assert child.returncode == -signal.SIGINT  # which a shell shows as 130
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
