"""The short form of `make fire`: five kills of the toy. The slow form: every arm, two ranks under torchrun among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kills
import pytest

ALONE = [name for name, arm in kills.arms().items() if arm.ranks == 1]
RANKS = [name for name, arm in kills.arms().items() if arm.ranks > 1]
SHORT = ["toy, 2 workers, 2 micro-steps, bf16"]


def burnt(names: list[str], number: int, root: Path) -> list[kills.Verdict]:
    """A process of its own does the forking: this one has threads."""
    told: list[str] = []
    verdicts = kills.campaign(names, number, seed=5, root=root, tell=told.append)
    assert sum(len(verdict.kills) for verdict in verdicts) == number
    assert not [verdict for verdict in verdicts if verdict.unequal], told
    return verdicts


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 about fork beside threads
def test_killed_runs_end_as_the_run_left_alone(tmp_path: Path):
    burnt(SHORT, kills.CHAIN, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_every_arm(name: str, tmp_path: Path):
    burnt([name], 2 * kills.CHAIN, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKS)
def test_two_ranks(name: str, tmp_path: Path):
    burnt([name], kills.CHAIN, tmp_path)


def test_what_differs_is_seen(tmp_path: Path):
    """The judge itself: a bit of the weights, a lost line of the log, another sample."""
    arm = kills.arms()["toy"]
    reference = kills.reference_of(arm, tmp_path)
    alone = tmp_path / "reference" / "toy"
    assert not kills._unequal(alone, reference)

    def changed(name: str, change) -> str:
        beside = tmp_path / "changed"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(alone, beside)
        file = max(beside.glob(name))
        file.write_bytes(change(file.read_bytes()))
        return kills._unequal(beside, reference)

    def flipped(content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1])

    assert changed("run/checkpoints/step-*/model.safetensors", flipped) == "model.safetensors differs"
    assert changed("run/checkpoints/step-*/optimizer.safetensors", flipped) == "optimizer.safetensors differs"
    assert changed("run/model.safetensors", flipped) == "run/model.safetensors differs"
    assert changed("run/checkpoints/step-*/state.json", lambda content: content.replace(b'"skipped": 0', b'"skipped": 1')) == (
        "progress differs"
    )
    assert changed("run/metrics.jsonl", lambda content: content.partition(b"\n")[2]) == "log differs"
    assert "other samples at rank and step 0 0" in changed("order0", lambda content: content.replace(b"toy-", b"toy-4", 1))
    assert set(json.loads((alone / "moments0").read_text())) == set(kills.MOMENTS)
