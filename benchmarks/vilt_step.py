"""A ViLT pre-training step, MLM + ITM in two passes as published, against transformers' classes on the same weights.

Forward, backward and AdamW; equal losses are checked before anything is timed. The peer is `ViltForMaskedLM`, called once with
masked words and once for the match; in bf16 it gets the fused AdamW, in fp32 torch's default one. One thread. There is one route
for fp32 products, torch's own: on processors where another library multiplies faster than it, that is not made use of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from benchmarks.machine import route
from benchmarks.side_by_side import Row, alternate, ratio
from benchmarks.vilt_twice import BASE, PRECISIONS, SMALL, TOY, Shape, both, our_step, peer_step, rows


class Scale(NamedTuple):
    shapes: tuple[Shape, ...] = (SMALL, BASE)
    rounds: int = 7


FULL = Scale()
LEAST = Scale((TOY,), 1)


def run(scale: Scale = FULL) -> Iterator[Row]:
    torch.set_num_threads(1)
    for shape in scale.shapes:
        for called, precision in PRECISIONS.items():
            (model, peer), batch = both(shape), rows(shape)
            ours, theirs = our_step(model, batch, precision), peer_step(peer, batch, precision)
            how = route(precision, ours)
            seconds = alternate({"ours": ours, "theirs": theirs}, scale.rounds)
            peer_name = "transformers with fused AdamW" if called == "bf16" else "transformers, stock"
            yield ratio(f"ViLT step, {shape}, {called}", seconds["ours"], peer_name, seconds["theirs"], how)
