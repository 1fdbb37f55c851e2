"""What is around every verb: the options that verbs share, the processes they run in, what they print and where.

A verb does its work inside `work(as_json)`: what is printed meanwhile goes to standard error, and what it says at the end is one
JSON object or the lines for a person.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from diptych.config import Recipe


class Resume(StrEnum):
    auto = "auto"
    never = "never"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Data = Annotated[
    list[str] | None, typer.Option("--data", metavar="[KIND:]PATH[@WEIGHT]", help="A data set, may be repeated; default: scenes.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one key of the recipe; may be repeated.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Changes as YAML, or a run's config.json.")]
Further = Annotated[str | None, typer.Option("--from", metavar="RUN", help="Train a finished run further, by its own recipe.")]
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

words: list[str] = []  # of the command that is being carried out


class Say(Protocol):
    def __call__(self, result: Mapping[str, Any], *lines: str) -> None: ...


@contextmanager
def work(as_json: bool) -> Iterator[Say]:
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
    if speaks():
        print("\n".join(said))


@contextmanager
def several(ranks: int, recipe: Recipe) -> Iterator[None]:
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
    with launch.ranks(ranks, words):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def resolved(recipe: Recipe, file: Path | None, settings: list[str] | None) -> Recipe:
    from diptych import config

    layers = [config.from_file(file)] if file else []
    return config.resolve(recipe, *layers, *(config.from_setting(setting) for setting in settings or []))


def trained_on(recipe: Recipe, file: Path | None, settings: list[str] | None, run: Path | None) -> Recipe:
    """What a run (or, without one, a preset) is trained by from here on: its words are the ones that it has learnt."""
    from diptych import config

    asked = resolved(recipe, file, settings)
    if run is not None and asked.text.vocab != recipe.text.vocab:
        raise config.UserError(f"text.vocab={asked.text.vocab}: {run} has learnt other words, and goes on with those")
    return asked


def judging(recipe: Recipe, settings: list[str] | None, fixed: Collection[str]) -> Recipe:
    """A run's recipe with settings of how it is judged: what its weights were made for stays, `fixed` among the task's keys."""
    from diptych import config

    asked = resolved(recipe, None, settings)
    there, here = (config.flat(one.model_dump(mode="json")) for one in (recipe, asked))
    for path in sorted(path for path in there.keys() | here.keys() if there.get(path) != here.get(path)):
        if path[0] == "system" or path[:2] == ("text", "vocab") or (path[0] == "task" and path[1] in fixed):
            raise config.UserError(
                f"--set {'.'.join(path)}: the run was trained with what it has there; that can't be set any more"
            )
    return asked


def show(recipe: Recipe, notes: Sequence[str] = ()) -> None:
    """The recipe as YAML, and what there is to say of it."""
    from diptych import config

    if speaks():
        print(config.to_yaml(recipe), *notes, sep="\n", file=sys.stderr, flush=True)


def place_for(option: str, path: Path | None) -> None:
    """Refuses, before there is something to write, a place that can hold no file."""
    from diptych.config import UserError

    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; name a file")
    nearest = next((folder for folder in path.parents if folder.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise UserError(f"{option} {path}: {nearest} is a file")


def put(option: str, path: Path, write: Callable[[], object]) -> None:
    """Write what an option names, making its folder; a place that cannot be written is the user's matter."""
    from diptych.config import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror})") from None


def finished(out: Path) -> list[str]:
    """Write the run's report and say where things are."""
    from diptych.report.run import run_page

    if speaks():
        (out / "report.html").write_text(run_page(out), encoding="utf-8")
    return [f"run: {out}", f"report: {out / 'report.html'}"]
