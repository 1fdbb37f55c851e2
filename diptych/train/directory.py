"""A run's directory: one run at a time, one configuration for ever.

    config.json          what was asked for: verb, recipe, sources with their fingerprints
    tokenizer.json       the vocabulary that the weights belong to
    metrics.jsonl        tensorboard/    checkpoints/    quarantine.jsonl    skipped.jsonl
    model.safetensors    README.md (model card)    result.json (written last: the mark of a finished run)

A lock keeps a second process out. It is the operating system's, on a record of `.lock`: it ends with the process, however that
dies, so there is no stale lock to remove, and unlike `flock` it is not inherited by loader processes that outlive a killed trainer.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from diptych import checkpoint
from diptych.config import UserError, differences
from diptych.contracts import Tokenizer
from diptych.train.log import cut_after

# may change between sittings without changing what is learned, except for the last bits of sums
FREE = ("data.workers", "data.max_broken", "train.accumulate", "train.precision", "train.checkpoint_every", "train.log_every")
FREE += ("train.max_skipped", "train.recompute", "train.validate_every", "train.validate_on", "train.score_on")
FIXED_BESIDE_RECIPE = ("verb", "system", "task", "init", "from")

LOGS = ("metrics.jsonl", "quarantine.jsonl", "skipped.jsonl")

_open_here: set[Path] = set()  # POSIX record locks do not keep a process from itself


class Taken(UserError):
    """A directory that another process holds."""


@contextmanager
def locked(out: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Make the directory and hold it. A second run in it is refused. One that was made here for nothing goes again."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with complaints(f"{out}: cannot be used as a run directory"):
        out.mkdir(parents=True, exist_ok=True)
    _check_free(out)
    with held(out, tell):
        try:
            yield
        except BaseException:
            if made and not _has_begun(out):
                shutil.rmtree(out, ignore_errors=True)
                with suppress(OSError):  # of its parents those that hold nothing else
                    for folder in made[1:]:
                        folder.rmdir()
            raise


@contextmanager
def held(folder: Path, tell: Callable[[str], None], doing: str = "is training here") -> Iterator[None]:
    """Keep all others out of a directory that is there; `Taken` if one of them has it."""
    with complaints(f"{folder}: cannot be written"):
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    place = folder.resolve()
    try:
        if place in _open_here or not _lock(descriptor, tell):
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
            raise Taken(f"{folder}: another process {doing}{f' ({holder})' if holder else ''}; use another --out")
        _open_here.add(place)
        try:
            with complaints(f"{folder}: cannot be written"):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()}\n".encode())
            yield
        finally:
            _open_here.discard(place)
    finally:
        os.close(descriptor)


def _has_begun(out: Path) -> bool:
    """Whether there is anything to go on from, or to look at: a step, or a list of what is broken."""
    return any((out / name).exists() for name in LOGS) or any((out / "checkpoints").glob("*"))


def _lock(descriptor: int, tell: Callable[[str], None]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        tell(f"this file system has no locks ({error.strerror}): see to it yourself that no second run uses the directory")
    return True


def claim(
    out: Path, asked: Mapping[str, Any], resume: Literal["auto", "never"], tell: Callable[[str], None]
) -> tuple[dict[str, Any] | None, checkpoint.Checkpoint | None]:
    """What `out` holds of the run `asked` for: (its result if it is finished, the checkpoint to go on from)."""
    config, result, checkpoints = out / "config.json", out / "result.json", out / "checkpoints"
    if resume == "never" and (result.exists() or checkpoints.exists()):
        raise UserError(f"{out}: holds a run already; --resume auto goes on with it, or use another --out")
    if result.exists():
        check_same(out, _read(config), asked)
        lost = checkpoint.amiss(out / "model.safetensors")
        if not lost:
            return _read(result), None
        tell(f"{lost}: written again from the newest checkpoint")
    saved = checkpoint.newest(checkpoints, tell)
    if saved is not None:  # otherwise nothing was learned here that could be lost
        check_same(out, _read(config), asked)
    elif result.exists():
        raise UserError(f"{out}: the run is finished, but its weights are lost and it has no checkpoint; use another --out")
    return None, saved


def _check_free(out: Path) -> None:
    """Nothing that is not a run's may be written over, or get a lock: notes of a project, pictures, a model that was saved here."""
    for name in ("checkpoints", "tensorboard"):
        if os.path.lexists(out / name) and not (out / name).is_dir():
            raise UserError(f"{out / name}: a directory is needed here, and there is a file")
    if (out / "result.json").exists() or (out / "checkpoints").exists():
        return
    there = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if "model.safetensors" in there:
        raise UserError(f"{out}: holds a model already (model.safetensors); use another --out")
    if there and not _is_config(out / "config.json"):
        raise UserError(
            f"{out}: is no run's directory: {there[0]}{' and others are' if there[1:] else ' is'} there; use another --out"
        )


def _is_config(path: Path) -> bool:
    """Whether a run has begun with it."""
    try:
        return {"recipe", "sources"} <= json.loads(path.read_bytes()).keys()
    except (OSError, ValueError, RecursionError, AttributeError):
        return False


def begin(out: Path, asked: Mapping[str, Any], tokenizer: Tokenizer, step: int) -> None:
    """Make `out` the directory of the run `asked` for, as it was after `step`. Until here nothing is written."""
    with complaints(f"{out}: cannot be written"):
        for log in LOGS:
            cut_after(out / log, step)
        describe(out, asked, tokenizer)


def describe(out: Path, asked: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    checkpoint.write_json(out / "config.json", asked)  # first: by it a directory is known to be a run's
    tokenizer.save(out / "tokenizer.json")


def check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was asked for differently."""
    try:
        sources = [[{k: s[k] for k in ("samples", "weight", "sha256")} for s in of["sources"]] for of in (before, now)]
        names = [", ".join(source["name"] for source in of["sources"]) for of in (before, now)]
        found = [line for line in differences(before["recipe"], now["recipe"]) if line.partition(":")[0] not in FREE]
    except (KeyError, TypeError):
        raise UserError(f"{out / 'config.json'}: not as Diptych wrote it; use another --out") from None
    fixed = [{name: of.get(name) for name in FIXED_BESIDE_RECIPE} for of in (before, now)]
    found += differences(*fixed)
    if sources[0] != sources[1]:
        found.append(f"data: {names[0]} there, {names[1]} here" + (" (same name, other content)" if names[0] == names[1] else ""))
    if found:
        raise UserError(f"{out}: holds a run of another configuration ({'; '.join(found[:5])}); use another --out")


@contextmanager
def complaints(about: str) -> Iterator[None]:
    """What the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{about}: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({error})") from error
