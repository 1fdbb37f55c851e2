"""The claims' numbers: kept records -> one row a claim, with its effect, the interval and the verdict, as plain values.

Of points the effect is `train.evaluate.contrast`: groups of questions drawn with replacement, then seeds, the same for all sides.
Of time it is a ratio, the other's median over ours; the questions timed are drawn with replacement, the same for both. Where a
claim is asked on several splits (languages), a value is their mean.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diptych.report.charts import Score
from diptych.report.claims import ClaimsPage, Row, Tried, claims_page
from diptych.study.claims import BLIND, Claim, Claims, Side
from diptych.study.compare import Work
from diptych.study.compare_table import cost_kept
from diptych.train.evaluate import REPLICATES, Interval, Item, contrast, gain, headline

HOLDS, DOES_NOT, CANNOT_TELL, FAILED = "holds", "does not hold here", "too small to tell", "failed"

Times = Mapping[tuple[str, str], Mapping[str, Any]]  # (claim, side) -> what one question costs


def verdict(effect: Interval, above: float, worth: float) -> str:
    """By the interval alone; what is claimed is looked at before what would be worth naming."""
    if effect.low > above:
        return HOLDS
    return DOES_NOT if effect.high < worth else CANNOT_TELL


def sooner(ours: ArrayLike, theirs: ArrayLike, seed: int = 0) -> Interval:
    """How many times as long theirs takes, by the medians over the same questions."""
    time_2Q = np.stack([np.asarray(ours, np.float64), np.asarray(theirs, np.float64)])
    drawn_RQ = np.random.default_rng(seed).integers(time_2Q.shape[1], size=(REPLICATES, time_2Q.shape[1]))
    median_2R = np.median(time_2Q[:, drawn_RQ], -1)
    low, high = np.percentile(median_2R[1] / median_2R[0], [2.5, 97.5])
    return Interval(float(np.median(time_2Q[1]) / np.median(time_2Q[0])), float(low), float(high))


def times(plan: Claims, work: Work) -> dict[tuple[str, str], dict[str, Any]]:
    """Of the claims that are about time, measured one after the other, where they are not kept."""
    found = {}
    for claim in plan.claims:
        for side in claim.sides if claim.measure.unit == "times" else ():
            if cost := cost_kept(work, plan.sides[claim.name, side.name][0]):
                found[claim.name, side.name] = cost
    return found


def table(plan: Claims, work: Work, measured: Times) -> dict[str, Any]:
    rows = [_row(plan, work, claim, measured) for claim in plan.claims]
    return {
        "budget": plan.budget.name,
        "preset": plan.budget.preset,
        "seeds": plan.seeds,
        "claims": rows,
        "failed": [{"claim": row["claim"], "why": row["why"]} for row in rows if row["verdict"] == FAILED],
    }


def _row(plan: Claims, work: Work, claim: Claim, measured: Times) -> dict[str, Any]:
    measure = claim.measure
    told = {
        "claim": claim.name,
        "system": claim.system,
        "paper": claim.paper,
        "says": claim.says,
        "measure": measure.about,
        "unit": measure.unit,
        "above": claim.above,
        "worth": claim.worth,
    }
    sides = [_side(plan, work, claim, side, measured.get((claim.name, side.name))) for side in claim.sides]
    if why := next((side["failed"] for side in sides if "failed" in side), ""):
        return told | {"sides": sides, "verdict": FAILED, "why": why}
    if measure.unit == "times":
        ours, theirs = (next(s for s in claim.sides if (s.share > 0) == is_ours) for is_ours in (True, False))
        effect = sooner(*(measured[claim.name, side.name]["each"] for side in (ours, theirs)))
        return told | _interval(effect) | {"sides": sides, "verdict": verdict(effect, claim.above, claim.worth), "why": ""}
    effect = contrast([(side.share, _runs(plan, work, claim, side)) for side in claim.sides])
    found, why = verdict(effect, claim.above, claim.worth), ""
    if not any(side["has_learnt"] for side in sides):
        than = (
            f"chance, {measure.chance:g}" if measure.chance is not None else "with another sample's picture in the place of its own"
        )
        found, why = CANNOT_TELL, f"no side does better than {than}: there is nothing to compare yet"
    return told | _interval(effect) | {"sides": sides, "verdict": found, "why": why}


def _side(plan: Claims, work: Work, claim: Claim, side: Side, cost: Mapping[str, Any] | None) -> dict[str, Any]:
    cells, measure = plan.sides[claim.name, side.name], claim.measure
    told: dict[str, Any] = {"name": side.name, "share": side.share, "system": side.system or claim.system}
    told |= {"settings": [*claim.settings, *side.settings], "data": list(side.data)}
    if lost := next((work.lost[cell.place] for cell in cells if cell.place in work.lost), None):
        return told | {"failed": lost}
    records = [work.records[cell.place] for cell in cells if cell.place in work.records]
    if len(records) < len(cells):
        return told | {"failed": "not there"}
    told |= {
        "n": sum(part["n"] for name, part in records[0]["splits"].items() if not name.startswith(BLIND)),
        "labels": records[0]["labels"],
        "minutes": {
            "past": round(sum(stage["seconds"] for stage in records[0]["past"]) / 60, 2),
            "tuning": round(statistics.mean(r["seconds"] for r in records) / 60, 2) if measure.is_tuned else 0.0,
        },
        "keys": [record["key"] for record in records],
        "version": records[0]["version"],
    }
    if measure.unit == "times":
        if cost is None:
            return told | {"failed": "its time is not kept, and its run is not there to be timed"}
        return told | {"value": cost["milliseconds"], "machine": cost["machine"]}
    runs = _runs(plan, work, claim, side)
    own = headline(*runs)
    told |= _interval(own)
    if measure.chance is not None:
        return told | {"by_chance": measure.chance, "has_learnt": own.low > measure.chance}
    blind = _runs(plan, work, claim, side, is_blind=True)
    return told | {"by_chance": round(headline(*blind).value, 3), "has_learnt": gain(runs, blind).low > 0}


def _runs(plan: Claims, work: Work, claim: Claim, side: Side, is_blind: bool = False) -> list[list[Item]]:
    """The questions of each seed. Of several splits a type is one of a split, so that the mean over types is that over splits."""
    runs = []
    for cell in plan.sides[claim.name, side.name]:
        splits = work.records[cell.place]["splits"]
        asked = {split: splits[f"{BLIND} {split}" if is_blind else split] for split in claim.measure.splits}
        items = [(split, item) for split, packed in asked.items() for item in work.results.unpack(packed)]
        runs.append([{**item, "type": f"{split} {item['type']}" if len(asked) > 1 else item["type"]} for split, item in items])
    return runs


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": round(interval.value, 3), "ci95": [round(interval.low, 3), round(interval.high, 3)]}


def csv_of(table: Mapping[str, Any]) -> str:
    """A line for each side of each claim; the effect and the verdict stand in all of them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    effect = ["claim", "paper", "measure", "unit", "effect", "low", "high", "above", "worth", "verdict"]
    writer.writerow([*effect, "side", "system", "share", "value", "value_low", "value_high", "by_chance", "n", "labels", "failed"])
    for row in table["claims"]:
        about = [row.get(name, "") for name in ("claim", "paper", "measure", "unit", "value")]
        about += [*row.get("ci95", ("", "")), row["above"], row["worth"], row["verdict"]]
        for side in row["sides"]:
            own = [side.get(name, "") for name in ("name", "system", "share", "value")]
            own += [*side.get("ci95", ("", "")), *(side.get(name, "") for name in ("by_chance", "n", "labels", "failed"))]
            writer.writerow([*about, *own])
    return text.getvalue()


