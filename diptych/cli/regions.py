"""`diptych regions`: from a detector to stored region features, and to and from the public layout."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.work import (
    AsJson,
    ConfigFile,
    Data,
    Resume,
    Resuming,
    Settings,
    Source,
    finished,
    put,
    resolved,
    show,
    speaks,
    work,
)

app = typer.Typer(help="Region features: what a detector sees in pictures, stored.", no_args_is_help=True)


class BoxesOf(StrEnum):
    detected = "detected"
    true = "true"


@app.command("train")
def regions_train(
    data: Data = None,
    preset: Annotated[str, typer.Option("--preset", metavar="PRESET", help="Of the detector: tiny, small.")] = "small",
    balance: Annotated[
        int | None, typer.Option("--balance", min=1, help="Show rare things again until each name has so many boxes in a set.")
    ] = None,
    file: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The detector's run directory.")] = Path("runs/detector"),
    resume: Resuming = Resume.auto,
    as_json: AsJson = False,
) -> None:
    """Train a detector on annotated boxes and score it on val; a `pretrain detector` with the score at its end."""
    from diptych import find
    from diptych.config import UserError

    found = find.system(f"detector:{preset}")
    recipe = resolved(found.recipe, file, settings)
    specs = data or ["scenes"]
    about = {"verb": "pretrain", "system": found.name, "preset": found.preset, "task": None, "data": specs, "init": {}}
    with work(as_json) as say:
        from dataclasses import replace

        from diptych.load import load
        from diptych.regions.balance import ClassAware
        from diptych.regions.score import lines, score
        from diptych.systems.detector import RegionDetector, called
        from diptych.train import run

        assert isinstance(recipe.system, RegionDetector.Config)

        sources = find.readers(specs, "train", "pretrain", recipe.data.limit)
        if balance:
            aliases = recipe.system.aliases
            sources = [replace(one, reader=ClassAware(one.reader, balance, lambda name: called(name, aliases))) for one in sources]
        show(recipe)
        result = run.pretrain(recipe, found.cls, sources, out, resume=resume.value, about=about)
        scores, said = {}, []
        if speaks():
            model = load(out)
            try:
                for source in find.readers(specs, "val", "pretrain"):
                    scores[source.name] = score(model.system, model.recipe, model.tokenizer, source.reader)
                    said += lines(f"{source.name}, val", scores[source.name])
            except UserError as error:
                print(f"no score on val at the end: {error}", file=sys.stderr)
        say({**result, "val": scores}, *said, *finished(out), f"next: diptych regions extract --from {out} --out runs/regions")


@app.command("score")
def regions_score(
    source: Source,
    data: Data = None,
    split: Annotated[list[str] | None, typer.Option("--split", metavar="SPLIT", help="May be repeated; default: val.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many samples of each split.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a detector on annotated pictures: AP50, names and attributes."""
    from diptych import find

    with work(as_json) as say:
        from diptych.load import load
        from diptych.regions.score import lines, score

        model = load(source)
        scores, said = {}, []
        for part in split or ["val"]:
            for found in find.readers(data or model.about["data"], part, "pretrain", limit):
                scores[f"{found.name}, {part}"] = scored = score(model.system, model.recipe, model.tokenizer, found.reader)
                said += lines(f"{found.name}, {part}", scored)
        say(scores, *said)


@app.command("export")
def regions_export(
    store: Annotated[Path, typer.Argument(metavar="STORE")],
    tsv: Annotated[Path, typer.Argument(metavar="FILE.tsv")],
    as_json: AsJson = False,
) -> None:
    """Write a store in the public layout: a .tsv of base64 lines with its .lineidx."""
    with work(as_json) as say:
        from diptych.regions.store import RegionStore
        from diptych.regions.tsv import write

        there, written = RegionStore(store), {}
        put("FILE.tsv", tsv, lambda: written.update(write(there, tsv)))
        say(written, f"{tsv}: {written['pictures']:,} pictures, {written['regions']:,} regions of {written['width']} numbers")


@app.command("import")
def regions_import(
    tsv: Annotated[Path, typer.Argument(metavar="FILE.tsv")],
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The store, a folder; what it holds is kept.")],
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="The table of classes beside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a store of region features in the public layout."""
    with work(as_json) as say:
        from diptych.regions.tsv import read

        about = (store := read(tsv, out, labels)).about
        what = (
            f"{about['pictures']:,} pictures, {about['rows']:,} regions of {store.width} numbers and {len(store.classes)} classes"
        )
        say({"store": str(out), **{key: about[key] for key in ("pictures", "rows", "width", "sha256")}}, f"{out}: {what}")


@app.command("extract")
def regions_extract(
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The store, a folder; what it holds is kept.")],
    data: Data = None,
    split: Annotated[list[str] | None, typer.Option("--split", metavar="SPLIT", help="May be repeated; default: train.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many samples of each split.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--for", metavar="TASK", help="The pictures this task asks about; default: of pre-training.")
    ] = None,
    boxes: Annotated[BoxesOf, typer.Option("--boxes", help="The detector's own boxes, or the annotated ones.")] = BoxesOf.detected,
    as_json: AsJson = False,
) -> None:
    """Take region features of every picture of a data set."""
    from diptych import find

    with work(as_json) as say:
        import hashlib

        from diptych.load import load
        from diptych.regions.extract import extract

        model = load(source)
        weights = hashlib.sha256((model.folder / "model.safetensors").read_bytes()).hexdigest()
        made = {"from": model.about["system"], "weights": weights}
        purposes = tuple(find.task_class(task).purpose for task in tasks or []) or "pretrain"
        sources = [found for part in split or ["train"] for found in find.readers(data or ["scenes"], part, purposes, limit)]

        def tell(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        store = extract(model.system, model.recipe, model.tokenizer, sources, out, boxes.value, made, tell)
        about = store.about
        what = (
            f"{about['pictures']:,} pictures, {about['rows']:,} regions of {store.width} numbers and {len(store.classes)} classes"
        )
        say({"store": str(out), **{key: about[key] for key in ("pictures", "rows", "width", "sha256")}}, f"{out}: {what}")


@app.command("verify")
def regions_verify(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE [OTHER]")],
    as_json: AsJson = False,
) -> None:
    """Read a whole store against its hash; or compare two, picture by picture."""
    from diptych.config import UserError

    if len(stores) > 2:
        raise UserError(f"diptych regions verify: one store, or two to compare; {len(stores)} were given")
    with work(as_json) as say:
        from diptych.regions.verify import compare, verify

        found = verify(stores[0]) if len(stores) == 1 else compare(*stores)
        say(found, *(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()))
