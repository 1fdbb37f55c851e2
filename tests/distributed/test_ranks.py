"""Two gloo ranks under torchrun are one process on the union of their samples. One start of torchrun proves all of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_program import GENTLE, toy_run
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    program = [str(TESTS / "distributed" / "ranks_program.py"), str(out)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def found(runs: Path) -> dict:
    return json.loads((runs / "found.json").read_text())


def test_values_and_refusals_reach_every_rank(found):
    assert found["gathered"] == [{"rank": 0, "text": "é"}, {"rank": 1, "text": "éééé"}]
    assert found["counts"] == {"both": 3.0, "only0": 1, "only1": 1}
    assert found["refused"] == ["no such thing", "no such thing"]


def test_gradients_are_summed_and_unused_parameters_follow_the_rule(found):
    both = [[3.0] * 3, [1.0] * 3, None]  # 1 + 2; used on the second rank alone; used on none
    assert found["gradients"] == [both, both]


def test_two_ranks_equal_one_process_on_the_union(runs, tmp_path):
    toy_run.train(tmp_path, train=GENTLE, norm=False, dropout=0.0)
    ours, theirs = (load_file(run / "model.safetensors") for run in (tmp_path, runs / "union"))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-6, msg=name)
    for one, two in zip(toy_run.log_of(tmp_path), toy_run.log_of(runs / "union"), strict=True):
        assert one.keys() == two.keys()
        assert all(two[name] == pytest.approx(value, rel=1e-5) for name, value in one.items())


def test_two_ranks_resumed_equal_two_ranks_uninterrupted(runs, found):
    assert found["crashed"] == "crash"
    assert toy_run.state_of(runs / "again") == toy_run.state_of(runs / "whole")


def test_a_checkpoint_of_two_ranks_continues_on_one(runs, tmp_path, capsys):
    """The same samples in the same order; the sums differ in their last bits."""
    shutil.copytree(runs / "moved", tmp_path / "moved")
    for file in ("result.json", "model.safetensors"):
        (tmp_path / "moved" / file).unlink()
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "step-00000008")
    toy_run.train(tmp_path / "moved", train=GENTLE, norm=False, dropout=0.0, quiet=False)
    toy_run.train(tmp_path / "alone", train=GENTLE, norm=False, dropout=0.0)
    assert "resumed after step 6 of 8; changed: ranks 2 -> 1, accumulate 2 -> 1" in capsys.readouterr().err
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("alone", "moved"))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(runs):
    (skipped,) = (json.loads(line) for line in (runs / "poisoned" / "skipped.jsonl").read_text().splitlines())
    assert skipped["step"] == 3
    assert skipped["not_finite"] == ["loss/mlm"]
    assert [len(place["keys"]) for place in skipped["samples"]] == [4, 4]
    assert json.loads((runs / "poisoned" / "result.json").read_text())["skipped"] == 1


def test_state_that_differs_between_ranks_is_an_error(found):
    assert found["diverged"] == ["mean_W differs between ranks: `after_step` must commit sums over all ranks"] * 2
