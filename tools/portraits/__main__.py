"""`python -m tools.portraits [NAME ...] [--runs DIR] [--write]`: where every figure and picture of docs/systems comes from.

Trains what is not there yet (runs.py), asks each system what its paper says it learns, beside controls (sitters.py), draws its
curve and what it learnt (pictures.py), and with --write puts all of it into docs/systems/NAME.md (page.py), docs/images/portraits/
and results/portraits/NAME.json. Everything can be interrupted: runs are resumed, what was judged is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diptych import checkpoint
from diptych.config import nearest
from tools.marked import put
from tools.portraits import page, pictures
from tools.portraits.runs import needs, train
from tools.portraits.sitters import SITTERS

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.portraits", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(SITTERS)}; all if none is named")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are")
    parser.add_argument("--ready", action="store_true", help="train nothing: leave out whom there is no run of")
    parser.add_argument("--write", action="store_true", help="into docs/ and results/")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in SITTERS:
            parser.error(f"{name} has not sat for a portrait{nearest(name, SITTERS)}")
    for name in asked.names or SITTERS:
        sitter = SITTERS[name]
        if asked.ready:
            sitter = page.ready(sitter, asked.runs)
        for one in dict.fromkeys(one for column in sitter.columns for one in needs(column.of)):
            train(one, asked.runs)
        table = page.measured(sitter, asked.runs)
        for what, cells in table.items():
            print(what, {title: round(figures.value, 2) for title, figures in cells.items()}, flush=True)
        if asked.write:
            images = ROOT / "docs/images/portraits"
            images.mkdir(parents=True, exist_ok=True)
            page.curves(sitter, asked.runs, images / f"{name}-curves.svg")
            drawn = pictures.DRAWN[name](asked.runs, images)
            section = page.section(name, sitter, table, asked.runs, drawn)
            put(ROOT / f"docs/systems/{sitter.page or name}.md", name, section, "portrait")
            kept = {what: {title: figures._asdict() for title, figures in cells.items()} for what, cells in table.items()}
            (ROOT / "results/portraits").mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(ROOT / f"results/portraits/{name}.json", kept)


if __name__ == "__main__":
    main()
