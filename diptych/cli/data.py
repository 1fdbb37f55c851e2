"""`diptych data`: make, check and look at data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.work import AsJson, Settings, put, resolved, work

if TYPE_CHECKING:
    from diptych.contracts import Reader, Tokenizer
    from diptych.data.clean import Align

app = typer.Typer(help="Make, check and look at data.", no_args_is_help=True)

NEXT = {  # what data of a purpose are first tried with
    "pretrain": "pretrain vilt:tiny",
    "vqa": "finetune vqa --from vilt:tiny",
    "ve": "finetune ve --from vilt:tiny",
    "nlvr2": "finetune nlvr2 --from vilt:tiny",
    "vcr": "finetune vcr --from vilt:tiny",
    "rec": "finetune rec --from vilt:tiny",
    "retrieval": "finetune retrieval --from vilt:tiny",
    "documents": "pretrain bert:tiny",
    "probe": "finetune probe --from simclr:tiny",
    "translations": "pretrain mural:tiny",
    "boxes": "regions train",
}


@app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(metavar="[scenes|names|detection|all]")] = "all",
    small: Annotated[bool, typer.Option("--small", help="A few thousand pictures, in seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compose the embedded data, in $DIPTYCH_DATA or ./data."""
    from diptych import find
    from diptych.config import UserError, flat, nearest

    if name not in (*find.EMBEDDED, "all"):
        raise UserError(f"diptych data make {name}: no such embedded data{nearest(name, [*find.EMBEDDED, 'all'])}")
    with work(as_json) as say:
        made = {one: find.make_embedded(one, small=small) for one in find.EMBEDDED if name in (one, "all")}
        pictures = {one: sum(n for key, n in flat(about["counts"]).items() if "pictures" in key[-1]) for one, about in made.items()}
        say(made, *(f"{find.embedded(one)}: {n:,} pictures" for one, n in pictures.items()))


@app.command("check")
def data_check(
    places: Annotated[
        list[str], typer.Argument(metavar="[KIND:]PATH...", help="Data sets as for --data; or scenes, names, detection/twemoji.")
    ],
    split: Annotated[str, typer.Option("--split", metavar="SPLIT", help="Only this one.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Decode every picture, not a drawn sample.")] = False,
    clean: Annotated[
        str, typer.Option("--clean", metavar="RULES", help="What filters would leave (align); --set clean.short=100 sets one.")
    ] = "",
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="DATA", help="With --clean: near duplicates of its val and test pictures, too; repeatable."
        ),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Look a data set over before training: what it holds, what is amiss, how the vocabulary takes it."""
    from diptych import find
    from diptych.config import UserError

    with work(as_json) as say:
        from diptych.data import check
        from diptych.data import clean as cleaner
        from diptych.text import tokenizer

        rules = [setting for setting in settings or [] if setting.startswith("clean.")]
        settings = [setting for setting in settings or [] if setting not in rules]
        cleaning = _rules(clean, rules)
        if against and not cleaning:
            raise UserError(f"--against {against[0]}: with --clean {' or '.join(cleaner.RULES)}")
        recipe = resolved(find.system("vilt:tiny").recipe, None, settings)
        words = tokenizer.load(recipe.text.vocab)
        refusal = partial(_refusal, words)
        reports = [check.check(place, *find.recognised(place), words, recipe, split, everything, refusal) for place in places]
        told, said = [], []
        for report in reports:
            command = _command(report.name, report.trainable, settings)
            told.append({**report.as_json(), "next": command if report.trainable or not report.usable else None})
            said += check.lines(report)
            if cleaning:
                counts = _cleaned(report.name, split, cleaning, against or [])
                told[-1]["cleaned"] = {"rules": clean, "thresholds": cleaning.model_dump(), **counts}
                said += cleaner.said(counts, clean)
            said += [f"{report.name}: {report.verdict}"] if report.usable else []
            said += [f"next: {command}"] if report.trainable else []
        say({"usable": all(report.usable for report in reports), "data": told}, *said)
    if unusable := [f"{report.name}: {report.verdict}" for report in reports if not report.usable]:
        raise UserError("; ".join(unusable))


@app.command("show")
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

    with work(as_json) as say:
        from diptych.report.samples import samples_page

        root, classes = find.recognised(place)
        shown, readers = _opened(classes, root, [split] if split else ["train", "all", "val", "test"])
        sheet = samples_page(place, shown, readers, n, seed)
        put("--out", out, lambda: out.write_text(sheet, encoding="utf-8"))
        say({"data": place, "split": shown, "readers": [*readers], "page": str(out)}, f"page: {out}")


def _refusal(words: Tokenizer, purpose: str, readers: Sequence[Reader]) -> str:
    """What training says to data that it does not begin with; nothing where it begins."""
    from diptych import find
    from diptych.config import UserError
    from diptych.data.mixture import Source
    from diptych.data.words import refuse_unread

    try:
        refuse_unread([Source(purpose, reader) for reader in readers], words)
        if purpose in find.catalogue("tasks"):
            task = find.task_class(purpose)
            task.prepare(task.Config(), readers, words)
    except UserError as error:
        return str(error)
    return ""


def _command(place: str, trainable: list[str], settings: list[str] | None) -> str:
    """What to type after a check."""
    import shlex

    verb = next((verb for purpose, verb in NEXT.items() if purpose in trainable), "data check")
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


def _cleaned(place: str, split: str, rules: Align, against: list[str]) -> dict[str, int]:
    """Counts over the pairs of a data set: of the split that is trained on, if no other is named."""
    from diptych import find
    from diptych.config import UserError
    from diptych.data import check, clean

    evaluated = []
    for other in against:
        root, classes = find.recognised(other)
        held = [
            reader
            for cls in classes.values()
            for of, reader in check.opened_splits(cls, root)[0].items()
            if of not in ("train", "all")
        ]
        if not held:
            raise UserError(f"--against {other}: it has no split beside train")
        evaluated += held
    return clean.count([source.reader for source in find.readers([place], split or "train", "pretrain")], rules, evaluated)


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
