"""One command as several processes: the same result, and nobody left waiting when one of them fails."""

import json
import os
import subprocess
import sys

import pytest

from diptych.data import folder


def diptych(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "diptych", *words], capture_output=True, text=True, timeout=240)


def test_a_run_on_two_processes_is_the_run_on_one(tmp_path):
    folder.example(tmp_path / "mine")
    few = ["pretrain", "vilt:tiny", "--data", str(tmp_path / "mine"), "--set", "train.steps=3", "--set", "train.precision=fp32"]
    alone, together = (tmp_path / "alone", tmp_path / "together")
    for ranks, out in ((1, alone), (2, together)):
        done = diptych(*few, "--ranks", str(ranks), "--out", str(out))
        assert done.returncode == 0, done.stderr
    losses = [json.loads((out / "result.json").read_text())["metrics"] for out in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    layout = json.loads(next((together / "checkpoints").glob("*/state.json")).read_text())["layout"]
    assert layout["ranks"] == 2


def test_a_process_that_fails_before_they_meet_ends_the_others_and_is_heard():
    program = "import time; from diptych import launch\nwith launch.ranks(2, ['pretrain', 'vilr:tiny']): time.sleep(120)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110, env=os.environ)
    assert done.returncode == 2
    assert "vilr" in done.stderr and "vilt" in done.stderr, "the nearest valid name is given, as by one process"
