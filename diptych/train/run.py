"""Runs: pre-training a system, fine-tuning a task on it, evaluating; from classes, a recipe and readers to a directory.

    pretrain   recipe + system class + sources                -> OUT/model.safetensors, result.json, ... (train/directory.py)
    measure    a system + held-out sources                    -> result.json's fields, its objectives (train/held_out.py)
    finetune   the same + task class, from a run's weights or from scratch; evaluated on the splits given
    evaluate   a built task + a reader                        -> result.json's fields, and every question's score

`build` is the one place where a recipe becomes a model. A run that was interrupted or killed goes on when it is asked for again in
the same directory; a finished one returns its result. Under torchrun all ranks train and the first one finishes alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import torch
from safetensors.torch import save as to_safetensors

from diptych import __version__, checkpoint, dist
from diptych.config import Recipe, UserError, flat
from diptych.contracts import Batch, Evaluation, Reader, System, Task, Tokenizer, Trainable
from diptych.data.asked import as_asked
from diptych.data.collate import Collate
from diptych.data.mixture import Mixture, Source
from diptych.data.stream import Broken, InOrder, Refusal, Stream
from diptych.data.words import refuse_unread
from diptych.draw import Draw
from diptych.text import tokenizer as vocabulary
from diptych.train import directory
from diptych.train.card import model_card
from diptych.train.evaluate import headline, intervals
from diptych.train.held_out import Measured, objectives
from diptych.train.log import Journal, last_losses
from diptych.train.loop import Loop, Probe
from diptych.train.precision import autocast, choose_device, choose_precision
from diptych.train.profile import Page, Profile
from diptych.train.quarantine import Quarantine
from diptych.train.signals import Interrupted
from diptych.train.start import copy_part, load_system

__all__ = ["Interrupted", "Options", "build_system", "build_task", "evaluate", "finetune", "measure", "pretrain"]

Result = dict[str, Any]
Tell = Callable[[str], None]
EVALUATION_BATCH = 64
T = TypeVar("T", bound=Trainable)


class Options(TypedDict, total=False):
    """What `pretrain` and `finetune` take beside the run itself."""

    tokenizer: Tokenizer | None  # default: that of the run started from, else recipe.text.vocab
    init: Mapping[str, Path]  # part -> run whose part of that name is copied
    resume: Literal["auto", "never"]  # auto (default): go on with what the directory holds; never: it must hold no run
    about: Mapping[str, Any]  # names for config.json: system, preset, task, data, init, from
    device: str | None  # default: this rank's GPU, or the CPU
    trackers: Sequence[str]  # default: tensorboard
    probe: Probe | None  # measured every train.validate_every steps, or at checkpoints, into metrics.jsonl
    quiet: bool  # nothing on standard error
    announce: Callable[[Recipe], None]  # called when all that can be refused beforehand has been, and training begins
    profile: Page | None  # record a few steps, and draw the page by this


def pretrain(
    recipe: Recipe,
    system: type[System],
    data: Sequence[Source],
    out: Path,
    *,
    start: Path | None = None,
    held_out: Sequence[Source] = (),
    **options: Unpack[Options],
) -> Result:
    """Train a system on all its objectives, from all weights of the run `start` or from scratch.

    Every `train.validate_every` steps and at the end they are measured on `held_out`.
    """
    tokenizer = options.get("tokenizer") or vocabulary.load(vocabulary_of(start) or recipe.text.vocab)
    data = as_asked(data, recipe, training=True)
    refuse_unread(data, tokenizer)
    prepared = system.prepare(recipe.system, [source.reader for source in data], tokenizer)
    recipe = recipe.model_copy(update={"system": prepared})

    def begin(tell: Tell, resumed: bool) -> System:
        model = build_system(recipe, system, tokenizer)
        if not resumed:
            if start is not None:
                load_system(model, start)
            _copy_parts(model, options, tokenizer, tell)
        return model

    names = {"verb": "pretrain", "system": _module_name(system), "task": None} | ({"from": str(start)} if start else {})
    about = {**names, **options.get("about", {})}
    if recipe.train.validate_every and held_out:
        few, asked = recipe.train.validate_on, as_asked(held_out, recipe, training=False)
        options.setdefault("probe", lambda model: objectives(model, recipe, asked, tokenizer, few).metrics)

    def score(model: System) -> dict[str, Result]:
        if not (recipe.train.validate_every and held_out):
            return {}
        return {"val": measure(model, recipe, held_out, "val", tokenizer, about=about)[0]}

    return _run(recipe, begin, data, out, tokenizer, about, options, score)


def measure(
    model: System,
    recipe: Recipe,
    data: Sequence[Source],
    split: str,
    tokenizer: Tokenizer,
    *,
    about: Mapping[str, Any],
    limit: int | None = None,
) -> tuple[Result, Measured]:
    """All objectives of pre-training on samples that were not trained on (train/held_out.py)."""
    began = time.perf_counter()
    data = as_asked(data, recipe, training=False)
    measured = objectives(model, recipe, data, tokenizer, limit)
    result = {
        **_named(recipe, about),
        "split": split,
        "metrics": measured.metrics,
        "n": measured.n,
        "ci95": measured.ci95(),
        "data_sha256": _sha256([source.reader.fingerprint for source in data]),
        "seconds": time.perf_counter() - began,
    }
    return result, measured


def finetune(
    recipe: Recipe,
    system: type[System],
    task: type[Task],
    data: Sequence[Source],
    out: Path,
    *,
    start: Path | None = None,
    evaluate_on: Mapping[str, Reader] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Train a task on the system of the run `start`, or from scratch."""
    tokenizer = options.get("tokenizer") or vocabulary.load(vocabulary_of(start) or recipe.text.vocab)
    if recipe.data.noise:
        raise UserError("data.noise spoils the texts of pre-training; questions of a task stay as they are")
    if recipe.data.noun_phrases:
        raise UserError("data.noun_phrases marks the texts of pre-training; no task asks for phrases")
    scored_on = [Source(split, reader) for split, reader in (evaluate_on or {}).items()]
    refuse_unread([*data, *scored_on], tokenizer)  # of both before the first step, not at the first score
    readers = [source.reader for source in data]
    recipe = recipe.model_copy(update={"task": task.prepare(recipe.task, readers, tokenizer)})
    if start is None:
        recipe = recipe.model_copy(update={"system": system.prepare(recipe.system, readers, tokenizer)})
    names = {"verb": "finetune", "system": _module_name(system), "task": _module_name(task)}
    about = {**names, "from": None if start is None else str(start), **options.get("about", {})}

    def begin(tell: Tell, resumed: bool) -> Task:
        body = build_system(recipe, system, tokenizer)
        if not resumed:
            if not body.reads_pictures:
                tell(f"{about['system']} reads no pictures: a control, {about['task']} from texts alone")
            if start is not None:
                if former := _task_of(start):
                    tell(f"{start} was fine-tuned for {former}: its system is trained on, its head is left for a new one")
                load_system(body, start)
            _copy_parts(body, options, tokenizer, tell)
        return build_task(recipe, task, body, tokenizer)

    if recipe.train.validate_every and "val" in (evaluate_on or {}):
        options.setdefault("probe", _validation(recipe, (evaluate_on or {})["val"], tokenizer))

    def score(model: Task) -> dict[str, Result]:
        readers = (evaluate_on or {}).items()
        few = recipe.train.score_on
        return {split: evaluate(model, recipe, reader, split, tokenizer, about=about, limit=few)[0] for split, reader in readers}

    return _run(recipe, begin, data, out, tokenizer, about, options, score)


