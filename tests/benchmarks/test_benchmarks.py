"""Every benchmark goes through its code at a toy size. What it measures then means nothing and is not looked at."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
from step_flops import flops_of_step

from benchmarks import contrast, memory, to_accuracy, utilisation
from benchmarks.__main__ import names, table
from benchmarks.side_by_side import Row
from benchmarks.vilt_twice import TOY, ours_of, rows, two_streams
from diptych.atelier import make
from diptych.nn import packing
from tools.marked import put

PAGE = Path(__file__).parents[2] / "docs/speed.md"


@pytest.fixture
def one_thread():
    """Benchmarks choose their threads; tests that come after do not."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make.make(folder / "scenes", small=True, scenes=60)
    return folder


@pytest.mark.parametrize("name", ["vilt_step", "utilisation"])
def test_a_step_is_measured(name, one_thread):
    module = importlib.import_module(f"benchmarks.{name}")
    found = list(module.run(module.LEAST))
    assert all(math.isfinite(row.value) and row.value > 0 for row in found)
    assert {row.name.rpartition(" ")[2] for row in found} == {"fp32", "bf16"}


@pytest.mark.parametrize("build", [ours_of, two_streams], ids=["single", "dual"])
def test_useful_flops_are_those_that_are_counted_where_nothing_is_spare(build, monkeypatch):
    """With lists and benches of exactly the length of their tokens. The pooler answers for every row, where few ask."""
    monkeypatch.setattr(packing, "rounded", lambda length, steps=1: length)
    shape = TOY._replace(width=64, layers=3)
    model, batch = build(shape), rows(shape)
    with torch.autocast("cpu", torch.bfloat16):  # where attention is products, which torch counts
        counted = flops_of_step(model, batch)
    assert 0.9 * counted < utilisation.useful_flops(model, batch) < counted


def test_memory_is_measured_in_processes_of_their_own():
    ordinary, again = list(memory.run(memory.LEAST))
    assert again.name == ordinary.name + ", recomputing"
    assert 0.2 < ordinary.value < 5


def test_the_largest_batch_is_found():
    tried = []

    def fits(pairs: int) -> float | None:
        """2 GB and a little more than a line."""
        tried.append(pairs)
        gb = 2 + 0.05 * pairs + 1e-5 * pairs**2
        return gb if gb <= 20 else None

    found = memory.largest(fits, 20, 2)
    assert fits(found) and not fits(math.ceil(found * 1.03))
    assert len(tried) < 12
    assert memory.largest(lambda pairs: None, 20, 2) == 0


def test_a_contrast_is_measured_in_pieces_and_at_once():
    compared, most = contrast.run(contrast.LEAST)
    assert 0.5 < compared.value < 2 and 0 < most.value < 4


@pytest.mark.slow
def test_two_cores_are_measured(scenes, monkeypatch):
    two_cores = importlib.import_module("benchmarks.two_cores")
    monkeypatch.setenv("DIPTYCH_DATA", str(scenes))
    times, waiting = two_cores.run(two_cores.LEAST)
    assert times.value > 0 and 0 <= waiting.value <= 100


def test_our_side_and_the_peer_start_alike_and_ours_is_taken_to_the_end(tmp_path, one_thread):
    scale = to_accuracy.LEAST._replace(sides=(to_accuracy.OURS,), out=tmp_path)
    to_accuracy.check_equal(to_accuracy.Course.of(scale))
    (row,) = to_accuracy.run(scale)
    assert math.isfinite(row.value)
    assert {"curves.json", "curves.svg"} <= {path.name for path in tmp_path.iterdir()}


def test_the_peer_learns_what_we_learn(tmp_path, one_thread):
    """Step by step, with transformers' Trainer: the same losses, the same answers."""
    course = to_accuracy.Course.of(to_accuracy.LEAST._replace(out=tmp_path))
    for name in ("pretraining", "tuning"):
        recipe = getattr(course, name)
        train = recipe.train.model_copy(update={"log_every": 1, "precision": "fp32"})
        object.__setattr__(course, name, recipe.model_copy(update={"train": train}))
    ours, theirs = to_accuracy.ours(course), to_accuracy.peer(course, is_bf16=False)
    for stage, losses in ours.losses.items():
        assert theirs.losses[stage] == pytest.approx(losses, rel=1e-3), stage
    assert [point.accuracy for point in theirs.curve] == pytest.approx([point.accuracy for point in ours.curve])
    assert len(to_accuracy.peer(course, is_bf16=True).curve) == len(ours.curve)


def test_the_page_has_a_place_for_every_benchmark_and_keeps_the_rest(tmp_path):
    row = Row("a step", 1.234, "x", "a peer", 1.1, 1.4, 7, "somehow")
    page, copy = PAGE.read_text(encoding="utf-8"), tmp_path / "speed.md"
    for name in names():
        copy.write_text(page, encoding="utf-8")
        for _ in range(2):
            put(copy, name, table(name, [row]))
            once = copy.read_text(encoding="utf-8")
            assert once.count("| a step | 1.23x | [1.10, 1.40] | 7 | a peer | somehow |") == 1
            assert once.startswith(page.partition(f"<!-- {name} -->")[0])
            assert once.endswith(page.partition(f"<!-- end of {name} -->")[2])
    with pytest.raises(SystemExit, match="no place for other"):
        put(copy, "other", "")
