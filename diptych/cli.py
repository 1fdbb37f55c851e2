"""The command line: one function a verb, each a thin way from words to the library's calls.

What is heavy is imported by the verb that needs it, so that help answers at once. Every verb takes --json: one object on standard
output and nothing else there; what is for reading during the work goes to standard error. Exit codes: 0 success, 2 a user's
mistake, told in one line, 1 our fault, 130 interrupted. DIPTYCH_DEBUG=1 shows tracebacks. Under torchrun only the first process
speaks.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from diptych.config import Recipe
    from diptych.contracts import Reader, System
    from diptych.data.clean import Align
    from diptych.data.mixture import Source as Mixed

# what a disk or its owner refuses: a matter of the user's machine, wherever it is met
_REFUSALS = {getattr(errno, name, None) for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO")}
_REFUSALS |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, getattr(errno, "ELOOP", None)}

app = typer.Typer(
    name="diptych",
    help="Pre-train, fine-tune, evaluate and ask vision-language systems built from the same parts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make, check and look at data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
regions_app = typer.Typer(help="Region features: what a detector sees in pictures, stored.", no_args_is_help=True)
app.add_typer(regions_app, name="regions")


class Resume(StrEnum):
    auto = "auto"
    never = "never"


class BoxesOf(StrEnum):
    detected = "detected"
    true = "true"


NEXT = {  # what data of a purpose are first tried with
    "pretrain": "pretrain vilt:tiny",
    "vqa": "finetune vqa --from vilt:tiny",
    "retrieval": "finetune retrieval --from vilt:tiny",
    "documents": "pretrain bert:tiny",
    "probe": "finetune probe --from simclr:tiny",
    "translations": "pretrain mural:tiny",
}
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Data = Annotated[
    list[str] | None, typer.Option("--data", metavar="[KIND:]PATH[@WEIGHT]", help="A data set, may be repeated; default: scenes.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one key of the recipe; may be repeated.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Changes as YAML, or a run's config.json.")]
Init = Annotated[list[str] | None, typer.Option("--init", metavar="PART=RUN", help="Start a part from a run, as in image=RUN.")]
Regions = Annotated[
    Path | None, typer.Option("--regions", metavar="STORE", help="What a detector saw in the pictures (`diptych regions extract`).")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run directory; by default a name under runs/.")]
Ranks = Annotated[int, typer.Option("--ranks", min=1, metavar="N", help="Processes of this machine that share each batch.")]
Profiling = Annotated[
    bool, typer.Option("--profile", help="Record ten steps; profile.html in the run directory shows where time goes.")
]
Source = Annotated[str, typer.Option("--from", metavar="RUN", help="A run directory or a Hub repository.")]
Resuming = Annotated[
    Resume, typer.Option("--resume", help="auto: go on with the run in the directory; never: refuse if there is one.")
]


# --------------------------------------------------------------------------------------------------------------- verbs


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Everything in little, within 90 seconds.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The larger size, rates searched anew, all labels, other hinges. Long.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="By default runs/demo, or runs/demo-quick.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what pre-training is worth, on the embedded data."""
    from diptych.config import UserError

    if quick and full:
        raise UserError("--quick and --full exclude each other")
    out = out or Path("runs/demo-quick" if quick else "runs/demo")
    with _work(as_json) as say:
        from diptych.study.demo import demo as run_demo

        say(run_demo("quick" if quick else "full" if full else "default", out, call), f"report: {out / 'report.html'}")


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(metavar="SYSTEM[:PRESET]", help="For example vilt:small or my_lab.my_system:tiny.")],
    data: Data = None,
    init: Init = None,
    regions: Regions = None,
    file: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resuming = Resume.auto,
    ranks: Ranks = 1,
    profile: Profiling = False,
    as_json: AsJson = False,
) -> None:
    """Pre-train a system on pictures and texts."""
    from diptych import find

    found = find.system(name)
    recipe = _resolved(found.recipe, file, settings)
    out = out or Path("runs") / f"{found.name}-{found.preset}"
    specs = data or ["scenes"]
    about = {"verb": "pretrain", "system": found.name, "preset": found.preset, "task": None, "data": specs, "init": _pairs(init)}
    about |= _store(regions)
    with _several(ranks, recipe), _work(as_json) as say:
        from diptych.train import run

        _regions_suit(found.cls, regions, pretraining=True)
        sources = _seen(find.readers(specs, "train", found.cls.purpose, recipe.data.limit), regions)
        held_out = _held_out(specs, found.cls, regions) if recipe.train.validate_every else []
        _show(recipe)
        options = run.Options(init=_runs(init), resume=resume.value, about=about, profile=_profile_page(profile))
        result = run.pretrain(recipe, found.cls, sources, out, held_out=held_out, **options)
        say(result, *_scores(result), *_finished(out))


