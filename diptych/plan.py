"""What a run will cost, before it is started: parameters, FLOPs, memory, hours.

    parameters, FLOPs, activations    of the system itself, rehearsed on this recipe by shapes alone (train/rehearse.py)
    weights, gradients, optimiser     4 bytes a number each; AdamW and LAMB keep two numbers a parameter, SGD and LARS one
    hours                             FLOPs of all steps / (devices x peak x utilisation)

The samples are the largest that the recipe lets through: texts of `text.max_tokens`, pictures of `data.image.short` by `long`,
THINGS boxes or REGIONS regions where a system reads them. So this is a ceiling; smaller ones are a `--set` away. Where one of
several objectives is drawn for each step, FLOPs are the mean by their shares and memory the most. Utilisation is the one number
that nobody can know beforehand: the share of the peak that is left for products beside all else. 35 % is an assumption of ours.

Peaks are the makers' published ones for dense bf16 (V100: fp16, it has no bf16); `cpu` is measured, by products for half a second.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from diptych.config import Recipe, UserError, nearest
from diptych.contracts import Batch, Box, Detected, Phrase, Reader, Sample, System, Task, Tokenizer, Trainable
from diptych.data.collate import Collate
from diptych.data.mixture import Mixture, Source
from diptych.data.stream import Stream
from diptych.draw import Draw
from diptych.nn import recompute
from diptych.text import tokenizer as vocabulary
from diptych.train import rehearse
from diptych.train.optim import freeze
from diptych.train.precision import choose_precision

THINGS, REGIONS, FEATURES, CLASSES, LOOKS = 12, 50, 2048, 1601, 400  # where the recipe leaves them to the data
UTILISATION = 0.35
FEW = 8  # samples that are rehearsed


class Device(NamedTuple):
    flops: float  # a second, at the peak
    memory: float  # bytes
    how: str  # the peak is known


GB, TERA = 1e9, 1e12
DEVICES = {
    "v100": Device(125 * TERA, 32 * GB, "published, fp16"),
    "a100": Device(312 * TERA, 80 * GB, "published"),
    "l40s": Device(362 * TERA, 48 * GB, "published"),
    "h100": Device(989 * TERA, 80 * GB, "published, SXM"),
    "h200": Device(989 * TERA, 141 * GB, "published, SXM"),
    "b200": Device(2250 * TERA, 180 * GB, "published"),
    "mi300x": Device(1307 * TERA, 192 * GB, "published"),
}


def plan(recipe: Recipe, cls: type[System], devices: int, device: str, utilisation: float = UTILISATION) -> dict[str, Any]:
    """All that can be said of a recipe, as plain data."""
    if device not in (*DEVICES, "cpu"):
        raise UserError(f"--device {device}: unknown{nearest(device, [*DEVICES, 'cpu'])}")
    if not 0 < utilisation <= 1:
        raise UserError(f"--utilisation {utilisation}: a share of the peak, above 0 and at most 1")
    train = recipe.train
    local, rest = divmod(train.batch_size, devices * train.accumulate)
    if rest or not local:
        raise UserError(
            f"--gpus {devices}: does not divide train.batch_size={train.batch_size} / train.accumulate={train.accumulate}"
        )
    machine, precision = _machine(device, recipe)
    tokenizer = vocabulary.load(recipe.text.vocab)
    made = Largest(recipe, cls, tokenizer)
    recipe = recipe.model_copy(update={"system": cls.prepare(recipe.system, [made], tokenizer)})
    system: System = rehearse.build(lambda: cls(recipe.system, tokenizer))
    freeze(system.train(), train.freeze)
    if train.recompute:
        recompute.switch_on(system)
    forward, flops, activations, about = _of_a_sample(system, recipe, made, tokenizer, local, precision)
    number = sum(p.numel() for p in system.parameters())
    learning = sum(p.numel() for p in system.parameters() if p.requires_grad)
    memory = {
        "weights": 4 * number + sum(b.numel() * b.element_size() for b in system.buffers()),
        "gradients": 4 * learning,
        "optimiser": sum(
            (4 if group.optimizer in ("sgd", "lars") else 8) * p.numel() for group in system.param_groups() for p in group.params
        ),
        "activations": activations,
    }
    total = train.steps * train.batch_size * flops
    seconds = total / (devices * machine.flops * utilisation)
    return {
        "parameters": {"all": number, "learning": learning, "by_part": _by_part(system)},
        "vocabulary": {"name": recipe.text.vocab, "tokens": tokenizer.vocab_size},
        "sample": {**about, "flops_forward": forward, "flops": flops},
        "memory": {
            **memory,
            "total": sum(memory.values()),
            "of": machine.memory,
            "samples_at_a_time": local,
            "precision": str(precision)[6:],
        },
        "run": {"steps": train.steps, "batch_size": train.batch_size, "samples": train.steps * train.batch_size, "flops": total},
        "time": {
            "devices": devices,
            "device": device,
            "peak_flops": machine.flops,
            "peak_is": machine.how,
            "utilisation": utilisation,
            "hours": seconds / 3600,
            "device_hours": devices * seconds / 3600,
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same, to be read."""
    parameters, sample, memory, run, clock = (found[key] for key in ("parameters", "sample", "memory", "run", "time"))
    frozen = parameters["all"] - parameters["learning"]
    parts = ", ".join(f"{name} {_short(count)}" for name, count in parameters["by_part"].items())
    kinds = ("weights", "gradients", "optimiser", "activations")
    held = " + ".join(f"{kind} {memory[kind] / GB:.2f}" for kind in kinds)
    fits = "fits" if memory["total"] <= memory["of"] else "does NOT fit: more devices, train.accumulate or train.recompute"
    shown = ", ".join(
        f"{value:g} {key}" if isinstance(value, float) else f"{value} {key}"
        for key, value in sample.items()
        if not key.startswith("flops")
    )
    peak = f"{clock['peak_flops'] / TERA:,.3g} TFLOP/s ({clock['peak_is']})"
    return [
        f"parameters   {_short(parameters['all'])}" + (f", of them {_short(frozen)} frozen" if frozen else "") + f": {parts}",
        f"vocabulary   {found['vocabulary']['name']}, {found['vocabulary']['tokens']:,} tokens; text.vocab sets another",
        f"a sample     {shown}: {sample['flops_forward'] / GB:,.4g} GFLOPs forward, {sample['flops'] / GB:,.4g} with backward",
        f"memory, GB   {held} = {memory['total'] / GB:.2f} of {memory['of'] / GB:.0f}, {fits}",
        f"             ({memory['samples_at_a_time']:,} samples at a time; activations by shapes, in {memory['precision']})",
        f"the run      {run['steps']:,} steps of {run['batch_size']:,}: {run['samples']:,} samples, {run['flops']:.3g} FLOPs",
        f"time         {_duration(clock['hours'])} on {clock['devices']} x {clock['device']} at {clock['utilisation']:.0%}"
        f" of {peak}: {clock['device_hours']:,.2f} device hours. An estimate, no measurement",
    ]


