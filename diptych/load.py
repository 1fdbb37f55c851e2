"""A trained run as something to ask: `diptych.load("runs/vqa").answer("cat.jpg", "what colour is it?")`.

A run directory or a Hub repository holds config.json, model.safetensors, tokenizer.json and README.md; these four come and go by
`load`, `save_pretrained` and `push_to_hub`. What a model can be asked depends on its head: a pre-trained system fills masked words
and tells matches, a fine-tuned task does what it was tuned for. Asking for more is an error that names the fine-tune that gives it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from diptych import find
from diptych.checkpoint import load_weights, read_weights, weights_of, write_file, write_json
from diptych.config import Recipe, UserError
from diptych.contracts import Batch, Fused, Sample, System, Task, Tokenizer
from diptych.data.collate import Collate
from diptych.data.picture import BrokenPicture, decode_sample
from diptych.draw import Draw
from diptych.nn.attention import Seen, record
from diptych.text import tokenizer as vocabulary

EXCHANGED = ("config.json", "model.safetensors", "tokenizer.json", "README.md")
Picture = str | Path | bytes | Image | NDArray[np.uint8]


class Guess(NamedTuple):
    text: str
    probability: float


class Look(NamedTuple):
    """How much of its attention the model's summary token gave to each piece of the picture."""

    weight_V: NDArray[np.float32]
    box_V4: NDArray[np.float32]  # xyxy in [0, 1]


class Reply(NamedTuple):
    """What `ask` found: the verb that answered, its guesses (best first), the picture it saw and where it looked."""

    verb: str
    guesses: list[Guess]
    picture: NDArray[np.uint8]
    look: Look


def load(source: str | Path, device: str | torch.device | None = None) -> Model:
    """A model from a run directory, or from the Hub ("someone/some-model")."""
    folder = _folder(source)
    about = read_config(folder)
    tokenizer = vocabulary.load(str(folder / "tokenizer.json"))
    recipe = find.recipe(about["recipe"], about["system"], about.get("task"))
    system = find.system_class(about["system"])(recipe.system, tokenizer)
    module: System | Task = system
    if about.get("task"):
        module = find.task_class(about["task"])(recipe.task, system, tokenizer)
    load_weights(module, read_weights(folder / "model.safetensors"), str(folder / "model.safetensors"))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(module.to(device).eval(), tokenizer, recipe, about, folder)


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.json; refuses what is not a finished run."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run directory")
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json in it, so it is not a run directory") from None
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not JSON: {error}") from None
    if not isinstance(about, dict) or "recipe" not in about or "system" not in about:
        raise UserError(
            f"{folder / 'config.json'}: not written by Diptych (no 'recipe' in it); `diptych convert` reads published weights"
        )
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: the run is not finished (no model.safetensors); give its command again to resume it")
    return about


def _folder(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/", "~", "runs/")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(EXCHANGED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{source}: no such directory, and the Hub does not give it: {str(error).splitlines()[0]}") from None