def lines(table: Mapping[str, Any]) -> list[str]:
    """The table for a terminal."""
    said = []
    for row in table["claims"]:
        sides = ", ".join(f"{s['name']} {s['value']:.1f}" if "value" in s else f"{s['name']} failed" for s in row["sides"])
        effect = (
            ""
            if "value" not in row
            else f"{told(row['value'], row['unit'])} ({' to '.join(told(x, row['unit']) for x in row['ci95'])})"
        )
        said += [f"{row['verdict']:19} {row['claim']:26} {effect:28} {sides}", *([f"{'':20}{row['why']}"] if row["why"] else [])]
    return said


def told(value: float, unit: str) -> str:
    return f"{value:+.1f}" if unit == "points" else f"{value:.2f} x"


# --------------------------------------------------------------------------------------------------------------- the page


def page_of(table: Mapping[str, Any], work: Work) -> str:
    return claims_page(told_page(table, work))


def told_page(table: Mapping[str, Any], work: Work) -> ClaimsPage:
    rows = [_told_row(row) for row in table["claims"]]
    held = sum(row.verdict == HOLDS for row in rows)
    versions = sorted({side["version"] for row in table["claims"] for side in row["sides"] if "version" in side})
    machines = sorted({side["machine"] for row in table["claims"] for side in row["sides"] if "machine" in side})
    return ClaimsPage(
        title="Does what the papers claim hold here?",
        summary=f"Of {len(rows)} claims {held} hold{'s' * (held == 1)} on the embedded data, at the {table['preset']} presets. "
        "Each is an ablation: sides that differ in what it is about and in nothing else, with the same samples, steps and search.",
        rows=rows,
        kicker=" · ".join(("Diptych", f"budget {table['budget']}", date.today().isoformat())),
        remarks=_remarks(table),
        commands={str(work.plan.cells[place]): "\n".join(record["commands"]) for place, record in work.records.items()},
        facts={
            "Budget": table["budget"],
            "Presets": table["preset"],
            "Seeds of fine-tuning": str(table["seeds"]),
            "Sides": f"{len(work.records)}, of which {work.kept} were kept from before",
            "Version": ", ".join(versions),
            **({"Time measured on": ", ".join(machines)} if machines else {}),
        },
    )


def _told_row(row: Mapping[str, Any]) -> Row:
    return Row(
        row["claim"],
        row["paper"],
        row["says"],
        row["measure"],
        [_told_side(side) for side in row["sides"]],
        _score(row),
        row["verdict"],
        row["why"],
        row["unit"] == "times",
        row["above"],
        row["worth"],
    )


def _told_side(side: Mapping[str, Any]) -> Tried:
    how = " ".join([*side["settings"], *(f"--data {spec}" for spec in side["data"])])
    return Tried(side["name"], _score(side), side.get("by_chance"), how, side.get("failed", ""))


def _score(of: Mapping[str, Any]) -> Score | None:
    return Score(of["value"], *of.get("ci95", ())) if "value" in of else None


def _remarks(table: Mapping[str, Any]) -> list[str]:
    remarks = [
        "The pictures are drawn and the systems small. What does not hold here may hold at a paper's size, and conversely.",
        "One pre-training of each side: intervals say how much other questions would change an effect, not how much another "
        "pre-training would.",
        "Claims are many, intervals are of 95 %: of twenty effects that are nothing one lies beyond zero, half of these above.",
    ]
    return [
        *remarks,
        *(["Tiny presets show what a report looks like; their numbers mean nothing."] if table["preset"] == "tiny" else []),
    ]
