"""The bake-off's table, curves and answers, put into the words of report/compare.py.

Numbers come from the table and the kept records, so a page can be made where nothing was trained. Pictures of the gallery are read
from the data. Which questions it shows is decided by a rule: of those whose answers every cell keeps, type by type, the ones on
which systems differ most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych import find
from diptych.data.picture import decode
from diptych.report.charts import Line, Score
from diptych.report.compare import Arm, BakeOff, Card, Control, Equal, Price, Row, Said, Seen, Table, compare_page
from diptych.report.page import duration, number
from diptych.study.compare import LONG, Plan, Work

NEWS = {
    "test": "as in training",
    "test-style": "artists never seen",
    "test-composition": "colours never seen on these objects",
    "test-object": "objects never seen in a scene",
    "test-concept": "concepts never seen",
}
CARDS = 6  # of each task

Cells = Mapping[tuple[str, str, str], Mapping[str, Any]]


def page_of(plan: Plan, work: Work, table: Mapping[str, Any]) -> str:
    return compare_page(told(plan, work, table))


def told(plan: Plan, work: Work, table: Mapping[str, Any]) -> BakeOff:
    cells = {(cell["system"], cell["task"], cell["arm"]): cell for cell in table["cells"]}
    versions = sorted({cell["version"] for cell in cells.values() if "version" in cell})
    return BakeOff(
        title="Which system, on which task, from which start?",
        kicker=" · ".join(("Diptych", f"budget {plan.budget.name}", date.today().isoformat())),
        summary=_summary(plan, table),
        systems=plan.systems,
        tables=[_table(plan, work, table, cells, task) for task in plan.fields],
        seen=[_seen(plan, work, system) for system in plan.systems],
        labels={
            task: sorted(
                {cell["labels"] for (_, t, arm), cell in cells.items() if t == task and arm == "pretrained" and "labels" in cell}
            )
            for task in plan.fields
        },
        split_notes=NEWS,
        equal=[_equal(row) for row in table["equal_compute"]],
        failed={one["cell"]: one["why"] for one in table["failed"]},
        remarks=_remarks(plan, versions),
        commands={str(plan.cells[place]): "\n".join(record["commands"]) for place, record in work.records.items()},
        facts={
            "Budget": plan.budget.name,
            "Presets": plan.budget.preset,
            "Seeds": str(plan.seeds),
            "Data": ", ".join(dict.fromkeys(field.data for field in plan.fields.values())),
            "Cells": f"{len(work.records)}, of which {work.kept} were kept from before",
            "Version": ", ".join(versions),
        },
    )


def _summary(plan: Plan, table: Mapping[str, Any]) -> str:
    gains = [gain for gain in table["gains"] if gain["over"] == "root_only"]
    clear = sum(gain["ci95"][0] > 0 for gain in gains)
    systems, tasks = len(plan.systems), len(plan.fields)
    opening = f"{systems} system{'s' * (systems != 1)} on {tasks} task{'s' * (tasks != 1)}, each from up to three starts. "
    if not gains:
        return opening
    best = max(gains, key=lambda gain: gain["value"])
    return opening + (
        f"Pre-training is worth more than its root alone in {clear} of {len(gains)} cases, the 95 % interval lying above zero; "
        f"the most, {number(best['value'])} points, to {best['system']} on {best['task']}."
    )


def _table(plan: Plan, work: Work, table: Mapping[str, Any], cells: Cells, task: str) -> Table:
    able = [system for system in plan.systems if (system, task) not in plan.unfit]
    field = plan.fields[task]
    gains = {(gain["system"], gain["over"]): _score(gain) for gain in table["gains"] if gain["task"] == task}
    rows = []
    for system in able:
        arms = {arm: _arm(cells[system, task, arm]) for arm in ("scratch", "root_only", "pretrained")}
        places = {arm: plan.cells[system, task, arm, 0] for arm in arms}
        if places["scratch"].key == places["root_only"].key:
            arms["scratch"] = Arm(arms["scratch"].score, arms["scratch"].failed, is_root=True)
        rates = [f"{cells[system, task, arm]['rate']:g}" for arm in arms if "rate" in cells[system, task, arm]]
        own = {over: gain for (name, over), gain in gains.items() if name == system}
        rows.append(Row(system, arms, own, " · ".join(rates)))
    prices = {cost["system"]: cost for cost in table["costs"] if cost["task"] == task}
    lines = list(_curves(plan, work, able, task))
    return Table(
        task,
        _about(task),
        max((cells[system, task, arm].get("n", 0) for system in able for arm in rows[0].arms), default=0) if rows else 0,
        rows,
        [Control(s, w, _arm(cells[s, task, f"without_{w}"])) for s in able for w in field.withheld],
        {system: plan.unfit[system, task] for system in plan.systems if system not in able},
        [by_samples for by_samples, _ in lines],
        [by_minutes for _, by_minutes in lines],
        {
            split: {s: _score(done["by_split"][split]) for s in able if "by_split" in (done := cells[s, task, "pretrained"])}
            for split in field.splits
        },
        [_price(cells, system, task, prices.get(system)) for system in able],
        list(_cards(plan, work, able, task)),
    )


def _about(task: str) -> str:
    about, headline = find.catalogue("tasks")[task].about if task in find.catalogue("tasks") else "", find.task_class(task).headline
    return f"{about} The score is {headline}." if headline else about


def _score(interval: Mapping[str, Any]) -> Score:
    return Score(interval["value"], *interval["ci95"])


def _arm(cell: Mapping[str, Any]) -> Arm:
    return Arm(None, cell["failed"]) if "failed" in cell else Arm(_score(cell))


def _curves(plan: Plan, work: Work, systems: Sequence[str], task: str) -> Iterator[tuple[Line, Line]]:
    """The first seed's over samples and over minutes, pre-trained and with the root alone."""
    for system in systems:
        for arm in ("root_only", "pretrained"):
            if record := work.records.get((system, task, arm, 0)):
                curve, tone, is_broken = record["curve"], plan.systems.index(system), arm != "pretrained"
                before = sum(stage["seconds"] for stage in record["past"])
                minutes = [(before + seconds) / 60 for seconds in curve["seconds"]]
                drawn = Line(system, curve["samples"], curve["score"], tone=tone, broken=is_broken)
                yield drawn, replace(drawn, x=minutes)


