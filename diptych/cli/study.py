"""The verbs of studies: many runs, one table."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.work import AsJson, Resume, work

app = typer.Typer()


class Spend(StrEnum):
    quick = "quick"
    small = "small"
    full = "full"


@app.command()
def compare(
    systems: Annotated[str, typer.Option("--systems", metavar="A,B", help="By default all whose past is known.")] = "",
    tasks: Annotated[str, typer.Option("--tasks", metavar="X,Y", help="By default all that the embedded data have.")] = "",
    claims: Annotated[
        bool, typer.Option("--claims", help="Test what the papers claim; --systems then takes claims, by name or by system.")
    ] = False,
    budget: Annotated[Spend, typer.Option("--budget", help="How long everything is trained, and how much is asked.")] = Spend.quick,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Fine-tunings of each cell.")] = 1,
    equal_compute: Annotated[
        bool,
        typer.Option(
            "--equal-compute",
            help="Also the root alone, fine-tuned for as long as everything took; where none are named, of 3 systems on 2 tasks.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, metavar="N", help="Commands beside each other; by default one a core, or one GPU."),
    ] = None,
    kept: Annotated[
        bool, typer.Option("--kept", help="A table of the cells in --results that are kept; the others are not computed.")
    ] = False,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto: go on with the table in OUT; never: refuse if there is one.")
    ] = Resume.auto,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where finished cells are kept, and looked for.")
    ] = Path("results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Runs, the table and the report; runs/compare or runs/claims.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare systems on tasks: from scratch, with a root alone, and pre-trained."""
    with work(as_json) as say:
        import torch

        from diptych.cli import call
        from diptych.study.compare import Options
        from diptych.study.pasts import BUDGETS

        if claims:
            from diptych.study.claims import claims as fill
            from diptych.study.claims_table import lines
        else:
            from diptych.study.compare import compare as fill
            from diptych.study.compare_report import lines

        jobs = jobs or (1 if torch.cuda.is_available() else min(os.cpu_count() or 1, 8))
        wanted, asked = ([name.strip() for name in text.split(",") if name.strip()] for text in (systems, tasks))
        options = Options(wanted, asked, BUDGETS[budget.value], seeds, jobs, resume.value, results, equal_compute, kept)
        name = "claims" if claims else "table"
        out = out or Path("runs/claims" if claims else "runs/compare")
        table = fill(options, out, call)
        say(table, *lines(table), f"table: {out / name}.json, {out / name}.csv", f"report: {out / 'report.html'}")
    if table["failed"]:
        raise typer.Exit(1)


class Reach(StrEnum):
    quick = "quick"
    small = "small"


@app.command()
def scale(
    name: Annotated[str, typer.Argument(metavar="SYSTEM[:PRESET]", help="For example uniter or vilt:small.")],
    budget: Annotated[Reach, typer.Option("--budget", help="How far the levers reach, and how long every cell is.")] = Reach.quick,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, metavar="N", help="Commands beside each other; by default one a core, or one GPU."),
    ] = None,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto: go on with the study in OUT; never: refuse if there is one.")
    ] = Resume.auto,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where finished cells are kept, and looked for.")
    ] = Path("results/scale"),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Runs, scale.json, scale.csv, report.html; by default runs/scale-SYSTEM."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Scale a system: data x size x objectives, and the power laws between them."""
    with work(as_json) as say:
        import torch

        from diptych.cli import call
        from diptych.study.scale import EXTENTS, Options
        from diptych.study.scale import scale as carry_out
        from diptych.study.scale_report import lines

        jobs = jobs or (1 if torch.cuda.is_available() else min(os.cpu_count() or 1, 8))
        out = out or Path(f"runs/scale-{name.replace(':', '-')}")
        found = carry_out(name, Options(EXTENTS[budget.value], jobs, resume.value, results), out, call)
        say(found, *lines(found), f"cells: {out / 'scale.json'}, {out / 'scale.csv'}", f"report: {out / 'report.html'}")
    if found["failed"]:
        raise typer.Exit(1)
