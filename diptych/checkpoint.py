"""Checkpoints that are whole or absent: safetensors and JSON in a directory that appears by one rename.

    checkpoints/step-00000500/model.safetensors       parameters and buffers
                              optimizer.safetensors   optimiser state, each tensor named PARAMETER/STATE
                              state.json              step, samples drawn, counters, layout of the world
                              manifest.json           size and sha256 of the files above, written last

A checkpoint is written into a hidden sibling, each file and the directory are flushed to the disk, then the sibling is renamed.
A process killed at any moment leaves the last good checkpoint as it was, at worst beside a hidden half-written one, which the
next `save` or `sweep` removes. Files are checked against the manifest when they are read, so a torn or altered checkpoint is
skipped for the one before it. Nothing is ever unpickled.

Tensors that several names share (tied weights) are stored once, under their first name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from diptych.config import UserError

KEEP = 2
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"

Tensors = Mapping[str, Tensor]


class Torn(Exception):
    """A checkpoint or weights file that cannot be what was written."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]  # file stem -> name -> tensor


# ------------------------------------------------------------------------------------------------------- files


def write_file(path: Path, content: bytes) -> None:
    """The file has the old content or the new one, whatever happens meanwhile."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}")
    try:
        _write_flushed(unfinished, content)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_file(path, to_json(value))


def to_json(value: Any) -> bytes:
    """As UTF-8. Bytes of a file's name that are none become JSON's own escapes, which read back as they were."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    if os.name == "nt":  # directories cannot be opened there; NTFS journals the rename
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------------- weights


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each tensor once, on the host."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach().cpu().contiguous()
    return weights


def load_weights(module: nn.Module, weights: Tensors, what: str) -> None:
    """Fill every parameter and buffer of `module` from `weights` (of `what`, named in the complaint)."""
    targets = module.state_dict(keep_vars=True)
    first_name: dict[int, str] = {}
    for name, tensor in targets.items():
        first_name.setdefault(id(tensor), name)
    wanted = set(first_name.values())
    missing = sorted(wanted - weights.keys())
    unknown = sorted(weights.keys() - targets.keys())
    if missing or unknown:
        place, kind = (missing[0], "has no") if missing else (unknown[0], "has an unexpected")
        raise UserError(
            f"{what} {kind} {place} ({len(missing)} missing, {len(unknown)} unexpected): other weights than this model's"
        )
    with torch.no_grad():
        for name in wanted:
            if targets[name].shape != weights[name].shape:
                shapes = f"{list(weights[name].shape)} there, {list(targets[name].shape)} in the model"
                raise UserError(f"{what}: {name} has another shape: {shapes}")
            targets[name].copy_(weights[name])


def read_weights(path: Path) -> dict[str, Tensor]:
    """Raises UserError, also where the weights of a finished run are not those that it wrote."""
    try:
        content = path.read_bytes()
        if _is_altered(path, content):
            raise UserError(
                f"{path}: not what its run wrote; the run's command writes it anew (to use it as it is, remove result.json)"
            )
        return safetensors.load(content)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def amiss(path: Path) -> str:
    """What is wrong with the weights of a finished run; "" if nothing is."""
    try:
        return f"{path}: altered since it was written" if _is_altered(path, path.read_bytes()) else ""
    except OSError as error:
        return f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}"


def _is_altered(path: Path, content: bytes) -> bool:
    """By result.json beside it, where there is one that says."""
    try:
        written = json.loads(path.with_name("result.json").read_bytes())["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return hashlib.sha256(content).hexdigest() != written


# ------------------------------------------------------------------------------------------------- checkpoints


def save(root: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keep: int = KEEP) -> Path:
    """Write checkpoint `step` under `root` and remove all but the newest `keep`. OSError leaves the old ones untouched."""
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    final = root / f"{_PREFIX}{step:08d}"
    unfinished = root / f"{_UNFINISHED}{final.name}"
    unfinished.mkdir()
    try:
        manifest = {}
        for name, content in _contents(tensors, {"step": step, **state}):
            _write_flushed(unfinished / name, content)
            manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write_flushed(unfinished / "manifest.json", to_json(manifest))
        _flush_directory(unfinished)
        if final.exists():  # the same step again: torn, or saved by an interruption just now
            final.rename(root / f"{_UNFINISHED}old-{final.name}")
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _flush_directory(root)
    sweep(root)
    for old in _directories(root)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _contents(tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """One file at a time, for each is a copy of its tensors."""
    for stem, named in tensors.items():
        yield f"{stem}.safetensors", safetensors.save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
    yield "state.json", to_json(state)


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; `Torn` says what is wrong with it."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        contents = {name: (path / name).read_bytes() for name in manifest}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != manifest[name]["sha256"]:
                raise Torn(f"{name} is not what was written ({len(content)} of {manifest[name]['bytes']} bytes)")
        state = json.loads(contents.pop("state.json"))
        tensors = {name.removesuffix(".safetensors"): safetensors.load(content) for name, content in contents.items()}
        return Checkpoint(path, int(state["step"]), state, tensors)
    except FileNotFoundError as error:
        raise Torn(f"{Path(str(error.filename)).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise Torn(f"unreadable ({error})") from error


def newest(root: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest good checkpoint under `root`; a damaged one is told of and skipped. None if there never was one."""
    damaged = []
    for path in _directories(root):
        try:
            return load(path)
        except Torn as error:
            damaged.append(path.name)
            tell(f"skipped {path}: {error}")
    if damaged:
        raise UserError(
            f"{root}: every checkpoint is damaged ({', '.join(damaged)}); remove the directory to start from the beginning"
        )
    return None


def sweep(root: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in root.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _directories(root: Path) -> list[Path]:
    """Finished checkpoints, newest first. A copy under a name of one's own is none."""
    found = (path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)
