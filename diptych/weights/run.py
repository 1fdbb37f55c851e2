"""Converted weights as a run directory that every verb takes, and plain tensors out of a file of torch's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import diptych
from diptych.checkpoint import write_file, write_json
from diptych.config import UserError
from diptych.text import tokenizer
from diptych.weights.rename import State


def torch_load(path: Path) -> Any:
    """What torch.save wrote, if it is plain tensors."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        # the unpickler takes any byte for an instruction, so a file that is none raises whatever comes first
        raise UserError(
            f"{path}: cannot be read as plain tensors ({str(error).partition(chr(10))[0] or type(error).__name__})"
        ) from None


def write_run(source: Path, dest: Path, title: str, recipe: dict[str, Any], weights: State) -> None:
    """`recipe` without its vocabulary, which is to lie beside the weights."""
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
    text = {"vocab": str((dest / "tokenizer.json").resolve()), **recipe.get("text", {})}
    about = {
        "diptych": diptych.__version__,
        "verb": "convert",
        "system": kind,
        "preset": None,
        "task": task and task["kind"],
        "data": [],
        "init": {},
        "from": str(source),
        "recipe": {**recipe, "text": text},
    }
    write_json(dest / "config.json", about)
    write_file(dest / "model.safetensors", save(dict(weights)))
    write_file(dest / "README.md", f"# {title}\n\nConverted by `diptych convert {kind}` from `{source.name}`.\n".encode())