@dataclass
class Model:
    """A trained system or task with the verbs that its heads support."""

    module: System | Task
    tokenizer: Tokenizer
    recipe: Recipe
    about: Mapping[str, Any]
    folder: Path

    @property
    def task(self) -> Task | None:
        return self.module if isinstance(self.module, Task) else None

    @property
    def system(self) -> System:
        return self.module.system if isinstance(self.module, Task) else self.module

    # -------------------------------------------------------------------------------------------------------- verbs

    def match(self, image: Picture, text: str | Sequence[str]) -> list[float]:
        """The probability, for each text, that it is true of the picture."""
        texts = [text] if isinstance(text, str) else list(text)
        return self._match(*self._fuse(image, texts)).tolist()

    def answer(self, image: Picture, question: str, top: int = 5) -> list[Guess]:
        """The likeliest answers to a question."""
        if not hasattr(self.task, "answers"):
            raise self._cannot("answer", "vqa")
        return self._answers(*self._fuse(image, [question]), top)

    def fill(self, image: Picture, text: str, top: int = 5) -> list[list[Guess]]:
        """The likeliest words for each [MASK] in the text."""
        return self._words(*self._fuse(image, [text]), top)

    def ask(self, image: Picture, text: str, top: int = 5) -> Reply:
        """Whatever the loaded head answers, and where the model looked: words for [MASK], else an answer, else a match."""
        with record() as seen:
            fused, batch = self._fuse(image, [text])
        if "[MASK]" in text:
            verb, guesses = "fill", self._words(fused, batch, top)[0]
        elif hasattr(self.task, "answers"):
            verb, guesses = "answer", self._answers(fused, batch, top)
        else:
            yes = float(self._match(fused, batch)[0])
            verb, guesses = "match", [Guess("matches", yes), Guess("does not match", 1 - yes)]
        assert batch.images is not None
        height, width = batch.images.size_I2[0].tolist()
        picture = batch.images.pixel_I3HW[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        return Reply(verb, guesses, picture, _look(seen, fused))

    # ------------------------------------------------------------------------------------------------------ exchange

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the four files that `load` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        from safetensors.torch import save

        write_file(folder / "model.safetensors", save(weights_of(self.module)))
        write_json(folder / "config.json", {**self.about, "recipe": self.recipe.model_dump(mode="json")})
        self.tokenizer.save(folder / "tokenizer.json")
        if (card := self.folder / "README.md").is_file() and folder.resolve() != self.folder.resolve():
            shutil.copyfile(card, folder / "README.md")
        return folder

    def push_to_hub(self, repo_id: str, private: bool | None = None) -> str:
        """Upload the four files; the address of the repository. Needs `hf auth login` once."""
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(EXCHANGED))
        return str(url)

    # --------------------------------------------------------------------------------------------------------- inner

    @torch.inference_mode()
    def _fuse(self, image: Picture, texts: Sequence[str]) -> tuple[Fused, Batch]:
        """The texts beside one picture, as rows of one batch."""
        sample = Sample("asked", (_stored(image),), tuple(texts))
        collate = Collate(self.tokenizer, self.recipe.text, self.recipe.data, training=False)
        try:
            pictures = [decode_sample(sample, self.recipe.data.image)]
        except BrokenPicture as error:
            name = image if isinstance(image, str | Path) else "the picture"
            raise UserError(f"{name}: cannot be read: {error}") from None
        batch = collate([sample], pictures, [0], Draw(0)).to(next(self.module.parameters()).device)
        return self.system.fuse(batch), batch

    @torch.inference_mode()
    def _match(self, fused: Fused, batch: Batch) -> Tensor:
        if type(self.system).match is System.match:
            raise self._cannot("match", "retrieval")
        return self.system.match(fused).float().sigmoid()

    @torch.inference_mode()
    def _answers(self, fused: Fused, batch: Batch, top: int) -> list[Guess]:
        raise NotImplementedError

    @torch.inference_mode()
    def _words(self, fused: Fused, batch: Batch, top: int) -> list[list[Guess]]:
        raise NotImplementedError

    def _cannot(self, verb: str, task: str) -> UserError:
        kind = (
            f"{self.about['system']} fine-tuned for {self.about['task']}" if self.task else f"a pre-trained {self.about['system']}"
        )
        return UserError(f"{kind} cannot {verb}; `diptych finetune {task} --from {self.folder}` gives a model that can")


def _stored(image: Picture) -> Path | bytes:
    """A picture as a reader would give it."""
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if not path.is_file():
            raise UserError(f"{image}: no such picture")
        return path
    if isinstance(image, bytes):
        return image
    from io import BytesIO

    from PIL import Image as pillow

    buffer = BytesIO()
    (pillow.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, "PNG")
    return buffer.getvalue()


def _look(seen: Sequence[Seen], fused: Fused) -> Look:
    """Attention from the first text token to the visual tokens, averaged over heads and over the upper half of the layers.

    A single stream has keys [text ; picture]; a cross-attention from text to picture has the picture's alone.
    """
    text, visual = fused.text_BTD.shape[1], fused.image_BVD.shape[1]
    layers_LV = [
        prob_BHTS[0, :, 0, -visual:].mean(0)
        for _, prob_BHTS in seen
        if tuple(prob_BHTS.shape[2:]) in ((text + visual, text + visual), (text, visual))
    ]
    if layers_LV:
        weight_V = torch.stack(layers_LV[len(layers_LV) // 2 :]).mean(0)
    else:
        weight_V = torch.zeros(visual, device=fused.image_BVD.device)
    box_V4 = fused.box_BV4[0].float()
    # a token for the whole picture tells no place
    placed_V = fused.image_mask_BV[0] & ~((box_V4[:, 2:] - box_V4[:, :2]) >= 1).all(-1)
    return Look(weight_V[placed_V].cpu().numpy(), box_V4[placed_V].cpu().numpy())


class _Callable(ModuleType):
    """Importing `diptych.load` binds this module to the name under which users call the function: so it is both."""

    def __call__(self, source: str | Path, device: str | torch.device | None = None) -> Model:
        return load(source, device)


sys.modules[__name__].__class__ = _Callable
