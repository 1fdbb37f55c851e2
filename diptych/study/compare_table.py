"""The bake-off's numbers: kept records -> one table with intervals and gains, as plain values; and what a question costs.

A value is the mean over types of the questions' scores, in percent (`train.evaluate.headline`): of VQA the mean over question
types, of retrieval the mean of R@1 both ways, of detection the share of things found. It is one number for any task; what else
the items tell stands in each cell's `details`. Gains are differences of cells on the same questions, seed by seed.
"""

from __future__ import annotations

import csv
import io
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diptych import find
from diptych.contracts import Reader, Sample
from diptych.data.collate import Collate
from diptych.data.picture import decode_sample
from diptych.draw import Draw
from diptych.load import Model, load
from diptych.regions.extract import Detects, of_pictures
from diptych.study.compare import LONG, Cell, Place, Plan, Work
from diptych.train.evaluate import Interval, gain, headline

RIVALS = ("root_only", "scratch")
WARM, TIMED = 3, 20  # questions


def table(plan: Plan, work: Work, costs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything but pictures and curves."""
    runs = {place: {split: work.results.unpack(part) for split, part in r["splits"].items()} for place, r in work.records.items()}
    cells, gains = [], []
    for system, task, arm in dict.fromkeys(place[:3] for place in plan.cells):
        places = [place for place in plan.cells if place[:3] == (system, task, arm)]
        done = [place for place in places if place in runs]
        named = {"system": system, "task": task, "arm": arm}
        if not done:
            cells.append(named | {"failed": next((work.lost[place] for place in places if place in work.lost), "not there")})
            continue
        records, first = [work.records[place] for place in done], plan.fields[task].splits[0]
        by_split = {split: headline(*(runs[place][split] for place in done)) for split in runs[done[0]]}
        cells.append(
            named
            | _interval(by_split[first])
            | {
                "n": records[0]["splits"][first]["n"],
                "seeds": [place[3] for place in done],
                "rate": records[0]["rate"],
                "on_val": records[0]["on_val"].get(f"{records[0]['rate']:g}"),  # what its rate was chosen by, where it was
                "labels": records[0]["labels"],
                "by_split": {split: _interval(interval) for split, interval in by_split.items()},
                "details": records[0]["splits"][first]["details"],
                "minutes": {
                    "past": round(sum(stage["seconds"] for stage in records[0]["past"]) / 60, 2),
                    "tuning": round(statistics.mean(record["seconds"] for record in records) / 60, 2),
                },
                "past": records[0]["past"],
                "version": records[0]["version"],
                "keys": [record["key"] for record in records],
            }
        )
        if failed := [work.lost[place] for place in places if place in work.lost]:
            cells[-1]["failed_seeds"] = failed
    for system, task in dict.fromkeys((system, task) for system, task, _, _ in plan.cells):
        for rival in RIVALS:
            seeds = [s for s in range(plan.seeds) if all((system, task, arm, s) in runs for arm in ("pretrained", rival))]
            split = plan.fields[task].splits[0]
            if seeds:
                ours, theirs = ([runs[system, task, arm, s][split] for s in seeds] for arm in ("pretrained", rival))
                gains.append({"system": system, "task": task, "over": rival, **_interval(gain(ours, theirs)), "seeds": seeds})
    return {
        "budget": plan.budget.name,
        "preset": plan.budget.preset,
        "seeds": plan.seeds,
        "systems": list(plan.systems),
        "tasks": {
            task: {"data": f.data, "splits": list(f.splits), "withheld": list(f.withheld)} for task, f in plan.fields.items()
        },
        "cells": cells,
        "gains": gains,
        "equal_compute": _equal_compute(plan, work, runs),
        "unfit": [{"system": system, "task": task, "why": why} for (system, task), why in plan.unfit.items()],
        "failed": [{"cell": str(plan.cells[place]), "why": why} for place, why in work.lost.items()],
        "costs": list(costs),
    }


def _equal_compute(plan: Plan, work: Work, runs: Mapping[Place, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rival that was tuned for as long as pre-training and fine-tuning took, and what the pre-trained arm has over it."""
    rows = []
    for place in (place for place in plan.cells if place[2] == LONG):
        system, task, split = *place[:2], plan.fields[place[1]].splits[0]
        ours, named = (system, task, "pretrained", 0), {"system": system, "task": task}
        if place not in runs or ours not in runs:
            failed = next((work.lost[one] for one in (place, ours) if one in work.lost), "not there")
            rows.append(named | {"failed": failed})
            continue
        values = {arm: _interval(headline(runs[one][split])) for arm, one in ((LONG, place), ("pretrained", ours))}
        over = _interval(gain([runs[ours][split]], [runs[place][split]]))
        steps = {arm: work.records[one]["steps"] for arm, one in ((LONG, place), ("pretrained", ours))}
        rows.append(named | values | {"gain": over, "steps": steps, "rate": work.records[place]["rate"]})
    return rows


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": round(interval.value, 3), "ci95": [round(interval.low, 3), round(interval.high, 3)]}


def csv_of(table: Mapping[str, Any]) -> str:
    """A line for each system, task and arm."""
    gains = {(g["system"], g["task"], g["over"]): g for g in table["gains"]}
    text = io.StringIO()
    columns = ["system", "task", "arm", "value", "low", "high", "n", "seeds", "rate", "minutes_past", "minutes_tuning"]
    columns += [f"gain_over_{rival}{end}" for rival in RIVALS for end in ("", "_low", "_high")]
    splits = list(dict.fromkeys(split for task in table["tasks"].values() for split in task["splits"]))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *splits, "failed"])
    for cell in table["cells"]:
        named = [cell["system"], cell["task"], cell["arm"]]
        if "failed" in cell:
            writer.writerow([*named, *[""] * (len(columns) - 3 + len(splits)), cell["failed"]])
            continue
        row = [*named, cell["value"], *cell["ci95"], cell["n"], len(cell["seeds"]), cell["rate"], *cell["minutes"].values()]
        for rival in RIVALS:
            over = gains.get((cell["system"], cell["task"], rival)) if cell["arm"] == "pretrained" else None
            row += [over["value"], *over["ci95"]] if over else ["", "", ""]
        row += [cell["by_split"][split]["value"] if split in cell["by_split"] else "" for split in splits]
        writer.writerow([*row, ""])
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------ what it costs