def _equal(row: Mapping[str, Any]) -> Equal:
    if "failed" in row:
        return Equal(row["system"], row["task"], Arm(None, row["failed"]))
    steps = row["steps"]
    return Equal(
        row["system"], row["task"], Arm(_score(row[LONG])), Arm(_score(row["pretrained"])), _score(row["gain"]), *steps.values()
    )


def _price(cells: Cells, system: str, task: str, cost: Mapping[str, Any] | None) -> Price:
    arms = {arm: cells[system, task, arm] for arm in ("scratch", "root_only", "pretrained")}
    minutes = {arm: sum(cell["minutes"].values()) for arm, cell in arms.items() if "minutes" in cell}
    if cost is None:
        return Price(system, minutes)
    gigaflops = cost["flops"] / 1e9
    return Price(system, minutes, cost["parameters"], cost["detector_parameters"], gigaflops, cost["milliseconds"])


def _seen(plan: Plan, work: Work, system: str) -> Seen:
    """From the first finished cell of each start."""

    def stages(arm: str) -> list[str]:
        of_arm = (record for place, record in work.records.items() if place[0] == system and place[2] == arm)
        past = next(of_arm, {"past": ()})["past"]
        return [f"{s['sees']} of {s['samples']:,} samples, {duration(s['seconds'] / 60)}" for s in past if s["sees"]]

    root = stages("root_only")
    own = [cell for place, cell in plan.cells.items() if place[0] == system and place[2] in ("scratch", "root_only")]
    is_root = len({(cell.task, cell.seed, cell.key) for cell in own}) < len(own)
    return Seen(system, root, [stage for stage in stages("pretrained") if stage not in root], is_root)


# ------------------------------------------------------------------------------------------------------------- gallery


def _cards(plan: Plan, work: Work, systems: Sequence[str], task: str) -> Iterator[Card]:
    shown = {
        (system, arm): record["shown"]
        for system in systems
        for arm in ("pretrained", "root_only")
        if (record := work.records.get((system, task, arm, 0)))
    }
    ours = {system: answers for (system, arm), answers in shown.items() if arm == "pretrained"}
    if not ours:
        return
    pictures = _pictures(plan, task, next(iter(ours.values())))
    for key in _chosen(list(ours.values()), CARDS):
        if not pictures.get(key):
            continue
        asked = next(answers[key] for answers in ours.values() if key in answers)
        said = []
        for system, answers in ours.items():
            if key in answers:
                rival = shown.get((system, "root_only"), {}).get(key)
                beside = (rival["said"], _is_right(rival)) if rival else ("", None)
                said.append(Said(system, answers[key]["said"], _is_right(answers[key]), *beside, answers[key].get("box")))
        yield Card(pictures[key], asked["question"], asked.get("truth", ""), said, asked["type"], asked.get("true_box"))


def _is_right(shown: Mapping[str, Any]) -> bool:
    """Of what a card shows. VCR's score asks for the reason, too, and that is not shown."""
    return shown["score"] >= 0.5 or (bool(shown.get("truth")) and shown["said"] == shown["truth"])


