"""Where weights come from before the first step: nowhere, another run, or parts of other runs.

fine-tuning from a run     all of the system's weights; parts that only fine-tuning has stay as initialised if the run has none
--init image=RUN           the tensors under `image.` of that run, into the part of the same name here; of a longer table of
                           positions of words, as many as there are here

A hinge may have more places for pictures here than in that run (NLVR2 compares two). Each further place begins as the last one
known, as in ViLT's code; a hinge that knew one place and had no embedding for it, as one that adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diptych import checkpoint
from diptych.config import UserError, nearest
from diptych.contracts import System, Tokenizer
from diptych.text import tokenizer as vocabulary

POSITIONS = "position.weight"  # row n is of place n, however many there are
TYPES = "fusion.modality.weight"  # a row for the text, then one for each picture of it (fusion/single_stream.py)
SLOTS = "fusion.slot.weight"  # a row for each picture; there for two and more (fusion/dual_stream.py)
OF_TASK = "system."  # a fine-tuned run holds a task, and its system under this name


def weights_of_run(run: Path) -> dict[str, Tensor]:
    """The system's weights of a finished run, whether it was pre-trained or fine-tuned."""
    file = run if run.is_file() else run / "model.safetensors"
    if not file.exists():
        unfinished = (run / "config.json").exists()
        reason = (
            "the run is not finished; the command that started it goes on with it" if unfinished else "no model.safetensors there"
        )
        raise UserError(f"{run}: {reason}")
    weights = checkpoint.read_weights(file)
    of_system = {name.removeprefix(OF_TASK): tensor for name, tensor in weights.items() if name.startswith(OF_TASK)}
    return of_system or weights


def _other_word(run: Path, tokenizer: Tokenizer) -> str:
    """The first token that the run numbers otherwise, or nothing: equal shapes do not make equal words."""
    file = run / "tokenizer.json"
    if not file.is_file():
        return ""
    theirs = vocabulary.load(str(file))
    places = (i for i in range(tokenizer.vocab_size) if theirs.token(i) != tokenizer.token(i))
    return next((f"token {i} is '{theirs.token(i)}' there, '{tokenizer.token(i)}' here" for i in places), "")


def _with_places(weights: dict[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with as many places for pictures as there are here; never fewer."""
    grown = dict(weights)
    if SLOTS in targets and SLOTS not in weights:
        grown[SLOTS] = torch.zeros_like(targets[SLOTS], device="cpu")
    for name in (TYPES, SLOTS):
        if name in targets and name in grown and (more := len(targets[name]) - len(grown[name])) > 0:
            grown[name] = torch.cat([grown[name], grown[name][-1:].expand(more, -1)])
    return grown


def load_system(system: System, run: Path) -> None:
    weights = _with_places(weights_of_run(run), system.state_dict(keep_vars=True))
    fresh = set(system.made_in_finetuning) - {name.partition(".")[0] for name in weights}
    weights |= {name: tensor for name, tensor in system.state_dict().items() if name.partition(".")[0] in fresh}
    checkpoint.load_weights(system, weights, str(run))


def copy_part(system: System, part: str, run: Path, tokenizer: Tokenizer, tell: Callable[[str], None]) -> None:
    """Copy the tensors under `part` from `run`, and say what came and what did not."""
    targets = {name: tensor for name, tensor in system.state_dict(keep_vars=True).items() if name.startswith(f"{part}.")}
    if not targets:
        raise UserError(f"--init {part}={run}: the system has no part '{part}'{nearest(part, dict(system.named_children()))}")
    weights = weights_of_run(run)
    if any(name.startswith(f"{part}.") for name in weights):
        weights = _with_places(weights, targets)
    common = [name for name in targets if name in weights]
    if not common:
        there = {name.partition(".")[0] for name in weights}
        raise UserError(f"--init {part}={run}: nothing is named {part}.* there{nearest(part, there)}")
    cut = []
    for name in common:
        here, theirs = targets[name], weights[name]
        if name.endswith(POSITIONS) and here.shape[1:] == theirs.shape[1:] and len(here) < len(theirs):
            weights[name] = theirs[: len(here)]
            cut.append(f"; {name}: the first {len(here)} of {len(theirs)}")
        if targets[name].shape != weights[name].shape:
            shapes = f"{list(weights[name].shape)} there, {list(targets[name].shape)} here"
            raise UserError(f"--init {part}={run}: {name} has another shape: {shapes}")
        if len(targets[name]) == tokenizer.vocab_size and (differs := _other_word(run, tokenizer)):
            raise UserError(
                f"--init {part}={run}: {name} was learnt with another vocabulary ({differs}); set text.vocab to that one"
            )
        with torch.no_grad():
            targets[name].copy_(weights[name])
    count = sum(targets[name].numel() for name in common)
    fresh = sorted(targets.keys() - weights.keys())
    left = sorted(name for name in weights.keys() - targets.keys() if name.startswith(f"{part}."))
    unused = f"; there, not used here: {', '.join(left)}" if left else ""
    not_copied = f"; not there, left as initialised: {', '.join(fresh)}" if fresh else ""
    tell(f"{part}: copied {len(common)} tensors ({count:,} numbers) from {run}{''.join(cut)}{not_copied}{unused}")