@app.command()
def finetune(
    name: Annotated[str, typer.Argument(metavar="TASK", help="For example vqa or retrieval.")],
    source: Annotated[
        str, typer.Option("--from", metavar="RUN|SYSTEM:PRESET", help="What to start from; a preset is from scratch.")
    ],
    data: Data = None,
    init: Init = None,
    regions: Regions = None,
    file: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resuming = Resume.auto,
    ranks: Ranks = 1,
    profile: Profiling = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a run on a task, or train it from scratch."""
    from diptych import find

    module, task = find.task(name), find.task_class(name)
    start = find.run(source)
    if start is None:
        system_name, preset, system, before = find.system(source)
        called = f"{name}-{system_name}-{preset}-scratch"
    else:
        saved = find.read_config(start)
        system_name, preset, system = saved["system"], saved.get("preset"), find.system_class(saved["system"])
        before = find.recipe({**saved["recipe"], "task": None}, system_name)
        called = f"{name}-{start.resolve().name}"
    find.suits(name, system_name)
    recipe = _resolved(module.finetuning(before), file, settings)
    out = out or Path("runs") / called
    specs = data or ["scenes"]
    about = {"verb": "finetune", "system": system_name, "preset": preset, "task": name, "from": source, "data": specs}
    about |= {"init": _pairs(init), **_store(regions)}
    with _several(ranks, recipe), _work(as_json) as say:
        from diptych.train import run

        _regions_suit(system, regions)
        sources = _seen(find.readers(specs, "train", task.purpose, recipe.data.limit), regions)
        _show(recipe)
        options = run.Options(init=_runs(init), resume=resume.value, about=about, profile=_profile_page(profile))
        validation = _validation(specs[0], task.purpose, regions)
        result = run.finetune(recipe, system, task, sources, out, start=start, evaluate_on=validation, **options)
        say(result, *_scores(result), *_finished(out))


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(metavar="TASK", help="For example vqa or retrieval.")],
    source: Source,
    data: Annotated[str, typer.Option("--data", metavar="[KIND:]PATH", help="By default what the run was trained on.")] = "",
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="For example val, test, test-style.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="In the benchmark's own format.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", metavar="FILE", help="Every question's score and best answers, as JSON lines.")
    ] = None,
    regions: Regions = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score a run on one split of a data set."""
    from diptych import find

    task = find.task_class(name)
    with _work(as_json) as say:
        from diptych import checkpoint
        from diptych.load import load
        from diptych.train import run

        model = load(source)
        judged = model.on_task(name)
        recipe = _resolved(model.recipe.model_copy(update={"task": judged.config}), None, settings)
        judged.config = recipe.task  # how it is judged may be set: task.folds=5
        spec = data or model.about["data"][0]
        known = model.about.get("regions") if model.system.reads_regions else None
        regions = regions or (Path(known) if known else None)
        _regions_suit(type(model.system), regions)
        found = _only(_seen(find.readers([spec], split, task.purpose, recipe.data.limit), regions))
        about = {**model.about, "task": name, "from": source, "data": [spec], **_store(regions)}
        result, evaluation = run.evaluate(judged, recipe, found.reader, split, model.tokenizer, about=about)
        if predictions:
            _put("--predictions", predictions, lambda: checkpoint.write_json(predictions, evaluation.predictions))
        if items:
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in evaluation.items)
            _put("--items", items, lambda: checkpoint.write_file(items, lines.encode()))
        say(result, *_scores(result))