# -------------------------------------------------------------------------------------------------- the rehearsal


class Price(NamedTuple):
    """What one sample costs a system, in pre-training or on a task, with texts as long as the data have them."""

    parameters: int
    flops: float  # forward and backward


def price(
    recipe: Recipe,
    cls: type[System],
    data: Sequence[Source],
    task: type[Task] | None = None,
    regions: tuple[int, int] = (REGIONS, FEATURES),
    batches: int = 2,
) -> Price:
    """The mean over the first batches of real samples, by shapes alone: for studies that weigh one run against another.

    What a detector would have seen is made up where it is read, for stores come later than plans: how many regions a picture, of
    how many numbers.
    """
    tokenizer = vocabulary.load(recipe.text.vocab)
    reads = cls.reads_regions or (cls.taught_by_regions and task is None)
    made = Largest(recipe, cls, tokenizer, *regions)
    sources = [replace(source, reader=_Looked(source.reader, made)) if reads else source for source in data]
    readers = [source.reader for source in sources]
    recipe = recipe.model_copy(update={"system": cls.prepare(recipe.system, readers, tokenizer)})
    if task:
        recipe = recipe.model_copy(update={"task": task.prepare(recipe.task, readers, tokenizer)})
    system = rehearse.build(lambda: cls(recipe.system, tokenizer))
    model: Trainable = rehearse.build(lambda: task(recipe.task, system, tokenizer)) if task else system
    freeze(model.train(), recipe.train.freeze)
    draw, size = Draw(recipe.train.seed), min(recipe.train.batch_size, 32)
    once = recipe.train.model_copy(update={"batch_size": size, "accumulate": 1})
    stream = Stream.training(model, recipe.model_copy(update={"train": once}), Mixture(sources, draw), tokenizer, draw)
    drawn = [(1 / batches, step) for step in range(batches)] if task else list(_steps(system, recipe, batches))
    flops = 0.0
    for share, step in drawn:
        item = stream.deliver(step)
        flops += share * rehearse.rehearse(model, item.batch).flops / size
    return Price(sum(p.numel() for p in model.parameters()), flops)


