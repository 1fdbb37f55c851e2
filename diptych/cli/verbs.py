"""The verbs of a run, from pre-training to asking; and what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.sources import held_out_of, only, regions_for, told_of, validation_of, with_regions
from diptych.cli.work import (
    AsJson,
    ConfigFile,
    Data,
    Further,
    Init,
    Out,
    Profiling,
    Ranks,
    Regions,
    Resume,
    Resuming,
    Settings,
    Source,
    finished,
    judging,
    place_for,
    put,
    resolved,
    several,
    show,
    trained_on,
    work,
)

app = typer.Typer(
    name="diptych",
    help="Pre-train, fine-tune, evaluate and ask vision-language systems built from the same parts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    with work(as_json) as say:
        from diptych.cli import call
        from diptych.study.demo import demo as run_demo

        say(run_demo("quick" if quick else "full" if full else "default", out, call), f"report: {out / 'report.html'}")


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(metavar="SYSTEM[:PRESET]", help="For example vilt:small or my_lab.my_system:tiny.")],
    data: Data = None,
    source: Further = None,
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

    start, found = find.going_on(source, name) if source else (None, find.system(name))
    recipe = trained_on(found.recipe, file, settings, start)
    out = out or Path("runs") / (f"{start.resolve().name}-further" if start else f"{found.name}-{found.preset}")
    specs = data or [found.cls.practises_on]
    about = {"verb": "pretrain", "system": found.name, "preset": found.preset, "task": None, "data": specs, "init": _pairs(init)}
    about |= {"from": source} if source else {}
    regions = regions_for(found.cls, found.name, regions, pretraining=True)
    with several(ranks, recipe), work(as_json) as say:
        from diptych.text import tokenizer
        from diptych.train import run

        notes: list[str] = []
        options = run.Options(init=_runs(init), resume=resume.value, profile=_profile_page(profile))
        words = tokenizer.load(run.vocabulary_of(start) or recipe.text.vocab)
        options |= {"tokenizer": words, "announce": lambda recipe: show(recipe, notes)}
        sources = with_regions(find.readers(specs, "train", found.cls.purpose, recipe.data.limit), regions)
        options["about"] = about | told_of(regions, sources)
        held_out = held_out_of(specs, found.cls, regions, notes) if recipe.train.validate_every else []
        result = run.pretrain(recipe, found.cls, sources, out, start=start, held_out=held_out, **options)
        say(result, *_scores(result), *finished(out))


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

    task = find.task_class(name)
    start, saved = find.run(source), None
    if start is None:
        system_name, preset, system, before = find.system(source)
        called = f"{name}-{system_name}-{preset}-scratch"
    else:
        saved = find.read_config(start)
        system_name, preset, system = saved["system"], saved.get("preset"), find.system_class(saved["system"])
        before = find.recipe({**saved["recipe"], "task": None}, system_name)
        called = f"{name}-{start.resolve().name}"
    recipe = trained_on(find.finetuning(name, system_name, before), file, settings, start)
    out = out or Path("runs") / called
    specs = data or ["scenes"]
    about = {"verb": "finetune", "system": system_name, "preset": preset, "task": name, "from": source, "data": specs}
    about |= {"init": _pairs(init)}
    regions = regions_for(system, system_name, regions, saved, task.reads_regions(recipe.task))
    with several(ranks, recipe), work(as_json) as say:
        from diptych.train import run

        notes: list[str] = []
        options = run.Options(init=_runs(init), resume=resume.value, profile=_profile_page(profile))
        options |= {"announce": lambda recipe: show(recipe, notes)}
        sources = with_regions(find.readers(specs, "train", task.purpose, recipe.data.limit), regions)
        options["about"] = about | told_of(regions, sources)
        validation = validation_of(specs[0], task.purpose, regions, notes)
        result = run.finetune(recipe, system, task, sources, out, start=start, evaluate_on=validation, **options)
        say(result, *_scores(result), *finished(out))


@app.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(metavar="TASK", help="For example vqa or retrieval; or objectives: those of pre-training.")
    ],
    source: Source,
    data: Annotated[str, typer.Option("--data", metavar="[KIND:]PATH", help="By default what the run was trained on.")] = "",
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="For example val, test, test-style.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option("--predictions", metavar="FILE", help="In the benchmark's own format; a table if named .csv.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items", metavar="FILE", help="JSON lines: every question's score and answers; of objectives, a batch's sums."
        ),
    ] = None,
    regions: Regions = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score a run on one split of a data set."""
    from diptych import find

    if name == "objectives":
        return _objectives(source, data, split, items, regions, settings, as_json)
    task = find.task_class(name)
    place_for("--predictions", predictions)
    place_for("--items", items)
    with work(as_json) as say:
        from diptych.data.words import refuse_unread
        from diptych.load import load, with_proposer
        from diptych.train import run

        model = load(source)
        judged = model.on_task(name)
        recipe = judging(find.unlimited(model.recipe.model_copy(update={"task": judged.config})), settings, task.fixed)
        judged.config = recipe.task  # how it is judged may be set: task.folds=5
        with_proposer(judged)
        spec = data or model.about["data"][0]
        regions = regions_for(type(model.system), model.about["system"], regions, model.about, task.reads_regions(recipe.task))
        found = only(with_regions(find.readers([spec], split, task.purpose, recipe.data.limit), regions))
        refuse_unread([found], model.tokenizer)
        about = {**model.about, "task": name, "from": source, "data": [spec], **told_of(regions, [found])}
        result, evaluation = run.evaluate(judged, recipe, found.reader, split, model.tokenizer, about=about)
        if predictions:
            put("--predictions", predictions, lambda: _write_predictions(predictions, evaluation.predictions, task.has_header))
        if items:
            _write_items(items, evaluation.items)
        say(result, *_scores(result))


