"""A published model on the disk, read without running anything in it, and the run directory that is made of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import diptych
from diptych.checkpoint import read_weights, write_file, write_json
from diptych.config import UserError
from diptych.text import tokenizer
from diptych.weights.rename import State


def fresh(dest: Path) -> None:
    """Nothing is written over a model."""
    if (dest / "config.json").exists() or (dest / "model.safetensors").exists():
        raise UserError(f"{dest} already holds a model; give another directory")


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None


def read_state(folder: Path) -> State:
    """The tensors of a folder in Hugging Face's layout."""
    if (folder / "model.safetensors").is_file():
        return read_weights(folder / "model.safetensors")
    return torch_load(folder / "pytorch_model.bin")


def read_any(source: Path) -> tuple[State, dict[str, Any]]:
    """(tensors, content of config.json or {}) of a folder in Hugging Face's layout or of a file alone, whatever wrote it."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if source.is_dir():
        config = read_json(source / "config.json") if (source / "config.json").is_file() else {}
        return read_state(source), config
    held: Any = read_weights(source) if source.suffix == ".safetensors" else torch_load(source)
    held = (
        next((held[key] for key in ("state_dict", "model") if isinstance(held.get(key), dict)), held)
        if isinstance(held, dict)
        else {}
    )
    return {name.removeprefix("module."): t for name, t in held.items() if isinstance(t, Tensor)}, {}


def torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path.parent} has neither model.safetensors nor pytorch_model.bin") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        # the unpickler takes any byte for an instruction, so a file that is none raises whatever comes first
        why = str(error).partition("\n")[0] or type(error).__name__
        if "weights_only" in str(error):  # torch then explains how to run what is in the file
            why = "it is no file of weights, or holds more than tensors; code in a file is never run"
        raise UserError(f"{path}: cannot be read as plain tensors ({why})") from None


def write_run(source: Path, dest: Path, title: str, weights: State, recipe: dict[str, Any]) -> None:
    """A run directory with `recipe`, which lacks nothing but `text.vocab`: the vocabulary beside the weights is copied."""
    folder = source if source.is_dir() else source.parent
    vocabulary = next((folder / name for name in ("tokenizer.json", "vocab.txt") if (folder / name).is_file()), None)
    if vocabulary is None:
        raise UserError(f"{folder} has no vocab.txt (or tokenizer.json): put bert-base-uncased's beside the weights")
    words, rows = tokenizer.load(str(vocabulary)), len(next(t for n, t in weights.items() if n.endswith("text.word.weight")))
    if words.vocab_size != rows:
        raise UserError(f"{vocabulary} has {words.vocab_size} tokens, the weights {rows}: not their vocabulary")
    dest.mkdir(parents=True, exist_ok=True)
    words.save(dest / "tokenizer.json")
    kind, task = recipe["system"]["kind"], recipe.get("task")
    about = {
        "diptych": diptych.__version__,
        "verb": "convert",
        "system": kind,
        "preset": None,
        "task": task and task["kind"],
        "data": [],
        "init": {},
        "from": str(source),
        "recipe": {**recipe, "text": {"vocab": str((dest / "tokenizer.json").resolve()), **recipe["text"]}},
    }
    write_json(dest / "config.json", about)
    write_file(dest / "model.safetensors", save(dict(weights)))
    write_file(dest / "README.md", f"# {title}\n\nConverted by `diptych convert {kind}` from `{source.name}`.\n".encode())