@app.command()
def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A question, a statement, texts to choose from (a | b), or a text with [MASK].")
    ],
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the picture goes.")] = Path("answer.png"),
    as_json: AsJson = False,
) -> None:
    """Ask about a picture, and see where the model looked."""
    with _work(as_json) as say:
        from diptych.load import load
        from diptych.report.ask import ask_picture

        reply = load(source).ask(image, text)
        looked = reply.look if len(reply.look.weight_V) else (None, None)
        drawn = ask_picture(reply.picture, text, reply.guesses, *looked)
        _put("--out", out, lambda: out.write_bytes(drawn))
        guesses = [{"text": guess.text, "probability": round(guess.probability, 4)} for guess in reply.guesses]
        lines = [f"{guess.probability:7.1%}  {guess.text}" for guess in reply.guesses]
        if reply.verb == "match" and text.rstrip().endswith("?"):
            lines.append(f"(judged as a statement: this run answers no questions yet; diptych finetune vqa --from {source})")
        say(
            {"verb": reply.verb, "text": text, "guesses": guesses, "picture": str(out)},
            *lines,
            f"{'picture' if looked[0] is None else 'where it looked'}: {out}",
        )


@app.command("list")
def list_(
    room: Annotated[str, typer.Argument(metavar="[systems|objectives|tasks|data]")] = "",
    as_json: AsJson = False,
) -> None:
    """What there is, and which goes with which."""
    from diptych import find
    from diptych.config import UserError, nearest

    if room and room not in find.ROOMS:
        raise UserError(f"diptych list {room}: no such list{nearest(room, find.ROOMS)}")
    found = {chosen: find.catalogue(chosen) for chosen in find.ROOMS if room in ("", chosen)}
    lines = []
    for chosen, entries in found.items():
        lines += [chosen]
        for entry in entries.values():
            facts = "; ".join(f"{key}: {', '.join(values)}" for key, values in entry.facts().items())
            lines += [f"  {entry.name:16} {entry.about}", *([f"  {'':16} {facts}"] if facts else [])]
    with _work(as_json) as say:
        say(
            {chosen: {e.name: {"about": e.about, **e.facts()} for e in entries.values()} for chosen, entries in found.items()},
            *lines,
        )


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="SYSTEM[:PRESET]", help="For example vilt:paper.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, metavar="N", help="Devices that share each batch.")] = 1,
    device: Annotated[str, typer.Option("--device", help="v100, a100, l40s, h100, h200, b200, mi300x; or cpu, measured.")] = "h100",
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="The share of the peak that you expect; 0.35 is a guess.")
    ] = 0.35,
    file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """What a run will cost before it is started: parameters, FLOPs, memory, hours."""
    from diptych import find

    found = find.system(name)
    recipe = _resolved(found.recipe, file, settings)
    with _work(as_json) as say:
        from diptych import plan as planning

        planned = planning.plan(recipe, found.cls, gpus, device, utilisation)
        say({"system": found.name, "preset": found.preset, **planned}, *planning.lines(planned))


