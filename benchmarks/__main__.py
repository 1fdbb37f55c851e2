"""`python -m benchmarks [NAME ...] [--write FILE]`: run the modules of this folder that have a `run`, or those named.

Their rows are printed as they come. With --write, the part of FILE between `<!-- NAME -->` and `<!-- end of NAME -->` becomes the
rows of that module as a table, with machine, date and command; what other modules measured stays as it was.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from benchmarks import machine
from benchmarks.side_by_side import Row
from tools.marked import put


def names() -> list[str]:
    """The modules that measure something."""
    found = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    return [name for name in found if hasattr(importlib.import_module(f"benchmarks.{name}"), "run")]


def main(words: Sequence[str] | None = None) -> None:
    known = names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory, as ratios to a named peer.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(known)}; all of them if none is named")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this page, between its marks")
    asked = parser.parse_args(words)
    for name in asked.names:
        if name not in known:
            parser.error(f"no benchmark '{name}'; there are {', '.join(known)}")
    print(f"{machine.describe()}; medians [least, most]")
    for name in asked.names or known:
        rows = []
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(row.line(), flush=True)
            rows.append(row)
        if asked.write:
            put(asked.write, name, table(name, rows))


def table(name: str, rows: Sequence[Row]) -> str:
    lines = ["| what | figure | least, most | n | against | how |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append("| " + " | ".join((row.name, row.figure(), row.spread(), str(row.n), row.peer, row.how)) + " |")
    date = datetime.datetime.now(datetime.UTC).date()
    return "\n".join([*lines, "", f"{machine.describe()}. {date}, `python -m benchmarks {name}`."])


if __name__ == "__main__":
    main()
