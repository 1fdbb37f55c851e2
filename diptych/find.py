"""Names to things: `vilt:small` -> a system and a recipe, `vqa` -> a task, `folder:my/pictures@2` -> a reader.

A module that exists can be run: its file name is its name, and nothing is registered anywhere. Built-in systems, tasks and readers
are the modules of `diptych.systems`, `diptych.tasks` and `diptych.data`; a dotted name (`my_lab.my_system:tiny`) is a module of the
user's, found from the current directory. The catalogue reads sources without running them, so listing needs no torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from diptych import config
from diptych.config import Recipe, UserError, nearest

if TYPE_CHECKING:
    from diptych.contracts import System, Task
    from diptych.data.mixture import Source

HERE = Path(__file__).parent
ROOMS = ("systems", "objectives", "tasks", "data")
EMBEDDED = ("scenes", "names", "detection")
OFFERS = ("fuse", "read", "match", "towers", "decode", "detect")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


# ------------------------------------------------------------------------------------------------------- the catalogue


@dataclass(frozen=True)
class Entry:
    """One module as its source describes it."""

    name: str
    about: str  # first line of the docstring
    presets: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()  # what a system does beyond pre-training, of `OFFERS`
    objectives: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()  # what a reader's samples are for
    needs: str = ""  # files a reader looks for

    def facts(self) -> dict[str, tuple[str, ...]]:
        """What there is to tell beside name and first line."""
        told = {"presets": self.presets, "offers": self.offers, "objectives": self.objectives, "for": self.purposes}
        return {key: values for key, values in told.items() if values}


def catalogue(room: str) -> dict[str, Entry]:
    """The modules of a package that hold the thing the package is for."""
    paths = sorted((HERE / room).glob("[!_]*.py"))
    return dict(_read(room, tuple((path, path.stat().st_mtime_ns) for path in paths)))


@cache
def _read(room: str, files: tuple[tuple[Path, int], ...]) -> dict[str, Entry]:
    """Files and when they were changed: they are read once, and again when one has changed."""
    entries = {}
    for path, _ in files:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:  # a file being written must not hide the others
            entries[path.stem] = Entry(path.stem, f"not Python yet: line {error.lineno}: {error.msg}")
            continue
        main = next((node for node in tree.body if isinstance(node, ast.ClassDef) and _IS_MAIN[room](node)), None)
        if main is None:
            continue
        methods = {node.name for node in main.body if isinstance(node, ast.FunctionDef)}
        for node in tree.body:  # MURAL is an ALIGN
            if isinstance(node, ast.ImportFrom) and _bases(main) & {alias.name for alias in node.names}:
                methods |= set(getattr(entries.get((node.module or "").rpartition(".")[2]), "offers", ()))
        imported = [
            n
            for n in ast.walk(tree)
            if room != "objectives" and isinstance(n, ast.ImportFrom) and (n.module or "").startswith("diptych.objectives.")
        ]
        constants = {
            target.id: node.value
            for node in main.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        entries[path.stem] = Entry(
            path.stem,
            (ast.get_docstring(tree) or "").partition("\n")[0],
            tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _is_preset(node)),
            tuple(offer for offer in OFFERS if offer in methods),
            tuple(node.module.rpartition(".")[2] for node in imported if node.module),
            tuple(sorted(_strings(constants.get("purposes")))),
            "".join(_strings(constants.get("looks_for"))),
        )
    return entries


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).rpartition(".")[2] for base in node.bases}


_IS_MAIN: Mapping[str, Callable[[ast.ClassDef], bool]] = {
    "systems": lambda node: "System" in _bases(node),
    "tasks": lambda node: "Task" in _bases(node),
    "objectives": lambda node: any(isinstance(n, ast.ClassDef) and n.name == "Config" for n in node.body),
    "data": lambda node: any(
        isinstance(n, ast.Assign) and any(ast.unparse(target) == "purposes" for target in n.targets) for n in node.body
    ),
}


def _is_preset(node: ast.FunctionDef) -> bool:
    return (
        not node.args.args and not node.name.startswith("_") and node.returns is not None and ast.unparse(node.returns) == "Recipe"
    )


def _strings(node: ast.AST | None) -> list[str]:
    """Texts written inside an expression, wherever they stand."""
    return [] if node is None else [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


# --------------------------------------------------------------------------------------------------- systems and tasks


class Found(NamedTuple):
    """A system by name, with the recipe its preset gives."""

    name: str
    preset: str
    cls: type[System]
    recipe: Recipe


def system(spec: str) -> Found:
    """`vilt`, `vilt:small` or `my_lab.my_system:tiny`; without a preset, `small` (or the only one)."""
    name, colon, preset = spec.partition(":")
    module = _module("systems", name)
    presets = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and value.__annotations__.get("return") in ("Recipe", Recipe)
    }
    if colon and not preset:
        raise UserError(f"{spec} names no preset; {name} has {', '.join(presets)}")
    chosen = preset or ("small" if "small" in presets else next(iter(presets), ""))
    if chosen not in presets:
        raise UserError(f"{name} has no preset '{preset}'{nearest(preset, presets)}")
    return Found(name, chosen, system_class(name), presets[chosen]())


def suits(task: str, name: str) -> None:
    """Refuse a task on a system that lacks what the task reads."""
    from diptych.contracts import System

    wanted, kind = task_class(task).reads, system_class(name)
    if all(getattr(kind, offer, None) is getattr(System, offer, None) for offer in wanted):  # decode and detect few systems have
        can = {"fuse": "bring words and pictures together", "see": "look at pictures", "towers": "compare pictures with texts"}
        can |= {"decode": "write", "detect": "find things in pictures", "read": "read texts alone"}
        does = " or ".join(can[offer] for offer in wanted)
        able = [entry.name for entry in catalogue("systems").values() if set(wanted) & set(entry.offers)]
        raise UserError(f"{task} needs a system that can {does}; {name} does not, these do: {', '.join(able)}")


def system_class(name: str) -> type[System]:
    from diptych.contracts import System

    return _only_class(_module("systems", name), System)


def task(name: str) -> ModuleType:
    """The module of a task: its class is `task_class(name)`, its fine-tuning defaults are `finetuning(recipe)`, if it is tuned."""
    return _module("tasks", name)


def task_class(name: str) -> type[Task]:
    from diptych.contracts import Task

    return _only_class(task(name), Task)


def finetuning(name: str, system_name: str, before: Recipe) -> Recipe:
    """What a task is fine-tuned by where nothing else is said: the system as before, with what the task needs of it."""
    suits(name, system_name)
    if not hasattr(task(name), "finetuning"):
        raise UserError(f"{name} asks what pre-training has taught, so nothing is tuned for it: diptych evaluate {name} --from RUN")
    fitted = system_class(system_name).for_task(before.system, task_class(name).reads)
    data = before.data.model_copy(update={"pairs": None, "noise": 0.0, "noun_phrases": None})  # questions come as they are
    return task(name).finetuning(unlimited(before.model_copy(update={"system": fitted, "data": data})))


def unlimited(before: Recipe) -> Recipe:
    """A run's recipe for other data or another split: how many samples it was trained on says nothing of them."""
    return before.model_copy(update={"data": before.data.model_copy(update={"limit": None})})