@app.command()
def convert(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="Whose weights: align, bert, detr, oscar, resnet, soho, uniter, vilt.")
    ],
    source: Annotated[Path, typer.Argument(metavar="SOURCE")],
    dest: Annotated[Path, typer.Argument(metavar="DEST")],
    as_json: AsJson = False,
) -> None:
    """Published weights to a run directory, and back."""
    from diptych import find

    module = find.weights(kind)
    with _work(as_json) as say:
        report = module.convert(source, dest)
        say(report, *(f"{key}: {value}" for key, value in report.items()))


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(metavar="[scenes|names|all]")] = "all",
    small: Annotated[bool, typer.Option("--small", help="A few thousand pictures, in seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compose the embedded data, in $DIPTYCH_DATA or ./data."""
    from diptych import find
    from diptych.config import UserError, flat, nearest

    if name not in (*find.EMBEDDED, "all"):
        raise UserError(f"diptych data make {name}: no such embedded data{nearest(name, [*find.EMBEDDED, 'all'])}")
    with _work(as_json) as say:
        made = {one: find.make_embedded(one, small=small) for one in find.EMBEDDED if name in (one, "all")}
        pictures = {one: sum(n for key, n in flat(about["counts"]).items() if "pictures" in key[-1]) for one, about in made.items()}
        say(made, *(f"{find.embedded(one)}: {n:,} pictures" for one, n in pictures.items()))


@data_app.command("check")
def data_check(
    places: Annotated[list[str], typer.Argument(metavar="[KIND:]PATH...", help="Data sets as for --data; or scenes, names.")],
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="Only this one.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Decode every picture, not a drawn sample.")] = False,
    clean: Annotated[
        str, typer.Option("--clean", metavar="RULES", help="What filters would leave (align); --set clean.short=100 sets one.")
    ] = "",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Look a data set over before training: what it holds, what is amiss, how the vocabulary takes it."""
    from diptych import find
    from diptych.config import UserError

    with _work(as_json) as say:
        from diptych.data import check
        from diptych.data import clean as cleaner
        from diptych.text import tokenizer

        rules = [setting for setting in settings or [] if setting.startswith("clean.")]
        settings = [setting for setting in settings or [] if setting not in rules]
        cleaning = _rules(clean, rules)
        recipe = _resolved(find.system("vilt:tiny").recipe, None, settings)
        words = tokenizer.load(recipe.text.vocab)
        reports = [check.check(place, *find.recognised(place), words, recipe, split, everything) for place in places]
        told, said = [], []
        for report in reports:
            command = _command(report.name, report.usable, settings)
            told.append({**report.as_json(), "next": command})
            said += check.lines(report)
            if cleaning:
                counts = _cleaned(report.name, split, cleaning)
                told[-1]["cleaned"] = {"rules": clean, "thresholds": cleaning.model_dump(), **counts}
                said += cleaner.said(counts, clean)
            said += [*([f"{report.name}: {report.verdict}", f"next: {command}"] if report.usable else [])]
        say({"usable": all(report.usable for report in reports), "data": told}, *said)
    if unusable := [f"{report.name}: {report.verdict}" for report in reports if not report.usable]:
        raise UserError("; ".join(unusable))


@data_app.command("show")
def data_show(
    place: Annotated[str, typer.Argument(metavar="[KIND:]PATH", help="A data set as for --data; or scenes, names.")],
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="By default train, where there is one.")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="How many pictures.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Which ones.")] = 0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page goes.")] = Path("sheet.html"),
    as_json: AsJson = False,
) -> None:
    """Look at drawn pictures of a data set with their captions, boxes, questions and answers."""
    from diptych import find

    with _work(as_json) as say:
        from diptych.report.samples import samples_page

        root, classes = find.recognised(place)
        shown, readers = _opened(classes, root, [split] if split else ["train", "all", "val", "test"])
        sheet = samples_page(place, shown, readers, n, seed)
        _put("--out", out, lambda: out.write_text(sheet, encoding="utf-8"))
        say({"data": place, "split": shown, "readers": [*readers], "page": str(out)}, f"page: {out}")


@regions_app.command("train")
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
    recipe = _resolved(found.recipe, file, settings)
    specs = data or ["scenes"]
    about = {"verb": "pretrain", "system": found.name, "preset": found.preset, "task": None, "data": specs, "init": {}}
    with _work(as_json) as say:
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
        _show(recipe)
        result = run.pretrain(recipe, found.cls, sources, out, resume=resume.value, about=about)
        scores, said = {}, []
        if _speaks():
            model = load(out)
            try:
                for source in find.readers(specs, "val", "pretrain"):
                    scores[source.name] = score(model.system, model.recipe, model.tokenizer, source.reader)
                    said += lines(f"{source.name}, val", scores[source.name])
            except UserError as error:
                print(f"no score on val at the end: {error}", file=sys.stderr)
        say({**result, "val": scores}, *said, *_finished(out), f"next: diptych regions extract --from {out} --out runs/regions")


@regions_app.command("score")
def regions_score(
    source: Source,
    data: Data = None,
    split: Annotated[list[str] | None, typer.Option("--split", metavar="SPLIT", help="May be repeated; default: val.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many samples of each split.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a detector on annotated pictures: AP50, names and attributes."""
    from diptych import find

    with _work(as_json) as say:
        from diptych.load import load
        from diptych.regions.score import lines, score

        model = load(source)
        scores, said = {}, []
        for part in split or ["val"]:
            for found in find.readers(data or model.about["data"], part, "pretrain", limit):
                scores[f"{found.name}, {part}"] = scored = score(model.system, model.recipe, model.tokenizer, found.reader)
                said += lines(f"{found.name}, {part}", scored)
        say(scores, *said)


@regions_app.command("export")
def regions_export(
    store: Annotated[Path, typer.Argument(metavar="STORE")],
    tsv: Annotated[Path, typer.Argument(metavar="FILE.tsv")],
    as_json: AsJson = False,
) -> None:
    """Write a store in the public layout: a .tsv of base64 lines with its .lineidx."""
    with _work(as_json) as say:
        from diptych.regions.store import RegionStore
        from diptych.regions.tsv import write

        there, written = RegionStore(store), {}
        _put("FILE.tsv", tsv, lambda: written.update(write(there, tsv)))
        say(written, f"{tsv}: {written['pictures']:,} pictures, {written['regions']:,} regions of {written['width']} numbers")


@regions_app.command("import")
def regions_import(
    tsv: Annotated[Path, typer.Argument(metavar="FILE.tsv")],
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The store, a folder; what it holds is kept.")],
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="The table of classes beside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a store of region features in the public layout."""
    with _work(as_json) as say:
        from diptych.regions.tsv import read

        about = (store := read(tsv, out, labels)).about
        what = (
            f"{about['pictures']:,} pictures, {about['rows']:,} regions of {store.width} numbers and {len(store.classes)} classes"
        )
        say({"store": str(out), **{key: about[key] for key in ("pictures", "rows", "width", "sha256")}}, f"{out}: {what}")


@regions_app.command("extract")
def regions_extract(
    source: Source,
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The store, a folder; what it holds is kept.")],
    data: Data = None,
    split: Annotated[list[str] | None, typer.Option("--split", metavar="SPLIT", help="May be repeated; default: train.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many samples of each split.")] = None,
    boxes: Annotated[BoxesOf, typer.Option("--boxes", help="The detector's own boxes, or the annotated ones.")] = BoxesOf.detected,
    as_json: AsJson = False,
) -> None:
    """Take region features of every picture of a data set."""
    from diptych import find

    with _work(as_json) as say:
        import hashlib

        from diptych.load import load
        from diptych.regions.extract import extract

        model = load(source)
        weights = hashlib.sha256((model.folder / "model.safetensors").read_bytes()).hexdigest()
        made = {"from": model.about["system"], "weights": weights}
        sources = [found for part in split or ["train"] for found in find.readers(data or ["scenes"], part, "pretrain", limit)]

        def tell(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        store = extract(model.system, model.recipe, model.tokenizer, sources, out, boxes.value, made, tell)
        about = store.about
        what = (
            f"{about['pictures']:,} pictures, {about['rows']:,} regions of {store.width} numbers and {len(store.classes)} classes"
        )
        say({"store": str(out), **{key: about[key] for key in ("pictures", "rows", "width", "sha256")}}, f"{out}: {what}")


@regions_app.command("verify")
def regions_verify(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE [OTHER]")],
    as_json: AsJson = False,
) -> None:
    """Read a whole store against its hash; or compare two, picture by picture."""
    from diptych.config import UserError

    if len(stores) > 2:
        raise UserError(f"diptych regions verify: one store, or two to compare; {len(stores)} were given")
    with _work(as_json) as say:
        from diptych.regions.verify import compare, verify

        found = verify(stores[0]) if len(stores) == 1 else compare(*stores)
        say(found, *(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()))


# ------------------------------------------------------------------------------------------------------------ plumbing


class Say(Protocol):
    def __call__(self, result: Mapping[str, Any], *lines: str) -> None: ...


@contextmanager
def _work(as_json: bool) -> Iterator[Say]:
    """Around a verb's work: joins torchrun's processes; whatever is printed meanwhile goes to standard error.

    `say(result, *lines)` is told once: the result is printed as JSON, or else the lines.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from diptych import dist

            stack.enter_context(dist.process_group())
        said: list[str] = []

        def say(result: Mapping[str, Any], *lines: str) -> None:
            said.extend([json.dumps(result, indent=2, ensure_ascii=False)] if as_json else lines)

        yield say
    if _speaks():
        print("\n".join(said))


@contextmanager
def _several(ranks: int, recipe: Recipe) -> Iterator[None]:
    """This process and as many others as are asked for."""
    from diptych import launch
    from diptych.config import UserError

    if ranks == 1 or launch.is_launched():  # the others were started by the same words
        yield
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--ranks starts processes, and torchrun already has: leave one of them out")
    batch, accumulate = recipe.train.batch_size, recipe.train.accumulate
    if batch % (ranks * accumulate):
        raise UserError(f"--ranks {ranks}: does not divide train.batch_size={batch} / train.accumulate={accumulate}")
    import torch

    threads = torch.get_num_threads()
    with launch.ranks(ranks, _words):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _resolved(recipe: Recipe, file: Path | None, settings: list[str] | None) -> Recipe:
    from diptych import config

    layers = [config.from_file(file)] if file else []
    return config.resolve(recipe, *layers, *(config.from_setting(setting) for setting in settings or []))


def _show(recipe: Recipe) -> None:
    from diptych import config

    if _speaks():
        print(config.to_yaml(recipe), file=sys.stderr, flush=True)


def _pairs(init: list[str] | None) -> dict[str, str]:
    """`--init PART=RUN` as {part: run}."""
    from diptych.config import UserError

    pairs = {}
    for text in init or []:
        part, equals, run = text.partition("=")
        if not (part and equals and run):
            raise UserError(f"--init {text}: write it as PART=RUN, for example image=runs/vit-small")
        pairs[part] = run
    return pairs


def _profile_page(is_asked: bool) -> Callable[[Any, Path], str] | None:
    if not is_asked:
        return None
    from diptych.report.profile import profile_page

    return profile_page


def _runs(init: list[str] | None) -> dict[str, Path]:
    from diptych import find
    from diptych.config import UserError

    runs = {}
    for part, text in _pairs(init).items():
        if (run := find.run(text)) is None:
            raise UserError(f"--init {part}={text}: {text} is no run directory")
        runs[part] = run
    return runs


def _finished(out: Path) -> list[str]:
    """Write the run's report and say where things are."""
    from diptych.report.run import run_page

    if _speaks():
        (out / "report.html").write_text(run_page(out), encoding="utf-8")
    return [f"run: {out}", f"report: {out / 'report.html'}"]


def _only(sources: list[Mixed]) -> Mixed:
    """A score is of one data set."""
    from diptych.config import UserError

    if len(sources) > 1:
        names = [source.name for source in sources]
        raise UserError(f"--data: {len(names)} data sets are there; name one: {' or '.join(names)}")
    return sources[0]


def _put(option: str, path: Path, write: Callable[[], object]) -> None:
    """Write what an option names, making its folder; a place that cannot be written is the user's matter."""
    from diptych.config import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror})") from None


def _store(regions: Path | None) -> dict[str, str]:
    """The region store's place in `about`: only where there is one."""
    return {} if regions is None else {"regions": str(regions)}


def _regions_suit(system: type[System], regions: Path | None, pretraining: bool = False) -> None:
    """Refuse a missing store, and one that would not be read."""
    from diptych.config import UserError

    is_read = system.reads_regions or (pretraining and system.taught_by_regions)
    if is_read and regions is None:
        how = "reads" if system.reads_regions else "is taught by"
        train, extract = "diptych regions train", "diptych regions extract --from runs/detector --split train --split val"
        raise UserError(
            f"{system.__name__} {how} what a detector saw in the pictures: --regions STORE."
            f" `{train} && {extract} --out runs/regions` makes one of the scenes"
        )
    if regions is not None and not is_read:
        when = " after pre-training" if system.taught_by_regions else ""
        raise UserError(f"--regions {regions}: {system.__name__} reads no region features{when}; leave it out")


def _seen(sources: list[Mixed], regions: Path | None) -> list[Mixed]:
    """Sources whose samples bring what the store, where there is one, holds of their pictures."""
    from dataclasses import replace

    from diptych.regions.store import RegionStore, WithRegions

    if regions is None:
        return sources
    store = RegionStore(regions)
    return [replace(source, reader=WithRegions(source.reader, store)) for source in sources]


def _validation(spec: str, purpose: str, regions: Path | None) -> dict[str, Reader]:
    """The `val` split of a data set, where it has one."""
    from diptych import find
    from diptych.config import UserError

    try:
        return {"val": _only(_seen(find.readers([spec], "val", purpose), regions)).reader}
    except UserError as error:
        if _speaks():
            print(f"no score on val at the end: {error}", file=sys.stderr)
        return {}


def _held_out(specs: list[str], system: type[System], regions: Path | None) -> list[Mixed]:
    """The `val` splits of data sets, where they all have one."""
    from diptych import find
    from diptych.config import UserError

    try:
        return _seen(find.readers(specs, "val", system.purpose), regions)
    except UserError as error:
        if _speaks():
            print(f"nothing is measured on val: {error}", file=sys.stderr)
        return []


def _command(place: str, usable: list[str], settings: list[str] | None) -> str:
    """What to type after a check."""
    import shlex

    verb = next((verb for purpose, verb in NEXT.items() if purpose in usable), "data check")
    data = [place] if verb == "data check" else ["--data", place]
    return shlex.join(["diptych", *verb.split(), *data, *(word for setting in settings or [] for word in ("--set", setting))])


def _rules(name: str, settings: list[str]) -> Align | None:
    """The rules of a name with the thresholds that were set."""
    from pydantic import ValidationError

    from diptych.config import UserError, explain, from_setting, nearest
    from diptych.data.clean import RULES

    if not name:
        if settings:
            raise UserError(f"--set {settings[0]}: a threshold of which rules? --clean {' or '.join(RULES)}")
        return None
    if name not in RULES:
        raise UserError(f"--clean {name}: no such rules{nearest(name, RULES)}")
    changes = [change for setting in settings for change in from_setting(setting)]
    for change in changes:
        if (key := ".".join(change.path[1:])) not in RULES[name].model_fields:
            raise UserError(f"{change.place}: no threshold '{key}'{nearest(key, RULES[name].model_fields, 'clean.')}")
    values = {change.path[1]: change.value for change in changes}
    try:
        return RULES[name].model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(explain(error, values, ("clean",), changes))) from None


