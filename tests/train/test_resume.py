"""A run that was stopped, by whatever, and started again is the run that was not stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_run
from toy_run import state_of, train

from diptych import checkpoint
from diptych.config import UserError
from diptych.train.loop import Loop
from diptych.train.run import Interrupted, pretrain

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


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_asked_to_stop_it_saves_and_goes_on_later(signum, code, tmp_path, monkeypatch, uninterrupted):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signum))
    if signum == signal.SIGHUP:
        signal.signal(signum, signal.SIG_DFL)  # these tests themselves may run under nohup
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


@pytest.mark.parametrize("names", [["README.md", "config.json"], ["notes.txt"], ["config.json", "model.safetensors"]])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_what_is_not_a_run_s_is_not_written_over(names, resume, tmp_path):
    """The folder of a project, or of pictures; and a model that was saved, whose config.json is a run's."""
    train(tmp_path / "run")
    out = tmp_path / "mine"
    out.mkdir()
    for name in names:
        from_run = "model.safetensors" in names
        (out / name).write_bytes((tmp_path / "run" / name).read_bytes() if from_run else b"{}")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    quiet = {"tokenizer": toy_run.TOKENIZER, "trackers": (), "quiet": True}
    with pytest.raises(UserError, match=r"holds a model already|is no run's directory"):
        pretrain(toy_run.recipe(), toy_run.Toy, toy_run.sources(), out, resume=resume, **quiet)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")], ids=["lost", "altered"]
)
def test_weights_of_a_finished_run_are_written_again(harm, tmp_path):
    result = train(tmp_path)
    weights, logged = tmp_path / "model.safetensors", (tmp_path / "metrics.jsonl").read_bytes()
    right = weights.read_bytes()
    harm(weights)
    with pytest.raises(UserError, match=r"no such file|not what its run wrote"):
        checkpoint.read_weights(weights)
    again = train(tmp_path)
    assert weights.read_bytes() == right and (tmp_path / "metrics.jsonl").read_bytes() == logged
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    harm(weights)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="its weights are lost and it has no checkpoint"):
        train(tmp_path)


def test_a_lost_terminal_is_heard_unless_nohup_asked_not_to(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGHUP))
        train(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "result.json").exists()


def test_a_copy_beside_the_checkpoints_is_none_of_them(tmp_path):
    train(tmp_path, train={"checkpoint_every": 1}, stop_after=3)
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-best")
    saved = checkpoint.newest(checkpoints, print)
    assert saved is not None and saved.step == 3
    train(tmp_path, train={"checkpoint_every": 1})
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000007", "step-00000008", "step-best"]


@pytest.mark.parametrize(("file", "lost"), [("state.json", "skipped_in_a_row"), ("manifest.json", "optimizer.safetensors")])
def test_a_checkpoint_of_another_version_is_named(file, lost, tmp_path):
    train(tmp_path, train={"checkpoint_every": 1}, stop_after=3)
    newest = tmp_path / "checkpoints/step-00000003"
    held = json.loads((newest / file).read_bytes())
    del held[lost]
    (newest / file).write_bytes(checkpoint.to_json(held))
    if file == "state.json":
        manifest = json.loads((newest / "manifest.json").read_bytes())
        manifest[file]["sha256"] = hashlib.sha256((newest / file).read_bytes()).hexdigest()
        (newest / "manifest.json").write_bytes(checkpoint.to_json(manifest))
    with pytest.raises(UserError, match=f"has no {lost.partition('.')[0]}: written by another version"):
        train(tmp_path, train={"checkpoint_every": 1})


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
