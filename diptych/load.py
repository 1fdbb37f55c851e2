"""A trained run as something to ask: `diptych.load("runs/vqa").answer("cat.jpg", "what color is it?")`.

A run directory or a Hub repository holds config.json, model.safetensors, tokenizer.json and README.md; these four come and go by
`load`, `save_pretrained` and `push_to_hub`. What a model can be asked depends on its head: a pre-trained system fills masked words
and tells matches, a fine-tuned task does what it was tuned for. Asking for more is an error that names the fine-tune that gives it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from diptych import find
from diptych.checkpoint import load_weights, read_weights, weights_of, write_file, write_json
from diptych.config import Recipe, UserError
from diptych.contracts import Batch, Fused, Sample, System, Task, Tokenizer, Towers, Trainable
from diptych.data.collate import Collate
from diptych.data.picture import BrokenPicture, decode, decode_sample
from diptych.data.stream import InOrder
from diptych.draw import Draw
from diptych.nn.attention import Seen, record
from diptych.nn.transport import transport
from diptych.regions.extract import AtSight
from diptych.regions.store import RegionStore
from diptych.replies import Answers, Chooses, Compares, Entails, Grounds, Guess, Look, Moved, Place, Reply, Thing
from diptych.tasks.caption import Writes
from diptych.tasks.detection import Detects
from diptych.tasks.retrieval import Retrieval
from diptych.text import tokenizer as vocabulary
from diptych.train.run import EVALUATION_BATCH

Picture = str | Path | bytes | Image | NDArray[np.uint8]


def load(source: str | Path, device: str | torch.device | None = None) -> Model:
    """A model from a run directory, or from the Hub ("someone/some-model")."""
    folder = find.run(source)
    if folder is None:
        raise UserError(f"{source}: no such run directory")
    about = find.read_config(folder)
    tokenizer = vocabulary.load(str(folder / "tokenizer.json"))
    recipe = find.recipe(about["recipe"], about["system"], about.get("task"))
    system = find.system_class(about["system"])(recipe.system, tokenizer)
    module: System | Task = system
    if about.get("task"):
        module = find.task_class(about["task"])(recipe.task, system, tokenizer)
    load_weights(module, read_weights(folder / "model.safetensors"), str(folder / "model.safetensors"))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(module.to(device).eval(), tokenizer, recipe, about, folder)


@dataclass
class Model:
    """A trained system or task with the verbs that its heads support."""

    module: System | Task
    tokenizer: Tokenizer
    recipe: Recipe
    about: Mapping[str, Any]
    folder: Path

    @cached_property
    def regions(self) -> RegionStore | AtSight | None:
        """What a detector saw, for a system that reads that: the store that the run was trained with, or else the detector."""
        if not (self.system.reads_regions or (self.task and self.task.reads_regions(self.task.config))):
            return None
        if not self.about.get("regions"):
            raise UserError(f"{self.folder}: its config.json names no region store, and {self.about['system']} reads one")
        if self.about["regions"] == find.SHIPPED:
            detector = load(find.SHIPPED, next(self.module.parameters()).device)
            return AtSight(detector.system, detector.recipe, detector.tokenizer)
        return RegionStore(self.about["regions"])

    @property
    def task(self) -> Task | None:
        return self.module if isinstance(self.module, Task) else None

    @property
    def system(self) -> System:
        return self.module.system if isinstance(self.module, Task) else self.module

    # -------------------------------------------------------------------------------------------------------- verbs

    @torch.inference_mode()
    def compare(self, shown: Sequence[Sample], texts: Sequence[str]) -> NDArray[np.float32]:
        """[I, C] cosines of every picture with every text, each encoded once: what proposes in a cascade of retrieval."""
        if not self._has_towers:
            raise self._cannot("embed pictures or texts by themselves")
        pictures, said = [Sample(one.key, one.images) for one in shown], [Sample(text, texts=(text,)) for text in texts]
        a_IE = torch.cat([self.system.towers(batch).a_BE for batch in self._batches(pictures)])
        b_CE = torch.cat([self.system.towers(batch).b_BE for batch in self._batches(said)])
        return (a_IE @ b_CE.T).float().cpu().numpy()

    @torch.inference_mode()
    def embed_image(self, image: Picture) -> NDArray[np.float32]:
        """[E] of length one: its products with `embed_text`'s are cosines."""
        return self._towers(image, [""]).a_BE[0].cpu().numpy()

    @torch.inference_mode()
    def embed_text(self, text: str | Sequence[str]) -> NDArray[np.float32]:
        """[B, E] of length one, a row for each text."""
        return self._towers(None, [text] if isinstance(text, str) else text).b_BE.cpu().numpy()

    @torch.inference_mode()
    def choose(self, image: Picture, texts: Sequence[str]) -> list[Guess]:
        """Which of several texts is about the picture, best first: zero-shot classification, where they are names of classes."""
        if self._has_towers:
            towers = self._towers(image, texts)
            chance_B = ((towers.a_BE * towers.b_BE).sum(1) / towers.temperature).softmax(0)
        else:
            chance_B = torch.tensor(self.match(image, texts)).logit().softmax(0)
        guesses = [Guess(text, chance) for text, chance in zip(texts, chance_B.tolist(), strict=True)]
        return sorted(guesses, key=lambda guess: -guess.probability)

    @torch.inference_mode()
    def match(self, image: Picture, text: str | Sequence[str]) -> list[float]:
        """The probability, for each text, that it is true of the picture."""
        if self._has_towers:
            several = "give several texts, as in 'a cat | a dog'"
            raise UserError(f"{self.about['system']} tells which text fits a picture best, not whether one does: {several}")
        if type(self.system).match is System.match:
            raise self._cannot("tell matches", "retrieval")
        fused = self.system.fuse(self._rows(image, [text] if isinstance(text, str) else text))
        return self.system.match(fused).float().sigmoid().tolist()

    @torch.inference_mode()
    def answer(self, image: Picture, question: str, top: int = 5) -> list[Guess]:
        """The likeliest answers to a question."""
        if not isinstance(self.task, Answers):
            raise self._cannot("answer", "vqa")
        (guesses,) = self.task.answer(self._rows(image, [question]), top)
        return [Guess(*guess) for guess in guesses]

    @torch.inference_mode()
    def choose_answer(self, image: Picture, question: str, answers: Sequence[str]) -> list[Guess]:
        """Which of several answers to a question is right, best first."""
        if not isinstance(self.task, Chooses):
            raise self._cannot("choose between answers to a question", "vcr")
        (chances,) = self.task.choose(self._rows(image, [question], choices=answers))
        return _guesses(zip(answers, chances, strict=True))

    @torch.inference_mode()
    def entails(self, image: Picture, text: str) -> list[Guess]:
        """Whether the picture entails the text, contradicts it or leaves it open (neutral), the likeliest first."""
        if not isinstance(self.task, Entails):
            raise self._cannot("say what a picture entails", "ve")
        (chances,) = self.task.entails(self._rows(image, [text]))
        return _guesses(chances.items())

    @torch.inference_mode()
    def compare_images(self, left: Picture, right: Picture, text: str) -> list[Guess]:
        """Whether the text is true of two pictures, "True" or "False", the likelier first."""
        if not isinstance(self.task, Compares):
            raise self._cannot("compare pictures", "nlvr2")
        (chances,) = self.task.compare(self._rows((left, right), [text]))
        return _guesses(chances.items())

    @torch.inference_mode()
    def fill(self, image: Picture | None, text: str, top: int = 5) -> list[list[Guess]]:
        """The likeliest words for each [MASK] in the text. Without a picture, for systems that read text alone."""
        kind = type(self.system)
        if kind.words is System.words:
            raise self._cannot("fill in words")
        if image is None and kind.read is System.read:
            raise self._cannot("fill in words without a picture")
        batch = self._rows(image, [text], labelled=False)
        asked_T = batch.text_BT[0] == self.tokenizer.mask_id
        if not asked_T.any():
            raise UserError(f"'{text}': no [MASK] in it to fill")
        encoded = self.system.read(batch) if image is None else self.system.fuse(batch)
        chance_PK = self.system.words(encoded.text_BTD[0, asked_T]).float().softmax(-1)
        return [
            [Guess(self.tokenizer.token(k), p) for k, p in zip(best.tolist(), chances.tolist(), strict=True)]
            for chances, best in zip(*chance_PK.topk(top), strict=True)
        ]

    @torch.inference_mode()
    def caption(self, image: Picture, beam: int = 5, most: int = 40) -> str:
        """A text of the picture, of at most so many tokens."""
        if not isinstance(self.system, Writes):
            raise self._cannot("write")
        (ids,) = self.system.decode(self._rows(image, [""], labelled=False), most, beam)
        return self.tokenizer.decode(ids)

    @torch.inference_mode()
    def detect(self, image: Picture, top: int = 10) -> list[Thing]:
        """What is in the picture, the surest first; unsure ones too, up to `top`."""
        if not isinstance(self.system, Detects):
            raise self._cannot("find things")
        found = self.system.detect(self._rows(image, [""], labelled=False))
        assert found.soft_label_IRK is not None
        chance_R, class_R = (part[0, found.mask_IR[0]] for part in found.soft_label_IRK[..., 1:].float().max(-1))
        names, box_R4 = self.system.region_classes, found.box_IR4[0, found.mask_IR[0]]
        return [
            Thing(names[1 + int(class_R[r])], float(chance_R[r]), tuple(box_R4[r].tolist()))
            for r in chance_R.argsort(descending=True, stable=True)[:top].tolist()
        ]

    @torch.inference_mode()
    def ground(self, image: Picture, text: str, top: int = 5) -> list[Place]:
        """Where the thing is that a phrase means, likeliest place first."""
        if not isinstance(self.task, Grounds):
            raise self._cannot("point at things", "rec")
        (found,) = self.task.ground(self._rows(image, [text]), top)
        return [Place((x1, y1, x2, y2), chance) for (x1, y1, x2, y2), chance in found]

    @torch.inference_mode()
    def ask(self, image: Picture, text: str, top: int = 5) -> Reply:
        """Whatever the head says, and where it looked: words for the first [MASK], else an answer or label, a place, a match.

        Texts between bars ("a cat | a dog") are chosen from; behind a question ("what is it? | a cat | a dog") by a head for that.
        """
        texts = alternatives(text)
        self._check_asked(text, texts)
        if "[MASK]" in text:
            verb, guesses = "fill", self.fill(image, text, top)[0]
        elif isinstance(self.task, Answers):
            verb, guesses = "answer", self.answer(image, text, top)
        elif isinstance(self.task, Entails):
            verb, guesses = "entails", self.entails(image, text)
        elif isinstance(self.task, Grounds):
            return self._pointed(image, text, top)
        elif isinstance(self.task, Chooses):
            text, *answers = texts
            verb, guesses = "choose", self.choose_answer(image, text, answers)[:top]
        elif len(texts) > 1:
            verb, guesses = "choose", self.choose(image, texts)[:top]
        else:
            (yes,) = self.match(image, text)
            both = [Guess("matches", yes), Guess("does not match", 1 - yes)]
            verb, guesses = "match", sorted(both, key=lambda guess: -guess.probability)
        return Reply(verb, guesses, decode(_stored(image)), self.look(image, text))

    def _pointed(self, image: Picture, text: str, top: int) -> Reply:
        """Places by their corners in pixels."""
        places, picture = self.ground(image, text, top), decode(_stored(image))
        size = (picture.shape[1], picture.shape[0]) * 2
        corners = [" ".join(f"{v * side:.0f}" for v, side in zip(place.box, size, strict=True)) for place in places]
        guesses = [Guess(said, place.probability) for said, place in zip(corners, places, strict=True)]
        return Reply("ground", guesses, picture, self.look(image, text), tuple(place.box for place in places))

    @torch.inference_mode()
    def transport(self, image: Picture, text: str) -> Moved:
        """Which cells or patches each word is moved to most cheaply (nn/transport.py)."""
        batch = self._rows(image, [text], labelled=False)
        fused, word_T = self.system.fuse(batch), batch.word_BT[0]
        placed_V = _placed(fused)
        plan_BTV = transport(fused.text_BTD, (word_T >= 0)[None], fused.image_BVD, placed_V[None]).plan_BTV
        words = int(word_T.max()) + 1
        weight_WV = plan_BTV.new_zeros(words, len(placed_V)).index_add(0, word_T[word_T >= 0], plan_BTV[0, word_T >= 0])
        encoding = self.tokenizer.encode(text, self.recipe.text.max_tokens)
        spans = [[o for o, w in zip(encoding.offsets, encoding.words, strict=True) if w == word] for word in range(words)]
        said = tuple(text[span[0][0] : span[-1][1]] for span in spans)
        return Moved(said, weight_WV[:, placed_V].cpu().numpy(), fused.box_BV4[0, placed_V].float().cpu().numpy())

    @torch.inference_mode()
    def look(self, image: Picture, text: str) -> Look:
        """What the hidden word looks at: the first [MASK] (of a cloze, behind the question), or else [CLS].

        Nothing where towers compare.
        """
        if self._has_towers and (self.task is None or "towers" in self.task.reads):
            return Look(np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
        batch = self._rows(image, [text])
        hidden = (batch.text_BT[0] == self.tokenizer.mask_id).nonzero()[:, 0].tolist()
        with record() as seen:
            fused = self.system.fuse(batch)
        return _look(seen, fused, hidden[0] if hidden else 0)

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
            api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(find.EXCHANGED))
        return str(url)

    # --------------------------------------------------------------------------------------------------------- inner

    def on_task(self, name: str) -> Task:
        """The model's task; or, zero-shot, a task that needs no labels on a system that was only pre-trained."""
        if self.task is not None and self.about["task"] == name:
            return self.task
        kind = find.task_class(name)
        find.suits(name, self.about["system"])
        if self.task is not None or kind.needs_labels:
            raise self._cannot(f"be evaluated on {name}", name if kind.forward is not Trainable.forward else None)
        return kind(kind.Config(), self.system, self.tokenizer).to(next(self.module.parameters()).device).eval()

    def _check_asked(self, text: str, texts: Sequence[str]) -> None:
        """Refuse a text that would silently be taken for another."""
        if not texts:
            raise UserError(f"'{text}': an empty text asks nothing")
        if odd := next((found for found in map(str.strip, _MASKS.findall(text)) if found != "[MASK]"), None):
            raise UserError(f"'{text}': write a hidden word as [MASK], not {odd}")
        if isinstance(self.task, Chooses) and "[MASK]" not in text and len(texts) < 3:
            raise UserError(f"'{text}': write a question and the answers to choose from: 'what is it? | a cat | a dog'")
        for one in [text] if "[MASK]" in text or isinstance(self.task, Answers) else texts:
            shown = one if len(one) < 60 else f"{one[:57]}..."
            most, ids = self.recipe.text.max_tokens, self.tokenizer.encode(one, sys.maxsize).ids
            tokens = len(ids)
            if set(ids[1:-1]) <= {self.tokenizer.unk_id}:
                raise UserError(f"'{shown}': this run's vocabulary knows no word of it")
            if tokens > most:
                raise UserError(f"'{shown}': {tokens} tokens, and this run reads {most} (text.max_tokens); ask in fewer words")

    @property
    def _has_towers(self) -> bool:
        return type(self.system).towers is not System.towers

    def _towers(self, image: Picture | None, texts: Sequence[str]) -> Towers:
        if not self._has_towers:
            raise self._cannot("embed pictures or texts by themselves")
        return self.system.towers(self._rows(image, texts, labelled=False))

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        collate = Collate(self.tokenizer, self.recipe.text, self.recipe.data, training=False)
        in_order = InOrder(list(samples), collate, lambda batch: batch, Draw(0), self.recipe.data.image, EVALUATION_BATCH)
        return (delivery.batch.to(next(self.module.parameters()).device) for delivery in in_order.loader(0))

    def _rows(
        self,
        image: Picture | tuple[Picture, ...] | None,
        texts: Sequence[str],
        labelled: bool = True,
        choices: Sequence[str] = (),
    ) -> Batch:
        """The texts beside one picture, several, or none, as rows of one batch; what to choose from is each question's own."""
        given = image if isinstance(image, tuple) else () if image is None else (image,)
        if labelled and isinstance(self.task, Compares) and len(given) != 2:
            raise UserError(
                f"a {self.about['system']} fine-tuned for {self.about['task']} compares two pictures: "
                f'diptych.load("{self.folder}").compare_images(left, right, text)'
            )
        if given and type(self.system).see is System.see:
            raise self._cannot("look at pictures")
        images = tuple(_stored(one) for one in given)
        collate = Collate(self.tokenizer, self.recipe.text, self.recipe.data, training=False)
        try:
            seen = () if self.regions is None else tuple(self.regions[stored] for stored in images)
            labels = {"choices": tuple(choices)} if choices else {}
            sample = Sample("asked", images, tuple(texts), regions=seen, labels=labels)
            pictures = [decode_sample(sample, self.recipe.data.image)]
        except BrokenPicture as error:
            names = [str(one) if isinstance(one, str | Path) else "the picture" for one in given]
            raise UserError(f"{' or '.join(names)}: cannot be read as a picture: {error}") from None
        batch = collate([sample], pictures, [0], Draw(0))
        if labelled and self.task is not None:
            batch = self.task.label(batch)  # a task may put more into the text than labels
        return batch.to(next(self.module.parameters()).device)

    def _cannot(self, verb: str, task: str | None = None) -> UserError:
        kind = (
            f"a {self.about['system']} fine-tuned for {self.about['task']}"
            if self.task
            else f"a pre-trained {self.about['system']}"
        )
        remedy = f"; `diptych finetune {task} --from {self.folder}` gives a model that can" if task else ""
        return UserError(f"{kind} cannot {verb}{remedy}")