def _cleaned(place: str, split: str, rules: Align) -> dict[str, int]:
    """Counts over the pairs of a data set: of the split that is trained on, if no other is named."""
    from diptych import find
    from diptych.data import clean

    return clean.count([source.reader for source in find.readers([place], split or "train", "pretrain")], rules)


def _opened(classes: Mapping[str, Any], root: Path, splits: list[str]) -> tuple[str, dict[str, Reader]]:
    """The first of several splits that any reader has, and the readers that have it."""
    from diptych.config import UserError

    refusals = []
    for split in splits:
        readers = {}
        for name, cls in classes.items():
            try:
                readers[name] = cls.open(root, split)
            except UserError as error:
                refusals.append(error)
        if readers:
            return split, readers
    raise refusals[0]


def _scores(result: Mapping[str, Any]) -> list[str]:
    """A result as a table: metric, value, 95 % interval. Ranks other than the first have none."""
    if not result or result["split"] == "train":
        return []
    asked = {None: "samples", "retrieval": "queries"}.get(result["task"], "questions")
    lines = [f"{result['task'] or result['system']}, {result['split']}: {result['n']:,} {asked}"]
    for metric, value in result["metrics"].items():
        low_high = result["ci95"].get(metric)
        lines.append(
            f"{metric:>20} {value:7.{2 if result['task'] else 4}f}"
            + ("" if low_high is None else "   ({:.2f} to {:.2f})".format(*low_high))
        )
    return lines


