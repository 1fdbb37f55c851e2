"""`diptych regions`: from a detector to stored region features, and to and from the public layout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from diptych.data.mixture import Source as Mixed
    from diptych.regions.store import RegionStore

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

        sources = find.readers(specs, "train", found.cls.purpose, recipe.data.limit)
        if balance:
            aliases = recipe.system.aliases
            sources = [replace(one, reader=ClassAware(one.reader, balance, lambda name: called(name, aliases))) for one in sources]
        result = run.pretrain(recipe, found.cls, sources, out, resume=resume.value, about=about, announce=show)
        scores, said = {}, []
        extracting = shlex.join(["--from", str(out), *(word for spec in data or [] for word in ("--data", spec))])
        if speaks():
            model = load(out)
            try:
                for source in find.readers(specs, "val", found.cls.purpose):
                    scores[source.name] = score(model.system, model.recipe, model.tokenizer, source.reader)
                    said += lines(f"{source.name}, val", scores[source.name])
            except UserError as error:
                print(f"no score on val at the end: {error}", file=sys.stderr)
        say(
            {**result, "val": scores},
            *said,
            *finished(out),
            f"next: diptych regions extract {extracting} --out runs/regions",
        )


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
            for found in find.readers(data or model.about["data"], part, type(model.system).purpose, limit):
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

        store = read(tsv, out, labels)
        say(_facts(store), f"{out}: {_what(store)}")


@app.command("extract")
def regions_extract(
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The store, a folder; what it holds is kept.")],
    source: Annotated[
        str, typer.Option("--from", metavar="RUN", help="A detector; default: shipped:detector, which comes with Diptych.")
    ] = "",
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
        from diptych.load import load
        from diptych.regions.extract import extract

        model = load(source or find.SHIPPED)
        made = {"from": model.about["system"], "weights": _weights(model.folder)}
        purposes = tuple(find.task_class(task).purpose for task in tasks or [])
        sources = [
            found
            for part in split or ["train"]
            for spec in data or ["scenes"]
            for found in (find.readers([spec], part, purposes, limit) if purposes else _pictures(spec, part, limit))
        ]

        store = extract(model.system, model.recipe, model.tokenizer, sources, out, boxes.value, made, _tell)
        say(_facts(store), f"{out}: {_what(store)}")


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


# ------------------------------------------------------------------------------------------------ on the way


def seen_on_the_way(sources: Sequence[Mixed]) -> list[Mixed]:
    """The sources with what the shipped detector sees in their pictures.

    Each has a store of its own beside the embedded data, named after what decides what is in it, so whoever asks for the same
    finds it made. One that a killed process has begun is gone on with; while another process makes it, this one waits.
    """
    from dataclasses import replace

    from diptych import dist, find
    from diptych.regions.store import RegionStore, WithRegions

    places = [_place(source) for source in sources]

    def make() -> None:
        for source, place in zip(sources, places, strict=True):
            if (place / "store.json").is_file():
                _tell(f"{source.name}: regions as {find.SHIPPED} saw them: {place}")
                continue
            who = f"{find.SHIPPED}, which knows the things of the embedded scenes, looks at the pictures, once: {place}"
            _tell(f"{source.name}: there is no region store, so {who} (`diptych regions train` makes a detector of your own)")
            if len(source.reader) > _MANY:
                _tell(
                    f"{source.name}: {len(source.reader):,} samples take minutes; a first try with `--set data.limit=64` takes none"
                )
            _look(source, place)

    dist.on_first(make)
    return [
        replace(source, reader=WithRegions(source.reader, RegionStore(place)))
        for source, place in zip(sources, places, strict=True)
    ]


_MANY = 2000  # samples, about half a minute of a core
_STAMPED = 64  # pictures of a source whose size and time tell whether it is still what it was


def _place(source: Mixed) -> Path:
    """Where the store of a source lies. Another detector, other annotations, pictures changed or moved: another place."""
    import hashlib
    import json
    import re

    from diptych import find

    reader = source.reader
    decides: list[object] = [_weights(find.HERE / "regions" / "shipped"), reader.fingerprint, len(reader)]
    for i in range(0, len(reader), max(1, len(reader) // _STAMPED)):
        for image in reader[i].images:
            if isinstance(image, Path):
                there = image.stat() if image.is_file() else None
                decides.append((str(image.resolve()), there and (there.st_size, there.st_mtime_ns)))
    name = re.sub(r"[^\w]+", "-", source.name).strip("-")[-40:]
    return find.embedded("regions") / f"{name}-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]}"


def _look(source: Mixed, place: Path) -> None:
    import time
    from contextlib import ExitStack

    from diptych import find
    from diptych.load import load
    from diptych.regions.extract import extract
    from diptych.train import directory

    with directory.complaints(f"{place}: cannot be a region store"):
        place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as alone:
        waits = False
        while True:
            try:
                alone.enter_context(directory.held(place, _tell, "is making this store"))
                break
            except directory.Taken as taken:
                if not waits:
                    _tell(f"{str(taken).partition(';')[0]}; waiting for it")
                waits = True
                time.sleep(1)
        if (place / "store.json").is_file():
            return
        model = load(find.SHIPPED)
        made = {"from": model.about["system"], "weights": _weights(model.folder)}
        store = extract(model.system, model.recipe, model.tokenizer, [source], place, "detected", made, _tell)
        _tell(f"{source.name}: {_what(store)} in {place}")


def _weights(run: Path) -> str:
    """sha256 of a run's weights."""
    import hashlib

    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _facts(store: RegionStore) -> dict[str, Any]:
    return {"store": str(store.path), **{key: store.about[key] for key in ("pictures", "rows", "width", "sha256")}}


def _what(store: RegionStore) -> str:
    about = store.about
    return f"{about['pictures']:,} pictures, {about['rows']:,} regions of {store.width} numbers and {len(store.classes)} classes"


def _pictures(spec: str, split: str, limit: int | None) -> list[Mixed]:
    """A data set as what it is pre-trained on, or else as whatever has its pictures: questions will do."""
    from diptych import find
    from diptych.config import UserError
    from diptych.data.files import NoSplit

    try:
        return find.readers([spec], split, "pretrain", limit)
    except NoSplit:
        raise
    except UserError:
        others = {purpose for entry in find.catalogue("data").values() for purpose in entry.purposes} - {"pretrain", "documents"}
        with suppress(UserError):  # the first complaint is the one to tell
            return find.readers([spec], split, tuple(sorted(others)), limit)
        raise