def configured(model: Model, recipe: Recipe) -> Model:
    """A pre-trained system with other settings of its own on the weights it has: without an objective, say."""
    if recipe.system == model.recipe.system:
        return model
    system = type(model.system)(recipe.system, model.tokenizer)
    wanted = system.state_dict(keep_vars=True)
    weights = {name: tensor for name, tensor in weights_of(model.system).items() if name in wanted}
    load_weights(system, weights, f"{model.folder}, with these settings,")
    device = next(model.system.parameters()).device
    return Model(system.to(device).eval(), model.tokenizer, recipe, model.about, model.folder)


def with_proposer(judged: Task) -> None:
    """Give a retrieval in cascade the run that its configuration names."""
    if not isinstance(judged, Retrieval) or not judged.config.cascade:
        return
    key = f"task.cascade={judged.config.cascade}"
    if judged.has_towers:
        raise UserError(f"{key}: towers compare all with all as it is; a cascade spares pairs to systems that fuse")
    first = load(judged.config.cascade, next(judged.parameters()).device)
    if not first._has_towers:
        able = ", ".join(name for name, entry in find.catalogue("systems").items() if "towers" in entry.offers)
        raise UserError(f"{key}: a {first.about['system']} has no towers to propose with; these have: {able}")
    judged.proposer = first.compare