@app.command()
def score(
    name: Annotated[str, typer.Argument(metavar="TASK", help="vqa, ve or nlvr2: whose prediction file has an answer a sample.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As the benchmark's server takes it, or as --predictions wrote it.")],
    data: Annotated[str, typer.Option("--data", metavar="[KIND:]PATH", help="Where the annotations are.")],
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="For example val.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Score a prediction file, whoever made it, against the annotations of a split."""
    from diptych import find
    from diptych.config import UserError

    task = find.task_class(name)
    with work(as_json) as say:
        from diptych.tasks.submission import judged, scored
        from diptych.train.run import result_of

        if (judge := judged(task)) is None:
            able = ", ".join(other for other in find.catalogue("tasks") if judged(find.task_class(other)))
            raise UserError(f"diptych score {name}: its predictions are not one answer a sample; these are: {able}")
        reader = only(find.readers([data], split, task.purpose)).reader
        evaluation = scored(judge, file, reader, split)
        about = {"task": name, "data": [data], "predictions": str(file), "data_sha256": reader.fingerprint}
        result = {**about, "split": split, **result_of(evaluation)}
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
    place_for("--out", out)
    with work(as_json) as say:
        from diptych.load import alternatives, load
        from diptych.report.ask import ask_picture

        reply = load(source).ask(image, text)
        looked = reply.look if len(reply.look.weight_V) else (None, None)
        drawn = ask_picture(reply.picture, text, reply.guesses, *looked, reply.boxes)
        put("--out", out, lambda: out.write_bytes(drawn))
        guesses = [{"text": guess.text, "probability": round(guess.probability, 4)} for guess in reply.guesses]
        lines = [f"{guess.probability:7.1%}  {guess.text}" for guess in reply.guesses]
        if reply.verb == "match" and text.rstrip().endswith("?"):
            lines.append(f"(judged as a statement: this run answers no questions yet; diptych finetune vqa --from {source})")
        if reply.verb == "answer" and len(alternatives(text)) > 1:
            lines.append("(read as one question; to choose between texts, ask a run that was only pre-trained)")
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
    with work(as_json) as say:
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
    recipe = resolved(found.recipe, file, settings)
    with work(as_json) as say:
        from diptych import plan as planning

        planned = planning.plan(recipe, found.cls, gpus, device, utilisation)
        say({"system": found.name, "preset": found.preset, **planned}, *planning.lines(planned))


@app.command()
def convert(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="Whose weights: align, bert, detr, oscar, resnet, soho, uniter, vilt, x152c4.")
    ],
    source: Annotated[Path, typer.Argument(metavar="SOURCE")],
    dest: Annotated[Path, typer.Argument(metavar="DEST")],
    as_json: AsJson = False,
) -> None:
    """Published weights to a run directory, and back."""
    from diptych import find

    module = find.weights(kind)
    with work(as_json) as say:
        report = module.convert(source, dest)
        say(report, *(f"{key}: {value}" for key, value in report.items()))


