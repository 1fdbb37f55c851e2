"""The results page from the table of `diptych compare --kept --out OUT`: `python -m tools.bake_off OUT [--write]`.

    OUT/table.json --> docs/results.md, between `<!-- bake-off -->` and `<!-- end of bake-off -->`
                       docs/results/table.csv, gains.svg, price.svg
    results/       --> docs/images/tasks/TASK.png: held-out questions and what systems said, for the tasks' pages

Nothing is measured here, and nothing chosen: every cell that the table has stands on the page, failed ones as failed, and questions
are those of the report's gallery (study/compare_report.py has the rule).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diptych import find
from diptych.report.compare import Card
from diptych.study.compare import LONG, Plan, Work
from diptych.study.compare_report import left_out, told
from diptych.study.compare_table import csv_of
from diptych.study.kept import Results
from diptych.study.pasts import BUDGETS
from tools.marked import put
from tools.portraits.pictures import BOXES, Tile, boxed, sheet

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ARMS = {"scratch": "from scratch", "root_only": "root only", "pretrained": "pre-trained"}
NEWS = {"test": "as in training", "test-style": "new artists", "test-composition": "new colours", "test-object": "new objects"}
PARTS = {
    "Q->A": "Q->A",
    "QA->R": "QA->R",
    "consistency": "consistency",
    "img_r1": "text to picture R@1",
    "txt_r1": "picture to text R@1",
}
TONES = ("#c8421c", "#2f6f9f", "#5b8c3a", "#8b5a9f", "#b8860b", "#3a8c86", "#8b8a86", "#444444")


def page(table: Mapping[str, Any]) -> str:
    """The measured part."""
    return "\n".join(
        [*_summary(table), *(line for task in table["tasks"] for line in _task(table, task)), *_controls(table), *_price(table)]
    )


def command(table: Mapping[str, Any]) -> str:
    words = f"--systems {','.join(table['systems'])} --tasks {','.join(table['tasks'])} --budget {table['budget']}"
    return f"diptych compare {words} --seeds {table['seeds']} --kept"


def _summary(table: Mapping[str, Any]) -> Iterator[str]:
    yield from ("```console", command(table), "```", "")
    for over, name in (("root_only", "the root alone"), ("scratch", "a start from scratch")):
        gains = [gain for gain in table["gains"] if gain["over"] == over and not (over == "scratch" and _is_root(table, gain))]
        if not gains:
            continue
        above, clear, below = (sum(holds(gain) for gain in gains) for holds in (_is_above, _is_clear, _is_below))
        yield (
            f"* Pre-trained against {name}: ahead in {above} of {len(gains)} cells, with an interval above zero in {clear}, "
            f"below zero in {below}."
        )
    if failed := table["failed"]:
        yield f"* Failed: {'; '.join('{cell} ({why})'.format(**one) for one in failed)}."
    yield from (f"* {line[0].upper()}{line[1:]}." for line in left_out(table))
    yield from ("", "![what pre-training is worth, by system and task](results/gains.svg)", "")
    yield from ("Of each task the pre-trained system that was best on `val`, scored on `test`, and on what is new:", "")
    splits = [split for split in NEWS if any(split in task["splits"] for task in table["tasks"].values())]
    yield from _head("task", "system", *(NEWS[split] for split in splits))
    for task in table["tasks"]:
        done = [cell for cell in table["cells"] if cell["task"] == task and cell["arm"] == "pretrained" and "value" in cell]
        if done:
            best = max(done, key=lambda cell: cell["on_val"] or 0)
            yield _row(task, best["system"], *(_score(best["by_split"].get(split)) for split in splits))
    yield ""


def _task(table: Mapping[str, Any], task: str) -> Iterator[str]:
    cells = {(cell["system"], cell["arm"]): cell for cell in table["cells"] if cell["task"] == task}
    gains = {(gain["system"], gain["over"]): gain for gain in table["gains"] if gain["task"] == task}
    asked = max((cell["n"] for cell in cells.values() if "n" in cell), default=0)
    labels = sorted({cell["labels"] for (_, arm), cell in cells.items() if arm in ARMS and cell.get("labels")})
    headline = find.task_class(task).headline
    yield from (
        f"### [{task}](tasks/{task}.md)",
        "",
        f"The score is {headline}. "
        * bool(headline)
        + f"{' or '.join(f'{n:,}' for n in labels)} labelled samples, of one system the same for every start; "
        f"{asked:,} questions of `test`.",
        "",
    )
    yield from _head("system", *ARMS.values(), "gain over the root", "gain over scratch", "rates")
    for system in table["systems"]:
        own = {arm: cells[system, arm] for arm in ARMS if (system, arm) in cells}
        if own:
            rates = " · ".join(f"{cell['rate']:g}" for cell in own.values() if "rate" in cell)
            scores = {arm: _score(own.get(arm)) for arm in ARMS}
            over = {rival: _gain(gains.get((system, rival))) for rival in ("root_only", "scratch")}
            if _is_root(table, {"system": system, "task": task}):
                scores["scratch"], over["scratch"] = "as root only", ""
            yield _row(system, *scores.values(), *over.values(), rates)
    yield ""
    kinds = _kinds(cells)
    if kinds:
        yield from _head("pre-trained, in parts", *kinds)
        for system in table["systems"]:
            if "details" in (cell := cells.get((system, "pretrained"), {})):
                yield _row(
                    system, *(f"{cell['details'][kind][0]:.1f}" if kind in cell["details"] else "" for kind in kinds.values())
                )
        yield ""


def _kinds(cells: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, str]:
    """Types of questions, or parts of a score, and what `details` calls them."""
    named: list[str] = [
        name for cell in cells.values() for name in cell.get("details", {}) if name.startswith("question_type/") or name in PARTS
    ]
    return {PARTS.get(name, name.partition("/")[2]): name for name in dict.fromkeys(named)}


def _controls(table: Mapping[str, Any]) -> Iterator[str]:
    cells = [cell for cell in table["cells"] if cell["arm"].startswith("without_")]
    if not cells:
        return
    arms = list(dict.fromkeys((cell["task"], cell["arm"]) for cell in cells))
    yield from ("### What the data give away", "", "Fine-tuned and asked without the picture, or without the text.", "")
    yield from _head("system", *(f"{task}, {arm.replace('_', ' ')}" for task, arm in arms))
    for system in table["systems"]:
        own = {(cell["task"], cell["arm"]): cell for cell in cells if cell["system"] == system}
        if own:
            yield _row(system, *(_score(own.get(arm)) for arm in arms))
    yield ""


def _price(table: Mapping[str, Any]) -> Iterator[str]:
    if not table["costs"]:
        return
    yield from (
        "### What an answer costs",
        "",
        "One question on one core, from the picture's file to the answer; a detector's share is in it.",
        "",
    )
    yield from _head("system", "task", "parameters", "of which detector", "MFLOPs", "ms")
    for cost in table["costs"]:
        detector = cost["detector_parameters"]
        whole = f"{(cost['parameters'] + detector) / 1e6:.2f} M"
        share = f"{detector / 1e6:.2f} M" if detector else ""
        yield _row(cost["system"], cost["task"], whole, share, f"{cost['flops'] / 1e6:,.0f}", f"{cost['milliseconds']:.0f}")
    yield from ("", "![score against time](results/price.svg)", "", f"{table['costs'][0]['machine']}.", "")
    if rows := table["equal_compute"]:
        yield from (
            "### At equal compute",
            "",
            "The root alone, fine-tuned until it has cost what pre-training and fine-tuning cost.",
            "",
        )
        yield from _head("system", "task", "root only, as long", "pre-trained", "gain", "steps of the rival")
        for row in rows:
            values = (
                ["failed"] * 4
                if "failed" in row
                else [_score(row[LONG]), _score(row["pretrained"]), _gain(row["gain"]), str(row["steps"][LONG])]
            )
            yield _row(row["system"], row["task"], *values)


def gains(table: Mapping[str, Any]) -> Figure:
    """Points over the root alone, with their intervals: a row for each system and task."""
    found = [gain for gain in table["gains"] if gain["over"] == "root_only"]
    figure = Figure(figsize=(7, 0.8 + 0.24 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="#8b8a86", linewidth=0.8)
    for y, gain in enumerate(found):
        low, high = gain["ci95"]
        tone = TONES[table["systems"].index(gain["system"]) % len(TONES)]
        axes.plot([low, high], [y, y], color=tone, linewidth=2)
        axes.plot(gain["value"], y, "o", color=tone, markersize=5)
    axes.set_yticks(range(len(found)), [f"{gain['system']}, {gain['task']}" for gain in found], fontsize=8)
    axes.set_xlabel("points that pre-training adds to the root alone, 95 % interval", fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def price(table: Mapping[str, Any]) -> Figure:
    """Score against milliseconds of one question: a panel for each task, a point for each system."""
    tasks = [task for task in table["tasks"] if any(cost["task"] == task for cost in table["costs"])]
    score = {(cell["system"], cell["task"]): cell.get("value") for cell in table["cells"] if cell["arm"] == "pretrained"}
    figure = Figure(figsize=(2.6 * len(tasks) + 0.4, 2.6), layout="constrained")
    for place, task in enumerate(tasks):
        axes = figure.add_subplot(1, len(tasks), place + 1)
        costs = [c for c in table["costs"] if c["task"] == task and score.get((c["system"], task)) is not None]
        points = sorted((score[cost["system"], task], cost["milliseconds"], cost["system"]) for cost in costs)
        near = 0.08 * (points[-1][0] - points[0][0])
        for (height, ms, system), above in zip_longest(points, points[1:]):
            tone = TONES[table["systems"].index(system) % len(TONES)]
            is_close = above is not None and above[0] - height < near  # then its name stands below, out of that one's way
            axes.plot(ms, height, "o", color=tone)
            axes.annotate(
                system, (ms, height), xytext=(4, -8 if is_close else 3), textcoords="offset points", fontsize=7, color=tone
            )
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("ms a question, one core", fontsize=8)
        axes.margins(y=0.2)
        axes.set_xlim(0, 1.35 * max(cost["milliseconds"] for cost in table["costs"] if cost["task"] == task))  # names stand beside
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def galleries(table: Mapping[str, Any], out: Path, results: Path) -> Iterator[tuple[str, list[list[Tile]]]]:
    """Of each task: a row of cards, each a picture (NLVR2: two) with the question, its answer, and what was said."""
    plan, kept = Plan(table["systems"], list(table["tasks"]), BUDGETS[table["budget"]], table["seeds"], out), Results(results)
    plan.keep_to(kept)
    for task in told(plan, Work(plan, kept), table).tables:
        if task.cards:
            cards = [_tiles(card) for card in task.cards]
            half = (len(cards) + 1) // 2
            yield task.task, [[tile for card in row for tile in card] for row in (cards[:half], cards[half:]) if row]


def _tiles(card: Card) -> list[Tile]:
    boxes = [one.box for one in card.said if one.box is not None]
    pictures = [_drawn(picture, card.true_box, boxes) for picture in card.pictures[:1]] + list(card.pictures[1:])
    said = [f"{one.system}: {one.text}{'' if one.is_right else ' (wrong)'}" for one in card.said]
    lines = [
        card.question or "which text is its own?",
        *([f"[{card.truth}]"] if card.truth else ["[the red box]"] if card.true_box is not None else []),
        *(said if not boxes else _pointed(card)),
    ]
    return [Tile(picture, "\n".join(lines) if not n else "") for n, picture in enumerate(pictures)]


def _drawn(
    picture: NDArray[np.uint8], true_box: Sequence[float] | None, pointed: Sequence[Sequence[float]]
) -> NDArray[np.uint8] | Image.Image:
    """The true box in red, other chosen places in grey; above each a square in the colour of whoever pointed there."""
    places = [box for box in (true_box, *pointed) if box is not None]
    if not places:
        return picture
    height, width = picture.shape[:2]
    shares = [(x1 / width, y1 / height, x2 / width, y2 / height) for x1, y1, x2, y2 in places]
    image = boxed(picture, shares, [BOXES[0], *[BOXES[-1]] * len(pointed)] if true_box is not None else [BOXES[-1]])
    if true_box is not None:  # again, over the grey of those that are right
        image = boxed(np.asarray(image), shares[:1], scale=1)
    draw, scale = ImageDraw.Draw(image), image.width / width
    side = 5 * scale
    for place, box in enumerate(pointed):
        before = sum(_is_there(other, box) for other in pointed[:place])
        left, top = scale * box[0] + before * side, scale * box[1]
        above = top - side if top >= side else top
        draw.rectangle((left, above, left + side - 2, above + side - 2), fill=BOXES[1 + place % (len(BOXES) - 1)])
    return image


def _is_there(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes mean the same place: no side differs by four pixels."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) < 4


def _pointed(card: Card) -> list[str]:
    """Systems by the colour of their square (BOXES of the pictures, whose first is the truth's)."""
    named = ("blue", "green", "violet", "ochre", "black", "pink", "teal", "grey")
    return [f"{one.system} ({tone}): {'right' if one.is_right else 'wrong'}" for one, tone in zip(card.said, named, strict=False)]


def _is_root(table: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    """Whether a system's start from scratch on a task is its root alone: regions come from a detector in both."""
    keys = [
        cell.get("keys")
        for cell in table["cells"]
        if (cell["system"], cell["task"]) == (place["system"], place["task"]) and cell["arm"] in ("scratch", "root_only")
    ]
    return len(keys) == 2 and keys[0] is not None and keys[0] == keys[1]


def _is_above(gain: Mapping[str, Any]) -> bool:
    return gain["value"] > 0


def _is_clear(gain: Mapping[str, Any]) -> bool:
    return gain["ci95"][0] > 0


def _is_below(gain: Mapping[str, Any]) -> bool:
    return gain["ci95"][1] < 0


def _score(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    return "failed" if "failed" in cell else "{:.1f} ({:.1f} to {:.1f})".format(cell["value"], *cell["ci95"])


def _gain(gain: Mapping[str, Any] | None) -> str:
    return "" if gain is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(gain["value"], *gain["ci95"])


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), "|" + "---|" * len(names)


def _row(*fields: str) -> str:
    return "| " + " | ".join(fields) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bake_off", description="The results page, from a table of `diptych compare`."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory of `diptych compare --kept`")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="where the finished cells are kept")
    parser.add_argument("--write", action="store_true", help="into docs/, instead of to the terminal")
    asked = parser.parse_args()
    table = json.loads((asked.out / "table.json").read_text(encoding="utf-8"))
    if not asked.write:
        print(page(table))
        return
    results = DOCS / "results"
    results.mkdir(exist_ok=True)
    (results / "table.csv").write_text(csv_of(table), encoding="utf-8")
    with matplotlib.rc_context({"svg.hashsalt": "diptych"}):  # the same numbers draw the same file
        for name, figure in (("gains", gains(table)), ("price", price(table))):
            FigureCanvasSVG(figure)
            figure.savefig(results / f"{name}.svg", metadata={"Date": None})
    pictures = DOCS / "images/tasks"
    pictures.mkdir(exist_ok=True, parents=True)
    for task, rows in galleries(table, asked.out, asked.results):
        sheet(rows, pictures / f"{task}.png")
    put(DOCS / "results.md", "bake-off", page(table))


if __name__ == "__main__":
    main()
