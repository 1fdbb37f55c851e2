"""The part of a system's page that is measured: between `<!-- portrait of NAME -->` and `<!-- end of NAME -->`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks import machine
from tools.portraits.runs import TRAININGS, chain, needs, result_of
from tools.portraits.sitters import Column, Row, Sitter

TONES = ("#c8421c", "#2f6f9f", "#8b8a86", "#5b8c3a")


class Figures(NamedTuple):
    """One cell of the table, in the row's unit."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


def ready(sitter: Sitter, folder: Path) -> Sitter:
    """With the columns alone whose runs are there."""
    there = (column for column in sitter.columns if all((folder / one / "result.json").is_file() for one in needs(column.of)))
    return replace(sitter, columns=tuple(there))


def measured(sitter: Sitter, folder: Path) -> dict[str, dict[str, Figures]]:
    """Row -> column -> what came out."""
    table: dict[str, dict[str, Figures]] = {}
    for row in sitter.rows:
        for place, column in enumerate(sitter.columns):
            if (column.rows and row.metric not in column.rows) or (row.of and place):
                continue
            table.setdefault(row.what, {})[column.title] = _cell(row, column, folder)
    return table


def _cell(row: Row, column: Column, folder: Path) -> Figures:
    verb, _, rest = row.command.partition(" --")
    asked = f"{verb} --from {row.of or column.of} --{rest} {column.also}".strip()
    if row.over:
        values = [_metric(result_of(asked.replace("*", one), folder), row)[0] for one in row.over]
        return Figures(sum(values) / len(values))
    return Figures(*_metric(result_of(asked, folder), row))


def _metric(result: dict[str, Any], row: Row) -> tuple[float, float | None, float | None, int | None]:
    if "metrics" not in result:  # `regions score`: a table for each data set
        (scored,) = result.values()
        return row.scale * scored[row.metric], None, None, None
    low, high = result.get("ci95", {}).get(row.metric, (None, None))
    return row.scale * result["metrics"][row.metric], low and row.scale * low, high and row.scale * high, result["n"]


def section(name: str, sitter: Sitter, table: dict[str, dict[str, Figures]], folder: Path, picture: str) -> str:
    """Markdown: the commands, the table, the curve, the picture."""
    titles = [column.title for column in sitter.columns]
    has_chance = any(row.chance for row in sitter.rows)
    runs = [name] if name in TRAININGS else list(sitter.drawn)  # what is told of several runs alike has none of its own
    stages = list(dict.fromkeys(stage for run in runs for stage in chain(run)))
    lines = ["```console", *(f"diptych {_told(one)}" for one in stages), "```", ""]
    lines.append("| of samples not trained on, % | " + " | ".join(titles + (["chance"] if has_chance else [])) + " |")
    lines.append("|---" * (1 + len(titles) + has_chance) + "|")
    for row in sitter.rows:
        cells = [_written(table[row.what].get(title), row) for title in titles] + ([row.chance] if has_chance else [])
        lines.append(f"| {row.what} | " + " | ".join(cells) + " |")
    asked = dict.fromkeys(f"`diptych {row.command.replace(' --', ' --from RUN --', 1)}`" for row in sitter.rows)
    lines += ["", sitter.remark] if sitter.remark else []
    has_intervals = any(figures.low is not None for cells in table.values() for figures in cells.values())
    brackets = "In brackets 95 % intervals. " if has_intervals else ""
    lines += ["", f"{brackets}Asked by {', '.join(asked)}."]
    if "blind" in titles:
        lines[-1] += " Blind: the same weights, every text beside another sample's picture (`data.shuffled=true`)."
    lines += ["", f"![learning curves](../images/portraits/{name}-curves.svg)", "", sitter.about, "", picture, ""]
    return "\n".join([*lines, _where(runs, stages, folder)])


def _told(name: str) -> str:
    words = TRAININGS[name]
    for one in needs(words):
        words = words.replace(f"@{one}", f"runs/{one}")
    return f"{words} --out runs/{name}".replace("@names-", "runs/names-")  # made beside them (runs.py)


def _written(figures: Figures | None, row: Row) -> str:
    if figures is None:
        return ""
    value = f"{figures.value:.{row.digits}f}"
    if figures.low is None or figures.high is None:
        return value
    return f"{value} ({figures.low:.{row.digits}f} to {figures.high:.{row.digits}f})"


def _where(runs: Sequence[str], stages: Sequence[str], folder: Path) -> str:
    minutes, own = (sum(_seconds(folder / one) for one in ones) / 60 for ones in (stages, runs))
    when = datetime.datetime.fromtimestamp((folder / runs[-1] / "result.json").stat().st_mtime, datetime.UTC).date()
    return (
        f"{machine.describe()}. {when}, seed 0; {own:.0f} minutes on one core beside other work, {minutes:.0f} with all before it."
    )


def _seconds(run: Path) -> float:
    result = run / "result.json"
    return json.loads(result.read_text(encoding="utf-8"))["seconds"] if result.is_file() else 0.0


def curves(sitter: Sitter, folder: Path, file: Path) -> None:
    """A panel for each metric, a line for each run, over samples seen."""
    figure = Figure(figsize=(3.1 * len(sitter.curves), 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(sitter.curves), squeeze=False)[0]
    for axes, (metric, title) in zip(panels, sitter.curves.items(), strict=True):
        for tone, (run, called) in zip(TONES, sitter.drawn.items(), strict=False):
            log = folder / run / "metrics.jsonl"
            records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
            points = _points(records, metric) or _points(records, metric.removeprefix("val/"))
            if points:
                axes.plot(*zip(*points, strict=True), label=called, color=tone, linewidth=1.6)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("samples seen", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    if len(sitter.drawn) > 1:
        panels[0].legend(frameon=False, fontsize=7)
    with matplotlib.rc_context({"svg.hashsalt": "diptych"}):  # the same numbers draw the same file
        figure.savefig(file, metadata={"Date": None})


def _points(records: list[dict[str, float]], metric: str) -> list[tuple[float, float]]:
    """Of held-out samples; or of training, where the few that are looked at never met the objective (UNITER draws one a step)."""
    return [(record["samples"], record[metric]) for record in records if metric in record]