class _Looked:
    """A reader whose pictures a detector has looked at: it saw as much as a plan supposes."""

    def __init__(self, reader: Reader, made: Largest):
        self.reader, self.fingerprint = reader, reader.fingerprint
        self.region_classes, self._seen = made.region_classes, made.detected()

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader[index]
        return replace(sample, regions=(self._seen,) * len(sample.images))


def _of_a_sample(
    system: System, recipe: Recipe, made: Largest, tokenizer: Tokenizer, local: int, precision: torch.dtype
) -> tuple[float, float, float, dict[str, Any]]:
    """(FLOPs forward, with backward, bytes of activations of `local` samples, what a sample is).

    Costs of many samples lie on a line through those of few and twice as many. A system that encodes in pieces is shown two: more
    of them cost as much each, and hold no more than one at a time.
    """
    piece = getattr(recipe.system, "piece", None)
    few = min(local, 2 * piece if piece else FEW)
    sizes = [few] if piece or few == local else [few, min(local, 2 * few)]
    costs = np.zeros((len(sizes), 3))
    about: dict[str, Any] = {}
    for found, size in zip(costs, sizes, strict=True):
        for share, step in _steps(system, recipe):
            batch = made.batch(system, size, step)
            cost = rehearse.rehearse(system, batch, precision)
            found[:2] += share * np.array([cost.forward, cost.flops])
            found[2] = max(found[2], cost.activations)
            about = _about(batch, size)
    if len(sizes) == 1:
        forward, flops, activations = costs[0].tolist()
        return forward / few, flops / few, activations, about
    forward, flops, more = ((costs[1] - costs[0]) / (sizes[1] - sizes[0])).tolist()
    return forward, flops, costs[1, 2].item() + more * (local - sizes[1]), about


def _steps(system: System, recipe: Recipe, most: int = 1) -> Iterator[tuple[float, int]]:
    """(share, step) of each objective, where one is drawn for each step; or the first steps."""
    drawn = getattr(system, "drawn", None)
    if drawn is None:
        yield from ((1 / most, step) for step in range(most))
        return
    shares = {name: share for name, share in recipe.system.model_dump()["mix"].items() if share}
    for name, share in shares.items():
        step = next(step for step in range(10_000) if drawn(step, Draw(recipe.train.seed)) == name)
        yield share / sum(shares.values()), step


def _about(batch: Batch, size: int) -> dict[str, Any]:
    about: dict[str, Any] = {"texts": round(len(batch) / size, 2), "tokens each": int(batch.text_mask_BT.sum(1).max())}
    if batch.images is not None:
        height, width = batch.images.pixel_I3HW.shape[-2:]
        about |= {"pictures": round(len(batch.images.pixel_I3HW) / size, 2), "pixels": f"{height} x {width}"}
    if batch.regions is not None and batch.regions.feature_IRD is not None:
        about |= {"regions": batch.regions.box_IR4.shape[1], "numbers a region": batch.regions.feature_IRD.shape[2]}
    return about