def _guesses(chances: Iterable[tuple[str, float]]) -> list[Guess]:
    return sorted((Guess(*pair) for pair in chances), key=lambda guess: -guess.probability)


_MASKS = re.compile(r"\[\s*mask\b\s*\]?", re.IGNORECASE)  # whatever was meant to be [MASK]


def alternatives(text: str) -> list[str]:
    """The texts between bars."""
    return [part.strip() for part in text.split("|") if part.strip()]


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


def _look(seen: Sequence[Seen], fused: Fused, place: int) -> Look:
    """Attention from the text token at `place` to the visual tokens, averaged over heads and over the upper half of the layers.

    A single stream has keys [text ; picture]; a cross-attention from text to picture has the picture's alone.
    """
    text, visual = fused.text_BTD.shape[1], fused.image_BVD.shape[1]
    layers_LV = [
        prob_BHTS[0, :, place, -visual:].mean(0)
        for _, prob_BHTS in seen
        if tuple(prob_BHTS.shape[2:]) in ((text + visual, text + visual), (text, visual))
    ]
    if layers_LV:
        weight_V = torch.stack(layers_LV[len(layers_LV) // 2 :]).mean(0)
    else:
        weight_V = torch.zeros(visual, device=fused.image_BVD.device)
    placed_V = _placed(fused)
    return Look(weight_V[placed_V].cpu().numpy(), fused.box_BV4[0, placed_V].float().cpu().numpy())


def _placed(fused: Fused) -> Tensor:
    """[V] of the first row, bool: a token for the whole picture tells no place."""
    box_V4 = fused.box_BV4[0]
    return fused.image_mask_BV[0] & ~((box_V4[:, 2:] - box_V4[:, :2]) >= 1).all(-1)


class _Callable(ModuleType):
    """Importing `diptych.load` binds this module to the name under which users call the function: so it is both."""

    def __call__(self, source: str | Path, device: str | torch.device | None = None) -> Model:
        return load(source, device)


sys.modules[__name__].__class__ = _Callable