def going_on(source: str, named: str) -> tuple[Path, Found]:
    """The run that is pre-trained further as `named`, SYSTEM or SYSTEM:PRESET; and the system, with that run's recipe."""
    start, found = run(source), system(named)
    if start is None:
        raise UserError(f"--from {source}: no run directory; a preset starts by itself, without --from")
    saved = read_config(start)
    if saved["task"]:
        raise UserError(f"--from {source}: fine-tuned for {saved['task']}; only a pre-trained run is pre-trained further")
    for what, there, here in (("system", saved["system"], found.name), ("preset", saved.get("preset"), found.preset)):
        if there != here and (what == "system" or ":" in named):
            raise UserError(f"--from {source}: its {what} is {there}, not {here}")
    return start, found._replace(preset=saved.get("preset") or found.preset, recipe=unlimited(recipe(saved["recipe"], found.name)))


def recipe(saved: Mapping[str, Any], system_name: str, task_name: str | None = None) -> Recipe:
    """The recipe that a `config.json` holds as plain values."""
    task_config = task_class(task_name).Config if task_name else None
    return config.checked(saved, system_class(system_name).Config, task_config)


def weights(kind: str) -> ModuleType:
    """The module that converts one family of published weights."""
    kinds = [path.stem for path in (HERE / "weights").glob("[!_]*.py") if "\ndef convert(" in path.read_text(encoding="utf-8")]
    if kind not in kinds:
        raise UserError(f"unknown kind of weights '{kind}'{nearest(kind, kinds)}")
    return importlib.import_module(f"diptych.weights.{kind}")


def _module(room: Literal["systems", "tasks"], name: str) -> ModuleType:
    kind = room.removesuffix("s")
    known = catalogue(room)
    if name in known:
        return importlib.import_module(f"diptych.{room}.{name}")
    is_name = all(part.isidentifier() for part in name.split("."))
    if is_name and ("." in name or Path(f"{name}.py").is_file()):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # an installed command, unlike `python -m`, does not look here
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{kind} {name}: cannot be imported from {Path.cwd()}: {error}") from error
    raise UserError(f"unknown {kind} '{name}'{nearest(name, known)} (one of your own is named like my_lab.my_{kind})")


