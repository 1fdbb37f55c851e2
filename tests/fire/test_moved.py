"""A run that goes on elsewhere: other workers, other accumulation, other precision, two ranks and one.

The order of samples is the same, the sitting says what changed, and losses stay within 1e-4 of the run that stayed (2e-2 where the
precision changed: bf16 keeps 8 bits)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kills
import pytest
import toy_run
from toy_run import log_of, train

# Adam makes a step of full length out of the rounding of a zero gradient unless eps is above it; see tests/distributed
GENTLE = {"eps": 1e-3, "checkpoint_every": 1, "log_every": 1}
STILL = {"norm": False, "dropout": 0.0}  # what depends on how a batch is divided

MOVES = {
    "more workers": ({}, {"data": {"workers": 2}}, "workers 0 -> 2", 1e-6),
    "fewer workers": ({"data": {"workers": 1}}, {}, "workers 1 -> 0", 1e-6),
    "micro-steps": ({}, {"train": {"accumulate": 4}}, "accumulate 1 -> 4", 1e-4),
    "to bf16": ({}, {"train": {"precision": "bf16"}}, "precision float32 -> bfloat16", 2e-2),
    "from bf16": ({"train": {"precision": "bf16"}}, {}, "precision bfloat16 -> float32", 2e-2),
}


def noting(beside: Path):
    """The samples of every step from here on, in this process."""
    beside.mkdir()
    kills._note_order(beside)


def samples_of(beside: Path) -> dict[int, list[str]]:
    """Step -> keys over all ranks and micro-steps, in order."""
    found: dict[int, list[tuple[int, int, list[str]]]] = {}
    for where, keys in dict(kills.orders_of(beside)).items():  # a step that was fetched and left is fetched again: the last counts
        rank, step = map(int, where.split())
        found.setdefault(step, []).extend((m, rank, micro) for m, micro in enumerate(json.loads(keys)))
    return {step: list(dict.fromkeys(key for _, _, micro in sorted(parts) for key in micro)) for step, parts in found.items()}


def expected(steps: range) -> dict[int, list[str]]:
    return {step: [f"toy-{n}" for n in toy_run.indices(range(8 * step, 8 * step + 8))] for step in steps}


def assert_near(moved: Path, alone: Path, tolerance: float) -> None:
    losses = ([record for record in log_of(run) if "loss" in record] for run in (moved, alone))
    for one, two in zip(*losses, strict=True):
        assert one["step"] == two["step"]
        assert one["loss"] == pytest.approx(two["loss"], rel=tolerance), one["step"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    train(out, train=GENTLE, **STILL)
    return out


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 about fork beside threads
@pytest.mark.parametrize("move", MOVES)
def test_another_layout_takes_the_same_samples_and_says_so(move: str, alone: Path, tmp_path: Path, monkeypatch, capsys):
    before, after, said, tolerance = MOVES[move]
    monkeypatch.setattr(kills.Loop, "fetch", kills.Loop.fetch)  # put back at the end
    noting(tmp_path / "beside")
    train(tmp_path / "run", train=GENTLE | before.get("train", {}), data=before.get("data"), stop_after=4, **STILL)
    train(tmp_path / "run", train=GENTLE | after.get("train", {}), data=after.get("data"), quiet=False, **STILL)
    assert f"resumed after step 4 of 8; changed: {said}" in capsys.readouterr().err
    assert_near(tmp_path / "run", alone, tolerance)
    assert samples_of(tmp_path / "beside") == expected(range(8))


@pytest.mark.slow
def test_one_rank_and_two_and_one(alone: Path, tmp_path: Path):
    """Three steps on one rank, three on two under torchrun, the rest on one again; SIGTERM ends a sitting, as a cluster would."""
    program = f"""
import os, sys; sys.path[:0] = {[str(Path(kills.__file__).parent), str(Path(toy_run.__file__).parent)]!r}
import kills, toy_run
from pathlib import Path
from diptych import dist
kills._note_order(Path(sys.argv[1]))
stop = int(sys.argv[2])
with dist.process_group():
    given = dict(train={GENTLE!r}, quiet=False, stop_after=stop if dist.is_first() and stop else None, **{STILL!r})
    try:
        toy_run.train(Path(sys.argv[1]) / "run", **given)
    except SystemExit:
        pass
"""
    (tmp_path / "program.py").write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    said = []
    for ranks, stop in ((1, 3), (2, 3), (1, 0)):
        command = [*torchrun, str(ranks), str(tmp_path / "program.py"), str(tmp_path), str(stop)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stderr)
    assert "resumed after step 3 of 8; changed: ranks 1 -> 2" in said[1]
    assert "resumed after step 6 of 8; changed: ranks 2 -> 1" in said[2]
    assert_near(tmp_path / "run", alone, 1e-4)
    assert samples_of(tmp_path) == expected(range(8))
    shutil.rmtree(tmp_path / "run")