_words: list[str] = []  # of the command that is being carried out


def main() -> None:
    sys.exit(call())


def call(words: Sequence[str] | None = None) -> int:
    """Carry out one command line (default: this process's own); its exit code. Complaints go to standard error."""
    global _words
    _words = sys.argv[1:] if words is None else list(words)
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]  # click's, which newer Typers carry inside themselves
    try:
        return app(None if words is None else list(words), prog_name="diptych", standalone_mode=False) or 0
    except usage_error as error:
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        if "\n" in message:  # a bare `diptych` asks for help
            print(message)
            return 0
        return _complain(message, 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except Exception as error:
        if os.environ.get("DIPTYCH_DEBUG"):
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One line for any error. Ours is kept in a file, to be sent to us."""
    from pydantic import ValidationError

    from diptych.config import UserError, explain

    if isinstance(error, UserError):
        return _complain(str(error), 2)
    if isinstance(error, ValidationError):
        return _complain("; ".join(explain(error, None)), 2)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return _complain(f"{error.filename or 'the disk'}: {error.strerror}", 2)
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="diptych-error-", suffix=".txt")
    with open(descriptor, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    said = str(error).strip().partition("\n")[0]
    return _complain(f"an error of ours, sorry ({type(error).__name__}: {said}); please report it with {path}", 1)


def _complain(message: str, code: int) -> int:
    from diptych.launch import is_launched

    if _speaks() or is_launched():  # one that was launched speaks to who launched it
        print(f"diptych: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