def _only_class(module: ModuleType, base: type) -> Any:
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__ and hasattr(value, "Config")
    ]
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise UserError(f"{module.__name__}: exactly one {base.__name__} with a Config is expected in it, found {names}")
    return classes[0]


# ---------------------------------------------------------------------------------------------------------------- runs

EXCHANGED = ("config.json", "model.safetensors", "tokenizer.json", "README.md")  # what makes a run that can be handed on
SHIPPED = "shipped:detector"  # the one run that comes with the package: regions for whoever has no region store


def run(source: str | Path) -> Path | None:
    """The directory of a run, fetched where it is a Hub repository; None for what can only be a system's name."""
    if str(source) == SHIPPED:
        return HERE / "regions" / "shipped"
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    name = str(source)
    if path.exists():
        raise UserError(
            f"{source}: a file; a run is a directory" + (f": {path.parent}" if path.name == "model.safetensors" else "")
        )
    if path.is_absolute() or name.startswith(("./", "../", "~", "runs/")) or name.count("/") > 1:
        raise UserError(f"{source}: no such run directory{_near_path(path)}")
    if "/" not in name:
        return None
    if path.parent.is_dir():
        raise UserError(f"{source}: no such run directory{_near_path(path)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(EXCHANGED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{source}: no such directory, and the Hub does not give it: {str(error).splitlines()[0]}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a finished run."""
    file = folder / "config.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json in it, so it is no run directory") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON: {error}") from None
    is_ours = isinstance(about, dict) and isinstance(about.get("recipe"), dict) and isinstance(about.get("system"), str)
    if not is_ours or not isinstance(about.get("task"), str | None):
        raise UserError(f"{file}: not written by Diptych, there is no recipe in it; `diptych convert` reads published weights")
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: the run is not finished (no model.safetensors); the command that started it goes on with it")
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder}: no tokenizer.json in it, the words that its weights know; a whole run has {', '.join(EXCHANGED)}"
        )
    return about


# ------------------------------------------------------------------------------------------------------------- readers


class Spec(NamedTuple):
    """`[kind:]path[@weight]` in parts; `@2x` is twice as often as by its size, `@2` a share beside others' weights."""

    text: str
    kind: str | None
    path: Path
    weight: float | None
    copies: float = 1


def parse_spec(text: str) -> Spec:
    rest, at, tail = text.rpartition("@")
    weight, copies = None, 1.0
    if at:
        try:
            weight = float(tail.removesuffix("x"))
        except ValueError:
            rest = text  # an @ in a file name
    else:
        rest = text
    if weight is not None and not 0 < weight < float("inf"):
        raise UserError(f"--data {text}: the weight after @ must be a positive number, not {tail}")
    if weight is not None and tail.endswith("x"):
        weight, copies = None, weight
    kind, colon, path = rest.partition(":")
    kinds = catalogue("data")
    if not colon or len(kind) == 1 or Path(rest).exists():  # one letter is a Windows drive
        return Spec(text, None, Path(rest), weight, copies)
    if kind not in kinds:
        raise UserError(f"--data {text}: no reader '{kind}'{nearest(kind, kinds)}")
    return Spec(text, kind, Path(path), weight, copies)


def readers(specs: Sequence[str], split: str, purpose: str | tuple[str, ...], limit: int | None = None) -> list[Source]:
    """Open data sets for a purpose ("pretrain", or a task's) or any of several; all that serves it, unless a kind is named.

    `scenes`, `names` and the sets of `detection` are the embedded data, made on the way where they are not there yet.
    """
    from diptych.data.mixture import Source

    sources = []
    for text in specs:
        spec = parse_spec(text)
        root = _root(spec)
        found = {name: cls.open(root, split, limit) for name, cls in _reader_classes(spec, root, purpose).items()}
        total = sum(len(reader) for reader in found.values())
        for name, reader in found.items():
            called = text if len(found) == 1 else f"{name}:{text}"
            sources.append(Source(called, reader, spec.weight and spec.weight * len(reader) / total, spec.copies))
    return sources


def recognised(text: str) -> tuple[Path, dict[str, Any]]:
    """Where `[kind:]path` lies, and all readers that fit it, whatever for."""
    try:
        spec = parse_spec(text)
        root = _root(spec)
        return root, _reader_classes(spec, root, None)
    except UserError as error:
        raise UserError(str(error).removeprefix("--data ")) from None  # here it is an argument


def embedded(name: str) -> Path:
    """Where an embedded data set lies: under $DIPTYCH_DATA, or data/ in the current directory."""
    return Path(os.environ.get("DIPTYCH_DATA") or "data") / name


