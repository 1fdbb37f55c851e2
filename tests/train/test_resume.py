"""A run that was stopped, by whatever, and started again is the run that was not stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_run
from toy_run import state_of, train

from diptych.config import UserError
from diptych.train.loop import Loop
from diptych.train.run import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 about fork beside threads
HARD = {"accumulate": 2, "precision": "bf16"}  # dropout and batch normalisation are on in the toy


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, do) -> None:
    """Call `do` once, when the step is done and before it is saved."""
    report = Loop.report

    def reported(loop: Loop, outcome) -> None:
        report(loop, outcome)
        if loop.progress.step == step:
            monkeypatch.setattr(Loop, "report", report)
            do()

    monkeypatch.setattr(Loop, "report", reported)


def crash() -> None:
    raise RuntimeError("crash")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    train(out, train=HARD)
    return state_of(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_crash(workers, tmp_path, monkeypatch, uninterrupted):
    at_step(monkeypatch, 5, crash)  # between the checkpoint of step 3 and that of step 6, after the log of step 4
    with pytest.raises(RuntimeError, match="crash"):
        train(tmp_path, train=HARD, data={"workers": workers})
    assert [line["step"] for line in toy_run.log_of(tmp_path)] == [2, 4]
    train(tmp_path, train=HARD, data={"workers": workers})
    assert state_of(tmp_path) == uninterrupted


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_saves_and_goes_on_later(signum, code, tmp_path, monkeypatch, uninterrupted):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signum))
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, train=HARD, data={"workers": 1})
    assert stopped.value.code == code
    assert signal.getsignal(signum) == before
    assert (tmp_path / "checkpoints" / "step-00000004").is_dir()
    train(tmp_path, train=HARD)
    assert state_of(tmp_path) == uninterrupted


def test_killed_for_real(tmp_path, uninterrupted):
    """SIGKILL to a process with loader workers, five steps in; its lock goes with it."""
    script = f"""
import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})
import toy_run
from diptych.train.loop import Loop
report = Loop.report
Loop.report = lambda loop, outcome: (report(loop, outcome), time.sleep(600 if loop.progress.step == 5 else 0))
toy_run.train(toy_run.Path({str(tmp_path)!r}), train={HARD!r}, data={{"workers": 2}})
"""
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "step-00000003").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process"):
        train(tmp_path, train=HARD)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    train(tmp_path, train=HARD, data={"workers": 2})
    assert state_of(tmp_path) == uninterrupted


def test_finished_runs_return_their_result_and_others_are_refused(tmp_path):
    result = train(tmp_path)
    assert train(tmp_path) == result == json.loads((tmp_path / "result.json").read_text())
    assert {"task", "split", "system", "preset", "from", "metrics", "n", "ci95", "seed", "config_sha256"} <= result.keys()
    assert train(tmp_path, data={"workers": 1}) == result
    with pytest.raises(UserError, match=r"train\.lr: 0\.01 there, 0\.02 here"):
        train(tmp_path, train={"lr": 2e-2})
    with pytest.raises(UserError, match="other content"):
        train(tmp_path, source=toy_run.sources(41))
    assert train(tmp_path) == result


def test_a_start_that_failed_does_not_bind_the_directory(tmp_path):
    with pytest.raises(UserError, match="does not divide"):
        train(tmp_path, train={"batch_size": 9, "accumulate": 2})
    train(tmp_path)


def test_killed_between_the_last_checkpoint_and_the_result(tmp_path):
    result = train(tmp_path)
    before = state_of(tmp_path)
    for file in ("result.json", "model.safetensors"):
        (tmp_path / file).unlink()
    again = train(tmp_path)
    assert state_of(tmp_path) == before
    assert again == result | {"seconds": again["seconds"]}