class Largest:
    """A data set of nothing but the largest samples that a recipe lets through, with everything that any system reads."""

    fingerprint = "0" * 64

    def __init__(self, recipe: Recipe, cls: type[System], tokenizer: Tokenizer, regions: int = REGIONS, features: int = FEATURES):
        self.recipe, self.cls, self.regions, image = recipe, cls, regions, recipe.data.image
        self.collate = Collate(tokenizer, recipe.text, recipe.data, training=True)
        self.shape = (image.short // image.multiple * image.multiple, image.long // image.multiple * image.multiple, 3)
        word = next(
            w
            for w in map(tokenizer.token, range(tokenizer.vocab_size))
            if w.isalpha() and tokenizer.ids_of(w) != [tokenizer.unk_id]
        )
        self.text = " ".join([word] * recipe.text.max_tokens)
        config = recipe.system
        self.features = getattr(getattr(config, "image", None), "features", 0) or features
        names = getattr(config, "names", ())
        self.region_classes = names or ("background", *(f"thing {k}" for k in range(1, getattr(config, "classes", 0) or CLASSES)))
        purposes = (cls.purpose,) if isinstance(cls.purpose, str) else cls.purpose
        self.is_half_pairs = "translations" in purposes
        self.least_seen = getattr(config, "least_seen", 1)  # a vocabulary with a floor is that of a large data set
        self.names, self.looks = (CLASSES - 1, LOOKS) if self.least_seen > 1 else (THINGS, 1)

    def __len__(self) -> int:
        return max(4, math.ceil(self.names * self.least_seen / THINGS))

    def __getitem__(self, index: int) -> Sample:
        texts = (self.text, self.text)
        if self.is_half_pairs and index % 2:
            return Sample(f"pair-{index}", texts=texts)
        height, width, _ = self.shape
        reads = self.cls.reads_regions or self.cls.taught_by_regions
        step, first = width / (THINGS + 1), index * THINGS
        boxes = tuple(
            Box(
                (k * step, 0, (k + 1) * step, height * (k + 1) / THINGS),
                f"thing {(first + k) % self.names + 1}",
                (f"look {(first + k) % self.looks + 1}",),
            )
            for k in range(THINGS)
        )
        return Sample(
            f"sample-{index}",
            images=(f"{index}".encode(),) if self.cls.reads_pictures else (),
            texts=texts,
            false_texts=texts,
            phrases=((Phrase(0, len(self.text.split()[0]), "object", 0),),) * 2,
            boxes=boxes if self.cls.reads_pictures else (),
            regions=(self.detected(),) if reads else (),
            labels={"label": f"thing {index % len(self) + 1}"},
            group=f"{index}",
        )

    def detected(self) -> Detected:
        side, each_R = np.linspace(0, 0.9, self.regions, dtype=np.float32), np.arange(self.regions)
        soft_label_RK = np.zeros((self.regions, len(self.region_classes)), np.float16)
        soft_label_RK[each_R, 1 + each_R % (len(self.region_classes) - 1)] = 1
        return Detected(
            np.stack([side, side, side + 0.1, side + 0.1], 1), np.zeros((self.regions, self.features), np.float16), soft_label_RK
        )

    def batch(self, system: System, size: int, step: int) -> Batch:
        own = [self[i] for i in range(size)]
        pictures = [[np.zeros(self.shape, np.uint8)] * len(sample.images) for sample in own]
        others = [[self[2 * (i // 2 + 1)]] * system.negatives for i in range(size)]
        draw = Draw(self.recipe.train.seed)
        batch = self.collate(own, pictures, list(range(size)), draw, others)
        batch.step = step
        return system.corrupt(system.label(batch), draw)


# --------------------------------------------------------------------------------------------------- small change


def _machine(name: str, recipe: Recipe) -> tuple[Device, torch.dtype]:
    if name != "cpu":
        return DEVICES[name], torch.float32 if recipe.train.precision == "fp32" else torch.bfloat16
    precision = choose_precision(recipe.train.precision, torch.device("cpu"))
    a = torch.randn(1024, 1024).to(precision)
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < 0.5 or done < 2:
        torch.mm(a, a)
        done += 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
    return Device(
        done * 2 * 1024**3 / spent, memory, f"measured, {str(precision)[6:]}, {torch.get_num_threads()} threads"
    ), precision


def _by_part(system: System) -> dict[str, int]:
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    own = sum(p.numel() for p in system.parameters(recurse=False))
    return {name: count for name, count in (*found.items(), ("itself", own)) if count}


def _short(count: float) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def _duration(hours: float) -> str:
    if hours < 0.1:
        return f"{hours * 3600:.0f} seconds" if hours * 3600 >= 1 else "less than a second"
    return f"{hours:.1f} hours" if hours < 100 else f"{hours / 24:,.0f} days"