def _chosen(answers: Sequence[Mapping[str, Mapping[str, Any]]], most: int) -> list[str]:
    """Keys, type by type in turn, those first on which systems differ most (with one system: right and wrong in turn)."""
    of_type: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for one in answers for key in one):
        of_type.setdefault(next(one[key]["type"] for one in answers if key in one), []).append(key)

    def alike(key: str) -> float:
        scores = [one[key]["score"] for one in answers if key in one]
        return abs(sum(scores) / len(scores) - 0.5)

    for keys in of_type.values():
        keys.sort(key=alike)
        right = [key for key in keys if answers[0].get(key, {}).get("score", 0) >= 0.5]
        wrong = [key for key in keys if key not in right]
        if len(answers) == 1:
            keys[:] = [key for n in range(len(keys)) for side in (right, wrong) for key in side[n : n + 1]]
    turns = [keys[n] for n in range(most) for keys in of_type.values() if n < len(keys)]
    return turns[:most]


def _pictures(plan: Plan, task: str, shown: Mapping[str, Any]) -> dict[str, list[NDArray[np.uint8]]]:
    """Of the questions shown, by key; an item's key is its sample's, or that with #n behind it."""
    field, wanted = plan.fields[task], {key.partition("#")[0]: [] for key in shown}
    for key in shown:
        wanted[key.partition("#")[0]].append(key)
    (source,) = find.readers([field.data], field.splits[0], find.task_class(task).purpose, plan.budget.asked_of(task))
    found = {}
    for sample in (source.reader[i] for i in range(len(source.reader))):
        for key in wanted.get(sample.key, ()):
            found[key] = [decode(image) for image in sample.images]
    return found


# --------------------------------------------------------------------------------------------------------------- words


def _remarks(plan: Plan, versions: Sequence[str]) -> list[str]:
    remarks = [
        "The pictures are drawn. Numbers compare systems with one another on this data, at this size; they are no paper's.",
        "The root alone is the fair rival: it has seen the same labels of things, and lacks the texts alone.",
    ]
    if any(find.system_class(system).reads_regions for system in plan.systems):
        remarks.append(
            "UNITER and VinVL begin with a detector's features. “From scratch” would mean random fusion on these features, which "
            "is their root alone: the two are one cell."
        )
    seeds = (
        "One seed: intervals say how much other questions would change the numbers, not how much another seed would."
        if plan.seeds == 1
        else f"{plan.seeds} seeds of fine-tuning after one pre-training: what another one would change is not in the intervals."
    )
    first, *others = plan.budget.rates
    rates = (
        f"Each start has the learning rate that val chose for it among {1 + len(others)}, with the first seed; the search is not "
        "in the minutes."
        if others
        else f"Every start was fine-tuned at {first:g} of its system's learning rate; none was searched for."
    )
    if len(versions) > 1:
        remarks.append(f"Kept cells were computed by versions {', '.join(versions)}.")
    if plan.budget.preset == "tiny":
        remarks.append("Tiny presets show what a report looks like; their numbers mean nothing.")
    return [*remarks, seeds, rates]


def lines(table: Mapping[str, Any]) -> list[str]:
    """The table for a terminal."""
    gains = {(gain["system"], gain["task"], gain["over"]): gain for gain in table["gains"]}
    said = []
    for task in table["tasks"]:
        said.append(f"{task:20} {'scratch':>9} {'root only':>9} {'pretrained':>10}   gain over root only")
        arms = {(cell["system"], cell["arm"]): cell for cell in table["cells"] if cell["task"] == task}
        for system in dict.fromkeys(system for system, _ in arms):
            values = [arms[system, arm] for arm in ("scratch", "root_only", "pretrained")]
            shown = [f"{cell['value']:.1f}" if "value" in cell else "failed" for cell in values]
            over = gains.get((system, task, "root_only"))
            gain = "{:+.1f}   ({:+.1f} to {:+.1f})".format(over["value"], *over["ci95"]) if over else ""
            said.append(f"  {system:18} {shown[0]:>9} {shown[1]:>9} {shown[2]:>10}   {gain}")
    for row in table["equal_compute"]:
        if "gain" in row:
            rival, over, steps = row[LONG], row["gain"], row["steps"][LONG]
            said.append(
                f"{row['task']}, {row['system']}: root only with equal compute ({steps:,} steps) {rival['value']:.1f}; "
                + "pre-trained {:+.1f}   ({:+.1f} to {:+.1f})".format(over["value"], *over["ci95"])
            )
    said += left_out(table)
    said += [f"failed: {one['cell']}: {one['why']}" for one in table["failed"]]
    return said


def left_out(table: Mapping[str, Any]) -> list[str]:
    """Systems that stand on no line of a task, by why."""
    reasons = dict.fromkeys(one["why"] for one in table["unfit"])
    named = {why: ["{system} on {task}".format(**one) for one in table["unfit"] if one["why"] == why] for why in reasons}
    return [f"{why}: {', '.join(those)}" for why, those in named.items()]