def evaluate(
    task: Task,
    recipe: Recipe,
    reader: Reader,
    split: str,
    tokenizer: Tokenizer,
    *,
    about: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> tuple[Result, Evaluation]:
    """Score a task on a reader (its first `limit` samples), in the reader's order, in one process."""
    began = time.perf_counter()
    device = next(task.parameters()).device
    collate = Collate(tokenizer, recipe.text, recipe.data, training=False)
    draw, data = Draw(recipe.train.seed), recipe.data
    questions = InOrder(reader, collate, task.label, draw, data.image, EVALUATION_BATCH, limit, data.shuffled, task.reads_pictures)
    broken: list[Broken] = []

    def batches() -> Iterator[Batch]:
        for delivery in questions.loader(recipe.data.workers, device.type == "cuda"):
            broken.extend(delivery.broken)
            yield delivery.batch.to(device)

    was_training = task.training
    task.eval()
    with torch.no_grad(), autocast(device, choose_precision(recipe.train.precision, device)):
        evaluation = task.evaluate(batches())
    task.train(was_training)
    result = {
        **_named(recipe, about or {}),
        "split": split,
        **result_of(evaluation),
        "data_sha256": reader.fingerprint,
        "broken": [entry._asdict() for entry in broken],
        "seconds": time.perf_counter() - began,
    }
    if len(broken) > max(1, recipe.data.max_broken * len(reader)):
        share = f"{len(broken)} of {len(reader)} samples have unreadable pictures, above data.max_broken={recipe.data.max_broken:g}"
        raise UserError(f"{split}: {share}; the first is {broken[0].path or broken[0].key}: {broken[0].reason}")
    return result, evaluation


def result_of(evaluation: Evaluation) -> Result:
    """The part of a result that is of the items alone. One group of questions has nothing to be drawn from, and no interval."""
    groups = {item.get("group") or item["key"] for item in evaluation.items}
    bounds = intervals(evaluation.items) if len(groups) > 1 else {}
    return {
        "metrics": evaluation.metrics,
        "n": len(evaluation.items),
        "score": headline(evaluation.items)._asdict() if evaluation.items else None,
        "ci95": {name: [interval.low, interval.high] for name, interval in bounds.items()},
    }


def _validation(recipe: Recipe, reader: Reader, tokenizer: Tokenizer) -> Probe:
    """The task's metrics on the first samples of `val`, and the one score that all tasks have."""

    def probe(model: Trainable) -> dict[str, float]:
        assert isinstance(model, Task)
        result, _ = evaluate(model, recipe, reader, "val", tokenizer, limit=recipe.train.validate_on)
        return result["metrics"] | ({"score": result["score"]["value"]} if result["score"] else {})

    return probe


def build_system(recipe: Recipe, system: type[System], tokenizer: Tokenizer) -> System:
    """Initialised by the recipe's seed and nothing else."""
    torch.manual_seed(Draw(recipe.train.seed).seed_of("initialise/system", 0))
    return system(recipe.system, tokenizer)


def build_task(recipe: Recipe, task: type[Task], body: System, tokenizer: Tokenizer) -> Task:
    """The same head on whatever system, for arms that are compared."""
    torch.manual_seed(Draw(recipe.train.seed).seed_of("initialise/task", 0))
    return task(recipe.task, body, tokenizer)


# ------------------------------------------------------------------------------------------------ what they share


def _run(
    recipe: Recipe,
    begin: Callable[[Tell, bool], T],
    data: Sequence[Source],
    out: Path,
    tokenizer: Tokenizer,
    about: Mapping[str, Any],
    options: Options,
    score: Callable[[T], dict[str, Result]],
) -> Result:
    """Hold the directory, train from where it stands, score, finish."""
    device = choose_device(options.get("device"))
    draw = Draw(recipe.train.seed)
    mixture = Mixture(data, draw)  # complains of the data before the directory is touched
    asked = _asked(recipe, data, about)
    with ExitStack() as held:
        with dist.process_group(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            is_first = dist.is_first()
            trackers = options.get("trackers", ("tensorboard",))
            journal = Journal(out, recipe.train.steps, trackers, options.get("quiet", False), is_first)
            finished, saved = _claim(held, out, asked, options.get("resume", "auto"), journal.tell)
            if finished is not None:
                journal.tell(f"{out}: this run is finished")
                return finished
            samples = sum(len(source.reader) for source in data)
            told: list[str] = []
            if (times := recipe.train.batch_size // samples) >= 10:  # hardly on purpose, and it looks like hanging
                told.append(
                    f"train.batch_size={recipe.train.batch_size} of {samples} samples: each is drawn {times} times in every step"
                )
            model = begin(told.append, saved is not None).to(device)
            stream = Stream.training(model, recipe, mixture, tokenizer, draw, dist.rank(), dist.size())
            if saved is None:
                _try_one(stream)
            dist.on_first(lambda: directory.begin(out, asked, tokenizer, saved.step if saved else 0))
            page = options.get("profile") if is_first else None
            loop = Loop(
                model=model,
                stream=stream,
                train=recipe.train,
                directory=out,
                journal=journal,
                quarantine=Quarantine(out, recipe.data.max_broken, samples),
                device=device,
                precision=choose_precision(recipe.train.precision, device),
                workers=recipe.data.workers,
                probe=options.get("probe"),
                profile=Profile(model, out, page, journal.tell) if page else None,
            )
            options.get("announce", lambda recipe: None)(recipe)
            for line in told:
                journal.tell(line)
            if saved is not None:
                loop.resume(saved)
            with journal.open(loop.progress.step, asked):
                progress = loop.run()
        if not is_first:
            return {}
        result = {
            **_named(recipe, about),
            "split": "train",
            "metrics": last_losses(out / "metrics.jsonl"),
            "n": progress.step * recipe.train.batch_size,
            "ci95": {},
            "data_sha256": _sha256([source["sha256"] for source in asked["sources"]]),
            "skipped": progress.skipped,
        }
        scored = score(model)
        if scored:
            result |= {**next(iter(scored.values())), "splits": scored}
        result["seconds"] = progress.seconds
        with directory.complaints(f"{out}: trained to the end but cannot be written; make room, the same command finishes it"):
            weights = to_safetensors(checkpoint.weights_of(model))
            result["weights_sha256"] = hashlib.sha256(weights).hexdigest()
            if not (out / "config.json").exists():  # someone cleared the directory meanwhile
                directory.describe(out, asked, tokenizer)
            checkpoint.write_file(out / "model.safetensors", weights)
            checkpoint.write_file(out / "README.md", model_card(asked, result).encode())
            checkpoint.write_json(out / "result.json", result)
        return result


def _try_one(stream: Stream) -> None:
    """The first micro-step through all that the loader does, so that what does not suit is refused before anything is written."""
    tried = stream[0]
    refusals = dist.gather(tried.reason if isinstance(tried, Refusal) else None)
    if refusal := next(filter(None, refusals), None):
        raise UserError(refusal)


def _claim(
    held: ExitStack, out: Path, asked: Mapping[str, Any], resume: Literal["auto", "never"], tell: Tell
) -> tuple[Result | None, checkpoint.Checkpoint | None]:
    """On the first rank lock the directory and find what is there; every rank learns (result if finished, checkpoint)."""

    def claim() -> tuple[Result | None, checkpoint.Checkpoint | None]:
        held.enter_context(directory.locked(out, tell))
        return directory.claim(out, asked, resume, tell)

    finished, saved = dist.on_first(claim) or (None, None)
    told = dist.gather({"finished": finished, "path": str(saved.path) if saved else None})[0]
    if saved is None and told["path"] is not None:
        saved = checkpoint.load(Path(told["path"]))
    return told["finished"], saved


def _asked(recipe: Recipe, data: Sequence[Source], about: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: what decides the run, and by what names it was asked for."""
    sources = [
        {"name": source.name, "samples": len(source.reader), "weight": source.weight, "sha256": source.reader.fingerprint}
        | ({} if source.copies == 1 else {"weight": source.copies * len(source.reader)})
        for source in data
    ]
    asked = {"diptych": __version__, **about, "recipe": recipe.model_dump(mode="json"), "sources": sources}
    return json.loads(json.dumps(asked, default=str))  # as it will be read back: paths as text, tuples as lists


def _named(recipe: Recipe, about: Mapping[str, Any]) -> Result:
    """What a result is of."""
    decides = {".".join(path): value for path, value in flat(recipe.model_dump(mode="json")).items()}
    return {
        "task": about.get("task"),
        "system": about.get("system"),
        "preset": about.get("preset"),
        "from": about.get("from"),
        "seed": recipe.train.seed,
        "config_sha256": _sha256({key: value for key, value in decides.items() if key not in directory.FREE}),
        "version": __version__,
    }


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _module_name(part: type[System] | type[Task]) -> str:
    """The name a user gives: `vilt` for diptych.systems.vilt, the dotted name of a module outside."""
    package, _, module = part.__module__.rpartition(".")
    return module if package in ("diptych.systems", "diptych.tasks") else part.__module__


def _task_of(run: Path) -> str | None:
    """What a run was fine-tuned for, if it was, and says so."""
    about = run / "config.json"
    return json.loads(about.read_text(encoding="utf-8")).get("task") if about.exists() else None


def vocabulary_of(run: Path | None) -> str | None:
    file = run / "tokenizer.json" if run is not None else None
    return str(file) if file is not None and file.exists() else None


def _copy_parts(system: System, options: Options, tokenizer: Tokenizer, tell: Tell) -> None:
    for part, run in options.get("init", {}).items():
        copy_part(system, part, run, tokenizer, tell)
