"""Useful FLOP utilisation of a ViLT step: the arithmetic that the losses need, over what the processor could have done meanwhile.

    numerator     FLOPs of real tokens, by formula (`useful_flops`): no padding, no recomputation; of the last layer only what is
                  read (masked words and [CLS]), of the heads only what is asked. The same for ours and for the peer
    denominator   seconds of the whole step (forward, backward, optimiser) x peak; the peak is the best of a sweep of matrix shapes
                  in the same run, same type and threads

Single- and dual-stream, small and base, fp32 and bf16, one thread. The peer is transformers' ViLT; it has no dual-stream ViLT.
Beside each share stands what the time of one more step, profiled, went into.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import products
from benchmarks.side_by_side import Row, alternate
from benchmarks.vilt_twice import BASE, PRECISIONS, SMALL, TOY, Shape, both, our_step, peer_step, rows, two_streams
from diptych.contracts import IGNORE, Batch
from diptych.systems.vilt import ViLT

KINDS = {  # parts of the operators' names, the first that fits
    "attention": ("scaled_dot_product", "softmax"),
    "optimiser": ("adamw",),
    "norms and GELU": ("layer_norm", "gelu", "tanh"),
    "products": ("mm", "convolution", "linear"),
    "laying out and casting": ("copy", "index", "cat", "gather", "scatter", "pad", "fill", "zero", "clone", "contiguous"),
}


class Scale(NamedTuple):
    shapes: tuple[Shape, ...] = (SMALL, BASE)
    rounds: int = 7
    lengths: tuple[int, ...] = (256, 1024, 2048)  # rows of the products in the sweep
    sides: tuple[tuple[int, int], ...] = ((384, 1536), (768, 768), (768, 3072), (1024, 1024), (2048, 2048), (4096, 4096))
    least_seconds: float = 0.2  # of each product in the sweep


FULL = Scale()
LEAST = Scale((TOY,), 1, (64,), ((64, 64), (64, 128)), 0.0)


def run(scale: Scale = FULL) -> Iterator[Row]:
    torch.set_num_threads(1)
    for called, precision in PRECISIONS.items():
        best, shape_of_best = peak(precision, scale)
        where = "{} x {} times {} x {}".format(*shape_of_best[:2], *shape_of_best[1:])
        yield Row(f"peak of a product, {called}", best / 1e9, "GFLOP/s", how=f"{products(precision)}; {where}")
        for shape in scale.shapes:
            batch, (model, peer) = rows(shape), both(shape)
            steps = {"ours": our_step(model, batch, precision), "theirs": peer_step(peer, batch, precision)}
            seconds = alternate(steps, scale.rounds)
            shares = {name: [useful_flops(model, batch) / s / best for s in of] for name, of in seconds.items()}
            beside = f"transformers, {statistics.median(shares['theirs']):.0%} on the same weights"
            name = f"useful utilisation, single stream, {shape}, {called}"
            yield _row(name, shares["ours"], beside, where_time_goes(steps["ours"]))
            model = two_streams(shape)
            step = our_step(model, batch, precision)
            seconds = alternate({"ours": step}, scale.rounds)
            shares = {name: [useful_flops(model, batch) / s / best for s in of] for name, of in seconds.items()}
            name = f"useful utilisation, dual stream, {shape}, {called}"
            yield _row(name, shares["ours"], "no class of transformers", where_time_goes(step))


def _row(name: str, shares: list[float], peer: str, how: str) -> Row:
    percent = [100 * share for share in shares]
    return Row(name, statistics.median(percent), "%", peer, min(percent), max(percent), len(percent), how)


def where_time_goes(step: Callable[[], object]) -> str:
    """Shares of one step's time by kind of operator, the largest first, as torch's profiler counts them."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    micros: dict[str, float] = dict.fromkeys((*KINDS, "everything else"), 0.0)
    for event in profiled.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key.lower() for part in parts)), "everything else")
        micros[kind] += event.self_cpu_time_total
    total = sum(micros.values())
    largest_first = sorted(micros.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {part / total:.0%}" for kind, part in largest_first)


def peak(precision: torch.dtype, scale: Scale) -> tuple[float, tuple[int, int, int]]:
    """The most FLOP/s of any product [M, K] x [K, N] of the sweep, and its M, K, N."""
    best = (0.0, (0, 0, 0))
    for m in scale.lengths:
        for k, n in scale.sides:
            x_MK, weight_NK = torch.randn(m, k, dtype=precision), torch.randn(n, k, dtype=precision)
            F.linear(x_MK, weight_NK)
            fastest, began = float("inf"), time.perf_counter()
            while fastest == float("inf") or time.perf_counter() - began < scale.least_seconds:
                start = time.perf_counter()
                F.linear(x_MK, weight_NK)
                fastest = min(fastest, time.perf_counter() - start)
            best = max(best, (2 * m * k * n / fastest, (m, k, n)))
    return best


def useful_flops(model: ViLT, batch: Batch) -> float:
    """Of one step, forward and backward: a product of [M, K] and [K, N] is 2 M K N, and twice that again backwards.

    Written for two passes over the same pictures and both hinges: letters t, v, r are a row's words, picture tokens and tokens that
    are read; D the width.
    """
    assert batch.images is not None and batch.image_of_BN is not None
    config, d = model.config, model.config.width
    hidden, side = config.fusion.ffn_ratio * d, config.image.patch
    patches_I = [-(-h // side) * -(-w // side) for h, w in batch.images.size_I2.tolist()]
    masked_B = (batch.labels["mlm"] != IGNORE).sum(1).tolist()
    asked = (batch.labels["itm"] != IGNORE).sum().item()

    def layer(own: int, read: int, looked_at: int | None) -> float:
        """Tokens of a stream among themselves, then (dual stream) at those of the other; `read` of them are wanted after it."""
        flops = 4 * own * d * d + 4 * read * d * d + 4 * read * own * d  # keys, values; query, out; scores and mixing
        if looked_at is not None:
            flops += 4 * looked_at * d * d + 4 * read * d * d + 4 * read * looked_at * d
        return flops + 4 * read * d * hidden

    forward = 0.0
    for t, masked, image in zip(batch.text_mask_BT.sum(1).tolist(), masked_B, batch.image_of_BN[:, 0].tolist(), strict=True):
        v, r, before_last = patches_I[image] + 1, masked + (masked == 0), config.fusion.layers - 1
        if config.fusion.kind == "single_stream":
            forward += before_last * layer(t + v, t + v, None) + layer(t + v, r, None)
        else:  # nobody reads the picture tokens after the last layer, so theirs is not needed
            forward += before_last * (layer(t, t, v) + layer(v, v, t)) + layer(t, r, v)
    heads = sum(masked_B) * (2 * d * d + 2 * d * model.text.word.num_embeddings) + asked * (2 * d * d + 4 * d)
    embedding = sum(patches_I) * 2 * 3 * side * side * d  # pixels want no gradient: once forward, once backward
    return 3 * (forward + heads) + 2 * embedding
