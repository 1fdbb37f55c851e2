"""Peak memory of one ViLT pre-training step against transformers' at equal batch, and the largest batch that fits.

Each step runs in a process of its own, which reports its highest resident size (VmHWM): interpreter, libraries, weights, gradients,
optimiser state and activations, as a machine's owner sees it. With `train.recompute` on our side stands
`gradient_checkpointing_enable()` on the peer's. The largest batch is the largest whose step was really taken within the limit.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.side_by_side import Row
from benchmarks.vilt_twice import BASE, PRECISIONS, SMALL, TOY, Shape, our_step, ours_of, peer_of, peer_step, rows
from diptych.nn import recompute

HERE = Path(__file__).parents[1]


class Scale(NamedTuple):
    shapes: tuple[Shape, ...] = (SMALL._replace(pairs=64), BASE._replace(pairs=16))
    precisions: tuple[str, ...] = ("fp32", "bf16")
    limit_gb: float | None = 20.0  # of the largest batch; None: it is not looked for
    largest_of: tuple[Shape, ...] = (BASE,)


FULL = Scale()
LEAST = Scale((TOY,), ("fp32",), None)


class Side(NamedTuple):
    whose: str  # "ours" or "theirs"
    recomputes: bool


OURS, OURS_AGAIN, THEIRS, THEIRS_AGAIN = Side("ours", False), Side("ours", True), Side("theirs", False), Side("theirs", True)


def run(scale: Scale = FULL) -> Iterator[Row]:
    for shape in scale.shapes:
        for precision in scale.precisions:
            for ours, theirs, added in ((OURS, THEIRS, ""), (OURS_AGAIN, THEIRS_AGAIN, ", recomputing")):
                own, other = peak_gb(ours, shape, precision), peak_gb(theirs, shape, precision)
                assert own is not None and other is not None, "killed for its memory: take smaller batches"
                how = f"{own:.2f} GB to {other:.2f} GB"
                yield Row(f"peak memory, {shape}, {precision}{added}", other / own, "x", "transformers" + added, how=how)
    for shape in scale.largest_of if scale.limit_gb else ():
        for precision in scale.precisions:  # without recomputing, with which each of the search's steps takes many minutes
            most, most_theirs = (_largest(side, shape, precision, scale.limit_gb or 0) for side in (OURS, THEIRS))
            yield Row(
                f"pairs in {scale.limit_gb:g} GB, ViLT {shape.name}, {precision}", most, "pairs", f"transformers: {most_theirs}"
            )


def peak_gb(side: Side, shape: Shape, precision: str, limit_gb: float | None = None) -> float | None:
    """Highest resident size of a process that takes one step; None if it did not get through."""
    asked = json.dumps({"side": side, "shape": shape, "precision": precision, "limit_gb": limit_gb})
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", asked], cwd=HERE, capture_output=True, text=True)
    if done.returncode and not ("alloc" in done.stderr or "MemoryError" in done.stderr or done.returncode < 0):
        raise RuntimeError(done.stderr)
    return None if done.returncode else float(done.stdout.split()[-1])


def _largest(side: Side, shape: Shape, precision: str, limit_gb: float) -> int:
    def fits(pairs: int) -> float | None:
        peak = peak_gb(side, shape._replace(pairs=pairs), precision, limit_gb)
        return peak if peak is not None and peak <= limit_gb else None

    return largest(fits, limit_gb, 16)  # a line through fewer pairs says too little of where the limit is met


def largest(fits: Callable[[int], float | None], limit_gb: float, first: int) -> int:
    """The largest batch that fits, to 2 %. `fits(n)` is the GB that a batch of n takes, or None if it does not fit.

    Memory is close to a line in the batch, so the next try is where the line through two that fitted meets the limit.
    """
    tried = {n: fits(n) for n in (first, 2 * first)}
    too_many = min((n for n, gb in tried.items() if gb is None), default=None)
    while True:
        fitted = sorted(n for n, gb in tried.items() if gb is not None)
        if len(fitted) < 2:
            return fitted[0] if fitted else 0
        (n0, gb0), (n1, gb1) = ((n, tried[n] or 0.0) for n in (fitted[-2], fitted[-1]))
        step = (n1 - n0) / max(gb1 - gb0, 1e-3)
        aim = min(int(n1 + step * (limit_gb - gb1)), 8 * n1)
        if too_many is not None and aim >= too_many:
            aim = (n1 + too_many) // 2
        if aim <= n1 * 1.02:
            return n1
        tried[aim] = fits(aim)
        if tried[aim] is None:
            too_many = aim if too_many is None else min(too_many, aim)


def one_step(side: Side, shape: Shape, precision: str) -> float:
    """In the process of its own: take a step, say the peak in GB."""
    torch.set_num_threads(1)
    batch = rows(shape)
    if side.whose == "ours":
        model = ours_of(shape)
        if side.recomputes:
            recompute.switch_on(model)
        step = our_step(model, batch, PRECISIONS[precision])
    else:
        peer = peer_of(shape)
        if side.recomputes:
            peer.model.gradient_checkpointing_enable()
        step = peer_step(peer, batch, PRECISIONS[precision])
    step()
    return highest_gb()


def highest_gb() -> float:
    """The highest resident size that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if asked["limit_gb"]:  # of what the process allocates: beyond it, it ends instead of the machine
        limit = int(asked["limit_gb"] * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(one_step(Side(*asked["side"]), Shape(*asked["shape"]), asked["precision"]))