# ------------------------------------------------------------------------------------------------- what they share


def _objectives(
    source: str,
    data: str,
    split: str,
    items: Path | None,
    regions: Path | None,
    settings: list[str] | None,
    as_json: bool,
) -> None:
    """The objectives of pre-training on one split. A preset instead of a run: of a system that has learnt nothing.

    Settings may change what is asked: system.mlm.mask=0, or system.mvm=null, and what is left is asked as if that had never been.
    """
    from diptych import find
    from diptych.config import UserError

    with work(as_json) as say:
        from diptych.load import Model, configured, load
        from diptych.text import tokenizer
        from diptych.train import run

        if find.run(source) is not None:
            model = load(source)
            regions = regions_for(type(model.system), model.about["system"], regions, model.about, pretraining=True)
        else:
            fresh = find.system(source)
            recipe, words = fresh.recipe, tokenizer.load(fresh.recipe.text.vocab)
            regions = regions_for(fresh.cls, fresh.name, regions, pretraining=True)
            seen = with_regions(find.readers([data or fresh.cls.practises_on], "train", fresh.cls.purpose), regions)
            prepared = fresh.cls.prepare(recipe.system, [one.reader for one in seen], words)
            recipe = recipe.model_copy(update={"system": prepared})
            about = {"system": fresh.name, "preset": fresh.preset, "data": [fresh.cls.practises_on]}
            model = Model(run.build_system(recipe, fresh.cls, words), words, recipe, about, Path(source))
        if model.task is not None:
            raise UserError(f"{source}: fine-tuned for {model.about['task']}, and objectives are those of pre-training")
        recipe, kind = resolved(find.unlimited(model.recipe), None, settings), type(model.system)
        model = configured(model, recipe)
        specs = [data] if data else model.about["data"]
        sources = with_regions(find.readers(specs, split, kind.purpose), regions)
        about = {**model.about, "task": None, "from": source, "data": specs, **told_of(regions, sources)}
        result, measured = run.measure(model.system, recipe, sources, split, model.tokenizer, about=about, limit=recipe.data.limit)
        if items:
            _write_items(items, measured.items())
        say(result, *_scores(result))


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
        try:
            run = find.run(text)
        except UserError as error:
            raise UserError(f"--init {part}={text}: {error}") from None
        if run is None:
            raise UserError(f"--init {part}={text}: {text} is no run directory")
        runs[part] = run
    return runs


def _write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    from diptych import checkpoint

    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    put("--items", path, lambda: checkpoint.write_file(path, lines.encode()))


def _write_predictions(path: Path, predictions: list[Any], has_header: bool) -> None:
    """JSON, or a table of the predictions' fields."""
    from diptych import checkpoint

    if path.suffix != ".csv" or not predictions:
        checkpoint.write_json(path, predictions)
        return
    import csv
    import io

    names = dict.fromkeys(name for row in predictions for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, [*names], lineterminator="\n")
    if has_header:
        writer.writeheader()
    writer.writerows(predictions)
    checkpoint.write_file(path, table.getvalue().encode())


def _scores(result: Mapping[str, Any]) -> list[str]:
    """A result as a table: metric, value, 95 % interval. Ranks other than the first have none."""
    if not result or (result["split"] == "train" and "skipped" in result):  # the losses of a training that asked nobody
        return []
    asked = {None: "samples", "retrieval": "queries", "rec": "phrases"}.get(result["task"], "questions")
    lines = [f"{result['task'] or result['system']}, {result['split']}: {result['n']:,} {asked}"]
    if not result["n"]:
        lines[0] += " with a public answer, so there is no score; --predictions FILE has what the run answers"
    for metric, value in result["metrics"].items():
        low_high = result["ci95"].get(metric)
        lines.append(
            f"{metric:>20} {value:7.{2 if result['task'] else 4}f}"
            + ("" if low_high is None else "   ({:.2f} to {:.2f})".format(*low_high))
        )
    if broken := result.get("broken"):
        first = f"{broken[0]['path'] or broken[0]['key']}: {broken[0]['reason']}"
        lines.append(f"{len(broken)} with a picture that cannot be read, which was grey to the model; the first is {first}")
    return lines