def make_embedded(name: str, small: bool = False) -> dict[str, Any]:
    """Compose an embedded data set where it is not there already; its dataset.json."""
    root = embedded(name)
    if name == "names":
        from diptych.atelier import names

        return names.make(root, small=small)
    if name == "detection":
        from diptych.atelier import detection

        return detection.make(root, small=small)
    from diptych.atelier import make

    if (root / "dataset.json").is_file():
        there, wanted = json.loads((root / "dataset.json").read_text(encoding="utf-8")), make.SMALL if small else make.DEFAULT
        if there.get("scenes") != wanted:
            print(f"{root}: {there.get('scenes', 0):,} scenes there make room for {wanted:,}", file=sys.stderr, flush=True)

    def progress(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{root}: {done:,} of {of:,} pictures", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return make.make(root, small=small, jobs=os.cpu_count() or 1, progress=progress)


def _root(spec: Spec) -> Path:
    name, *within = spec.path.parts or ("",)
    if name not in EMBEDDED or (within and name != "detection") or spec.path.exists():
        return spec.path
    root = embedded(name)
    if not (root / "dataset.json").is_file():
        from diptych import dist

        if dist.is_first():
            what = "detection sets" if name == "detection" else name
            print(f"{root}: not there yet, so the embedded {what} are composed now, once", file=sys.stderr, flush=True)
        dist.on_first(lambda: make_embedded(name))
    return root.joinpath(*within)


def _reader_classes(spec: Spec, root: Path, purpose: str | tuple[str, ...] | None) -> dict[str, Any]:
    """The readers that fit a path and a purpose (or any); a refusal says what was found there and what was looked for."""
    known, purposes = catalogue("data"), (purpose,) if isinstance(purpose, str) else purpose or ()
    fit = {name: entry for name, entry in known.items() if not purposes or set(purposes) & set(entry.purposes)}
    asked = " or ".join(purposes)
    if spec.kind:
        if spec.kind not in fit:
            serves = ", ".join(known[spec.kind].purposes)
            raise UserError(f"--data {spec.text}: {spec.kind} is for {serves}; for {asked}: {', '.join(fit) or 'none'}")
        fit = {spec.kind: fit[spec.kind]}
    if not root.exists():
        raise UserError(f"--data {spec.text}: no such file or folder{_near_path(root)}")
    found = _contents(root)
    if purposes or spec.kind:
        looked_for = "looked for " + "; or ".join(f"{entry.needs or entry.about} ({name})" for name, entry in fit.items())
    else:
        looked_for = "looked for captions.jsonl, a .jsonl file of questions, or a public layout (`diptych list data`)"
    if not found:
        raise UserError(f"--data {spec.text}: the {'folder' if root.is_dir() else 'file'} is empty; {looked_for}")
    able = {name: cls for name in fit if (cls := _reader_class(name)).recognises(root)}
    if able:
        return able
    others = [name for name in known if name not in fit and _reader_class(name).recognises(root)]
    instead = "".join(f"; {name} can read it, for {', '.join(known[name].purposes)}" for name in others)
    near = "".join(
        f"; {said}" for name in fit if (cls := _reader_class(name)) and hasattr(cls, "lacks") and (said := cls.lacks(root))
    )
    # what samples are for is named after the first task that asked for such; a user may have come by another
    tasks = [name for name in catalogue("tasks") if task_class(name).purpose in purposes]
    what = f"for {' or '.join(tasks) or asked}" if purposes else "known"
    raise UserError(f"--data {spec.text}: nothing {what} in it (found {found}); {looked_for}{near}{instead}")


def _reader_class(name: str) -> Any:
    module = importlib.import_module(f"diptych.data.{name}")
    return next(
        c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__ and hasattr(c, "recognises")
    )


def _contents(root: Path) -> str:
    """What lies at a path, in a few words: "212 pictures, 1 .xlsx"."""
    if root.is_file():
        return f"a {root.suffix or 'nameless'} file" if root.stat().st_size else ""
    kinds = Counter(
        "folders"
        if entry.is_dir()
        else "pictures"
        if entry.suffix.lower() in PICTURES
        else entry.suffix or "files without a suffix"
        for entry in _some(root)
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))


def _some(root: Path, most: int = 10_000) -> Iterator[Path]:
    for count, entry in enumerate(root.iterdir()):
        if count == most:
            return
        if not entry.name.startswith("."):
            yield entry


def _near_path(path: Path) -> str:
    """The neighbour that was probably meant, or how far the path does exist."""
    parent = next((parent for parent in path.parents if parent.is_dir()), Path())
    lost = path.parts[len(parent.parts)]
    close = get_close_matches(lost, [*(entry.name for entry in _some(parent)), *EMBEDDED], n=1)
    if close:
        return f"; did you mean '{parent / close[0] if close[0] not in EMBEDDED else close[0]}'?"
    return "" if parent == Path() else f"; {parent} is there, but no {lost} in it"
