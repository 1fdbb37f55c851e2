"""A Trainable small enough to train in a second, with everything that makes resuming hard: dropout, batch normalisation, an unused
parameter, weights that are tied, state that `after_step` commits, an objective whose label count varies from batch to batch."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych import dist
from diptych.config import Config, DataConfig, ImageConfig, Recipe, TrainConfig
from diptych.contracts import IGNORE, Batch, LossTerm, Sample, System
from diptych.data.collate import Collate
from diptych.data.mixture import Mixture, Source
from diptych.data.stream import Stream
from diptych.draw import Draw
from diptych.text.tokenizer import wordpiece
from diptych.train.run import Interrupted, Options, build_system, pretrain

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}


class ToyConfig(Config):
    kind: Literal["toy"] = "toy"
    width: int = 16
    dropout: float = 0.1
    norm: bool = True  # batch normalisation depends on how a batch is divided


class Toy(System):
    """Text states + a mean colour -> masked words, and whether the colour is bright."""

    Config = ToyConfig

    def __init__(self, config: ToyConfig, tokenizer: Any):
        super().__init__()
        self.config = config
        self.text = nn.Embedding(tokenizer.vocab_size, config.width)
        self.image = nn.Linear(3, config.width)
        self.norm = nn.BatchNorm1d(config.width) if config.norm else nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        self.bright = nn.Linear(config.width, 2)
        self.never_used = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(config.width, tokenizer.vocab_size, bias=False)
        self.head.weight = self.text.weight
        self.mean_W: Tensor
        self.register_buffer("mean_W", torch.zeros(config.width))
        self.mask_id, self.vocab_size = tokenizer.mask_id, tokenizer.vocab_size
        self.staged: list[tuple[Tensor, int]] = []

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        chosen_BT = torch.from_numpy(draw.uniform("mlm", batch.row_B.numpy(), batch.text_BT.shape[1]) < 0.3) & (batch.word_BT >= 0)
        bright_B = torch.tensor([int(sample.texts[0].endswith("white")) for sample in batch.samples])
        bright_B[torch.from_numpy(draw.uniform("asked", batch.row_B.numpy())[:, 0] < 0.5)] = IGNORE
        labels = {"mlm": batch.text_BT.masked_fill(~chosen_BT, IGNORE), "bright": bright_B}
        counts = {name: float((label != IGNORE).sum()) for name, label in labels.items()}
        return replace(batch, text_BT=batch.text_BT.masked_fill(chosen_BT, self.mask_id), labels=labels, counts=counts)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        assert batch.images is not None
        assert batch.image_of_BN is not None
        mean_I3 = batch.images.pixel_I3HW.float().mean((2, 3)) / 255
        colour_BW = self.image(mean_I3)[batch.image_of_BN[:, 0]]
        state_BTW = self.drop(self.text(batch.text_BT) + colour_BW[:, None])
        state_BTW = self.norm(state_BTW.flatten(0, 1)).view_as(state_BTW) + self.mean_W
        self.staged.append((colour_BW.detach().sum(0), len(batch)))
        terms = {
            "mlm": (self.head(state_BTW).flatten(0, 1), batch.labels["mlm"].flatten(), 1.0),
            "bright": (self.bright(state_BTW[:, 0]), batch.labels["bright"], 0.5),
        }
        return {
            name: LossTerm(
                nn.functional.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="sum"), batch.counts[name], weight
            )
            for name, (logits, label, weight) in terms.items()
        }

    def after_step(self) -> None:
        total_W = dist.sum_tensor(sum((part for part, _ in self.staged), torch.zeros_like(self.mean_W)))
        count = dist.sum_counts({"rows": sum(n for _, n in self.staged)})["rows"]
        if count:  # a task that does not go through `forward` stages nothing
            self.mean_W.mul_(0.9).add_(0.1 * total_W / count)
        self.discard_step()

    def discard_step(self) -> None:
        self.staged = []


@dataclass
class Pictures:
    """A reader of one-coloured pictures. Those in `broken` are not pictures."""

    size: int = 40
    broken: frozenset[int] = frozenset()
    name: str = "toy"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        colour = list(COLOURS)[index % len(COLOURS)]
        return Sample(f"{self.name}-{index}", (b"not a picture" if index in self.broken else png(colour),), (f"a big {colour}",))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), COLOURS[colour], np.uint8)).save(file, "png")
    return file.getvalue()


def recipe(train: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **system: Any) -> Recipe:
    steps = {"steps": 8, "batch_size": 8, "lr": 1e-2, "checkpoint_every": 3, "log_every": 2, "precision": "fp32"} | (train or {})
    picture = ImageConfig(short=8, long=8, multiple=8)
    return Recipe(system=ToyConfig(**system), data=DataConfig(image=picture, **(data or {})), train=TrainConfig(**steps))


TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "big", *COLOURS])


def sources(size: int = 40, broken: Sequence[int] = ()) -> list[Source]:
    return [Source("toy", Pictures(size, frozenset(broken)))]


def train(
    out: Path,
    *,
    cls: type[Toy] = Toy,
    source: Sequence[Source] | None = None,
    train: Any = None,
    data: Any = None,
    quiet: bool = True,
    stop_after: int | None = None,
    **system: Any,
) -> dict[str, Any]:
    """One sitting in `out`; with `stop_after`, it ends with a checkpoint of that step."""
    given = recipe(train, data, **system)
    options: Options = {"tokenizer": TOKENIZER, "trackers": (), "quiet": quiet}
    if stop_after is None:
        return pretrain(given, cls, source or sources(), out, **options)
    with contextlib.suppress(Interrupted):
        pretrain(given, cls, source or sources(), out, probe=StopAfter(stop_after), **options)
    return {}


class StopAfter:
    """A probe that asks to stop, as Ctrl-C would. Needs checkpoint_every=1."""

    def __init__(self, step: int):
        self.left = step

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}


def stream_and_model(given: Recipe) -> tuple[Stream, Toy]:
    """What the loop is made of, for a loop written out by hand."""
    model = build_system(given, Toy, TOKENIZER)
    assert isinstance(model, Toy)
    draw = Draw(given.train.seed)
    collate = Collate(TOKENIZER, given.text, given.data, training=True)
    sizes = {"steps": given.train.steps, "batch_size": given.train.batch_size}
    return Stream(Mixture(sources(), draw), collate, model.label, model.corrupt, draw, given.data.image, **sizes), model


def indices(draws: range) -> list[int]:
    """Which samples of `sources()` the draws take, with seed 0."""
    return Mixture(sources(), Draw(0)).locate(np.array(draws))[1].tolist()


def state_of(run: Path) -> dict[str, bytes]:
    """What two equal runs must have in common, bit for bit: tensors, counters, and the log without its clock."""
    newest = max(run.glob("checkpoints/step-*"))
    state = {name: (newest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}
    progress = json.loads((newest / "state.json").read_text())
    state["progress"] = repr({name: progress[name] for name in ("step", "skipped", "samples", "samples_by_source")}).encode()
    state["log"] = repr(log_of(run)).encode()
    return state


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def log_of(run: Path) -> list[dict[str, float]]:
    clock = {"seconds", "samples_per_second", "waiting", "memory_gb"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines]
