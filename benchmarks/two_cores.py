"""Two cores against one, through the command line: one thread, two threads, two ranks (`--ranks`); and the wait for data.

    samples a second    of `diptych pretrain` on the embedded scenes, from metrics.jsonl, the first window left out
    waiting             share of a step's time in which the trainer waits for its data, with 0 and 1 loader processes

One core is the run bound to one core (taskset, where there is one), with one thread.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.side_by_side import Row

HERE = Path(__file__).parents[1]


class Way(NamedTuple):
    name: str
    threads: int
    ranks: int = 1
    workers: int = 0


ONE, THREADS, RANKS = Way("one core", 1), Way("two threads", 2), Way("two ranks", 1, ranks=2)


class Scale(NamedTuple):
    systems: tuple[str, ...] = ("vilt:small", "crossgrid:small")
    ways: tuple[Way, ...] = (THREADS, RANKS)  # each against one core
    workers: tuple[int, ...] = (0, 1)
    data: str = "scenes"
    window: int = 20  # steps
    windows: int = 3  # the first of which is warm-up
    rounds: int = 3
    settings: tuple[str, ...] = ()


FULL = Scale()
LEAST = Scale(("vilt:tiny",), (RANKS,), (1,), window=1, windows=2, rounds=1, settings=("train.batch_size=4",))


class Seen(NamedTuple):
    samples_per_second: float
    waiting: float


def run(scale: Scale = FULL) -> Iterator[Row]:
    for system in scale.systems:
        rates: dict[Way, list[float]] = {way: [] for way in (ONE, *scale.ways)}
        for _ in range(scale.rounds):
            for way, seen in rates.items():
                seen.append(_run(system, way, scale).samples_per_second)
        for way in scale.ways:
            times = [two / one for one, two in zip(rates[ONE], rates[way], strict=True)]
            how = f"{statistics.median(rates[ONE]):.0f} to {statistics.median(rates[way]):.0f} samples/s"
            yield Row(f"{system}, {way.name}", statistics.median(times), "x", "one core", min(times), max(times), len(times), how)
        for workers in scale.workers:
            waits = [100 * _run(system, THREADS._replace(workers=workers), scale).waiting for _ in range(scale.rounds)]
            name = f"{system}, two threads, waiting for data, {workers} loader processes"
            yield Row(name, statistics.median(waits), "%", "", min(waits), max(waits), len(waits))


def _run(system: str, way: Way, scale: Scale) -> Seen:
    """A short run of its own process(es): medians over its windows."""
    steps = scale.window * scale.windows
    settings = (f"train.steps={steps}", f"train.log_every={scale.window}", f"train.checkpoint_every={steps}")
    settings += (f"data.workers={way.workers}", *scale.settings)
    with tempfile.TemporaryDirectory() as folder:
        words = ["pretrain", system, "--data", scale.data, "--ranks", str(way.ranks), "--out", folder + "/run"]
        words += [word for setting in settings for word in ("--set", setting)]
        bound = ["taskset", "-c", "0"] if way == ONE and shutil.which("taskset") else []
        _call([*bound, sys.executable, "-m", "diptych", *words], way.threads)
        records = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
    kept = [record for record in records if "samples_per_second" in record][1:]
    return Seen(*(statistics.median(record[name] for record in kept) for name in Seen._fields))


def _call(words: Sequence[str], threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr}")
