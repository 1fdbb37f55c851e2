"""The measured part of docs/claims.md, from tables of `diptych compare --claims`: `python -m tools.claims FILE... [--write]`.

FILE is a claims.json; several, of one budget, become one table. Nothing is chosen: every claim that a table has stands on the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.study.claims import CLAIMS
from tools.marked import put

PAGE = Path(__file__).parents[1] / "docs/claims.md"


def merged(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """In the order of the list of claims. No two may have the same claim."""
    whole: dict[str, Any] = {name: tables[0][name] for name in ("budget", "seeds")}
    if any(table[name] != value for table in tables for name, value in whole.items()):
        raise SystemExit("tables of several budgets or numbers of seeds do not go on one page")
    rows = [row for table in tables for row in table["claims"]]
    names = [row["claim"] for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SystemExit(f"{twice[0]} stands in more than one table")
    return whole | {"claims": sorted(rows, key=lambda row: [*CLAIMS].index(row["claim"]))}


def page(table: Mapping[str, Any]) -> str:
    names = ",".join(row["claim"] for row in table["claims"])
    lines = [
        "```console",
        f"diptych compare --claims --systems {names} --budget {table['budget']} --seeds {table['seeds']}",
        "```",
        "",
        "| claim | sides | effect | verdict |",
        "|---|---|---|---|",
        *(_row(row) for row in table["claims"]),
    ]
    if open_ := [name for name in CLAIMS if name not in names.split(",")]:
        lines += ["", f"Not run yet at this budget: {', '.join(f'`{name}`' for name in open_)}."]
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> str:
    sides = "; ".join(_sides(row))
    effect = "" if row.get("value") is None else _number(row["value"], *row["ci95"], times=row["unit"] == "times")
    why = f": {row['why']}" if row["why"] else ""
    return f"| `{row['claim']}` {row['says']} | {row['measure']}: {sides} | {effect} | **{row['verdict']}**{why} |"


def _sides(row: Mapping[str, Any]) -> Iterator[str]:
    for side in row["sides"]:
        if side.get("value") is None:
            yield f"{side['name']} failed"
            continue
        if row["unit"] == "times":
            yield f"{side['name']} {side['value']:.1f} ms"
            continue
        by_chance = f", {side['by_chance']:.1f} by chance" if side.get("by_chance") is not None else ""
        yield f"{side['name']} {side['value']:.1f} ({side['ci95'][0]:.1f} to {side['ci95'][1]:.1f}{by_chance})"


def _number(value: float, low: float, high: float, times: bool) -> str:
    return f"{value:.2f}x ({low:.2f} to {high:.2f})" if times else f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.claims", description="The claims' page, from their tables.")
    parser.add_argument("tables", type=Path, nargs="+", metavar="FILE", help="claims.json of `diptych compare --claims`")
    parser.add_argument("--write", action="store_true", help="into docs/claims.md, instead of to the terminal")
    asked = parser.parse_args()
    text = page(merged([json.loads(file.read_text(encoding="utf-8")) for file in asked.tables]))
    if asked.write:
        put(PAGE, "claims", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