def costs(plan: Plan, work: Work) -> list[dict[str, Any]]:
    """Of each system and task, measured where the fine-tuned run is there, and kept beside the cell."""
    cells = (cell for cell in plan.cells.values() if cell.arm == "pretrained" and not cell.seed)
    return [{"system": cell.system, "task": cell.task, **cost} for cell in cells if (cost := cost_kept(work, cell))]


def cost_kept(work: Work, cell: Cell) -> dict[str, Any] | None:
    """Of one question to a finished cell; None where it is not kept and the run is not there."""
    if cell.place not in work.records:
        return None
    kept = work.results.get(cell.system, cell.task, "cost", cell.key)
    run = cell.tunings[work.records[cell.place]["rate"]].makes.parent
    if kept is None and (run / "model.safetensors").exists():
        kept = cost_of(cell, run)
        work.results.put(cell.system, cell.task, "cost", cell.key, kept)
    return kept


def cost_of(cell: Cell, run: Path) -> dict[str, Any]:
    """Parameters, and one question from the picture's file to the answer, a detector's share included: FLOPs, milliseconds."""
    model = load(run, "cpu")
    detector = load(cell.detector.command.makes.parent, "cpu") if cell.detector and model.system.reads_regions else None
    for loaded in (model, detector):
        if loaded is not None:
            loaded.module.requires_grad_(False)  # who counts FLOPs hangs hooks on what has a gradient
    (source,) = find.readers([cell.data], cell.splits[0], find.task_class(cell.task).purpose, WARM + TIMED)
    ask = _asking(model, cell.task, detector, source.reader)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # other kernels are not counted
                ask(0)
            seconds = [_timed(ask, n) for n in range(min(WARM + TIMED, len(source.reader)))]
    finally:
        torch.set_num_threads(threads)
    return {
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "detector_parameters": sum(p.numel() for p in detector.module.parameters()) if detector else 0,
        "flops": counter.get_total_flops(),
        "milliseconds": round(1000 * statistics.median(seconds[WARM:] or seconds), 2),
        "each": [round(1000 * one, 3) for one in seconds[WARM:] or seconds],
        "machine": machine(),
    }


def _asking(model: Model, task: str, detector: Model | None, reader: Reader) -> Callable[[int], None]:
    judged, recipe = model.on_task(task), model.recipe

    def ask(n: int) -> None:
        sample = reader[n] if detector is None else _looked_at(detector, reader[n])
        collate = Collate(model.tokenizer, recipe.text, recipe.data, training=False)
        judged.evaluate([judged.label(collate([sample], [decode_sample(sample, recipe.data.image)], [0], Draw(0)))])

    return ask


def _looked_at(detector: Model, sample: Sample) -> Sample:
    """The sample with what a detector sees in its pictures now."""
    assert isinstance(detector.system, Detects)
    collate = Collate(detector.tokenizer, detector.recipe.text, detector.recipe.data, training=False)
    seen = []
    for image in sample.images:
        alone = replace(sample, images=(image,), texts=(), false_texts=(), phrases=(), boxes=(), regions=())
        batch = collate([alone], [decode_sample(alone, detector.recipe.data.image)], [0], Draw(0))
        seen += of_pictures(detector.system.detect(batch))
    return replace(sample, regions=tuple(seen))


def _timed(ask: Callable[[int], None], n: int) -> float:
    began = time.perf_counter()
    ask(n)
    return time.perf_counter() - began


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
