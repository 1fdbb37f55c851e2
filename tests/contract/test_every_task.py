"""What every task keeps, found by looking: each module of diptych/tasks that reads fused rows, on each system that gives them (or
reads texts, where the task can do with those), with a few of the embedded scenes; a task whose Config offers a choice (`Literal`)
is tried with each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from test_every_system import THINGS, detected

from diptych import find
from diptych.atelier import make
from diptych.contracts import Batch, Detected, Images, Sample, System, Task
from diptych.data.collate import Collate
from diptych.data.picture import decode_sample
from diptych.draw import Draw
from diptych.text import tokenizer as vocabulary

TUNED = [name for name in find.catalogue("tasks") if hasattr(find.task(name), "finetuning")]
TASKS = [name for name in TUNED if "fuse" in find.task_class(name).reads]
SYSTEMS = find.catalogue("systems")
CONTROLLED = ("vilt", "uniter")  # what is withheld is so before a system sees it: one that looks at pixels, one at regions


def variants(name: str) -> list[str]:
    """The task as it comes, and with each other choice that its Config offers: `vqa`, `vqa+head=cloze`."""
    fields = find.task_class(name).Config.model_fields.items()
    choices = [
        (key, value, field)
        for key, field in fields
        if get_origin(field.annotation) is Literal
        for value in get_args(field.annotation)
    ]
    return [name, *(f"{name}+{key}={value}" for key, value, field in choices if value != field.default)]


def goes_with(name: str, spec: str) -> bool:
    """Towers that a task reads are asked elsewhere, by another loss; a cloze needs a head for words."""
    system, reads = find.system_class(name), find.task_class(spec.partition("+")[0]).reads
    fuses = any(getattr(system, offer) is not getattr(System, offer) for offer in ("fuse", "read") if offer in reads)
    compares = "towers" in reads and system.towers is not System.towers
    is_silent = spec.endswith("cloze") and system.words is System.words
    return fuses and not compares and not is_silent and ("+withhold=" not in spec or name in CONTROLLED)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data in little: files for every task."""
    root = tmp_path_factory.mktemp("scenes")
    make.make(root / "scenes", small=True, scenes=120)
    return root / "scenes"


class SeenSamples(list):
    """Samples with the names of what a detector saw in them."""

    region_classes = ("background", *THINGS)


def seen(sample: Sample, i: int) -> tuple[Detected, ...]:
    return tuple(detected(i + n) for n, _ in enumerate(sample.images))


def found_things(sample: Sample, i: int) -> tuple[Detected, ...]:
    """What a detector sees that finds every annotated thing of a scene, for tasks that choose among its boxes."""
    box_R4 = np.array([box.xyxy for box in sample.boxes], np.float32) / 128
    one = detected(i)
    return (Detected(box_R4, *(np.resize(part, (len(box_R4), part.shape[1])) for part in one[1:])),)


class Case:
    def __init__(self, system: str, spec: str, scenes: Path):
        self.name, _, setting = spec.partition("+")
        self.cls = find.task_class(self.name)
        self.found = find.system(f"{system}:tiny")
        recipe = find.finetuning(self.name, system, self.found.recipe)
        self.tokenizer = vocabulary.load(recipe.text.vocab)
        reader = find.readers([str(scenes)], "train", self.cls.purpose)[0].reader
        self.samples = [reader[i] for i in range(6)]
        self.setting = setting
        key, _, value = setting.partition("=")
        short = {"max_tokens": 36} if "max_tokens" in self.cls.Config.model_fields else {}  # with room for padding behind it
        task = self.cls.Config.model_validate({**recipe.task.model_dump(), **short, **({key: value} if key else {})})
        if self.found.cls.reads_regions or self.cls.reads_regions(task):
            found = found_things if self.cls.reads_regions(task) else seen
            first = {one.images: i for i, one in reversed(list(enumerate(self.samples)))}  # one picture is seen in one way
            self.samples = SeenSamples(replace(one, regions=found(one, first[one.images])) for one in self.samples)
        self.ids = range(len(self.samples))
        prepared = self.found.cls.prepare(recipe.system, [self.samples], self.tokenizer)
        self.recipe = recipe.model_copy(update={"system": prepared, "task": self.cls.prepare(task, [self.samples], self.tokenizer)})

    def build(self, seed: int = 0) -> Task:
        torch.manual_seed(seed)
        system = self.found.cls(self.recipe.system, self.tokenizer)
        return self.cls(self.recipe.task, system, self.tokenizer)

    def batch(self, task: Task, ids=None, training: bool = True, own=None) -> Batch:
        """As the loader makes it; the negatives of a sample are those that follow it."""
        ids, own = list(self.ids if ids is None else ids), own or self.samples
        if not task.reads_pictures:
            own = [replace(sample, images=()) for sample in own]
        pictures = [decode_sample(own[i], self.recipe.data.image) for i in ids]
        others = [[own[(i + 1 + n) % len(own)] for n in range(task.negatives)] for i in ids] if training else None
        collate = Collate(self.tokenizer, self.recipe.text, self.recipe.data, training)
        batch = task.label(collate([own[i] for i in ids], pictures, ids, Draw(3), others))
        return replace(task.corrupt(batch, Draw(3)), samples=(), phrases=(), others=()) if training else batch


@pytest.fixture(
    scope="module",
    params=[(name, spec) for name in SYSTEMS for task in TASKS for spec in variants(task) if goes_with(name, spec)],
    ids="-".join,
)
def case(request, scenes: Path) -> Case:
    return Case(*request.param, scenes)


def test_counts_are_as_announced_and_one_batch_can_be_learnt(case):
    task = case.build()
    batch = case.batch(task, ids=(case.ids[0], case.ids[-1]))  # neighbours may differ in what a control withholds, and no more
    terms = task(batch)
    assert {name: term.count for name, term in terms.items()} == batch.counts
    assert all(term.count > 0 and term.sum.isfinite() and term.sum.ndim == 0 for term in terms.values())
    torch.stack([term.sum for term in terms.values()]).sum().backward()
    for name, parameter in task.named_parameters():
        if not name.startswith("system."):
            is_withheld = "withhold=picture" in case.setting and name == "reference.weight"  # nothing lies in any box
            assert is_withheld or parameter.grad.abs().sum() > 0, name
    reached = {name.split(".")[1] for name, p in task.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {"image", "text", "fusion"} if task.reads_pictures else {"text", "fusion"}
    assert wanted | set(task.system.made_in_finetuning) <= reached, "the whole of the fused system learns from the task"
    groups = task.param_groups()
    assert sorted(id(p) for g in groups for p in g.params) == sorted(id(p) for p in task.parameters())
    optimizer = torch.optim.AdamW([{"params": g.params, "lr": 1e-3 * g.lr_factor} for g in groups])
    losses = []
    while len(losses) < 100 and not (losses and losses[-1] < 0.7 * losses[0]):
        optimizer.zero_grad()
        loss = torch.stack([term.weight * term.sum / term.count for term in task(batch).values()]).sum()
        loss.backward()
        optimizer.step()
        task.after_step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses[::20]


def test_where_nothing_is_asked_the_loss_is_zero_and_still_has_a_gradient(case):
    """Samples without labels that all have one text: no answer is known, and no text is another's."""
    task = case.build()
    silent = [replace(sample, labels={}, texts=("a red dog",), false_texts=(), phrases=()) for sample in case.samples]
    batch = case.batch(task, own=silent)
    assert set(batch.counts.values()) == {0}
    for term in task(batch).values():
        assert term.sum.item() == term.count == 0
        assert all(float(total) == count == 0 for total, count in term.metrics.values())
        term.sum.backward(retain_graph=True)
    assert not any(p.grad.any() for p in task.parameters() if p.grad is not None)


def test_two_halves_are_the_whole(case):
    task = case.build().eval()
    whole = case.batch(task)
    halves = [case.batch(task, ids) for ids in (case.ids[::2], case.ids[1::2])]
    with torch.no_grad():
        expected, *found = (task(batch) for batch in (whole, *halves))
    for name, term in expected.items():
        torch.testing.assert_close(found[0][name].sum + found[1][name].sum, term.sum, atol=1e-4, rtol=1e-4)
        assert found[0][name].count + found[1][name].count == term.count


def test_padding_of_texts_and_pictures_changes_nothing(case):
    task = case.build().eval()
    batch = case.batch(task)
    images = batch.images
    grown = {"text_BT": case.tokenizer.pad_id, "text_mask_BT": False, "segment_BT": 0, "word_BT": -1}
    padded = replace(
        batch,
        **{name: torch.nn.functional.pad(getattr(batch, name), (0, 4), value=value) for name, value in grown.items()},
        images=images
        and Images(
            torch.nn.functional.pad(images.pixel_I3HW, (0, 32, 0, 16), value=255),
            torch.nn.functional.pad(images.mask_IHW, (0, 32, 0, 16), value=False),
        ),
    )
    with torch.no_grad():
        expected, found = task(batch), task(padded)
    for name, term in expected.items():
        torch.testing.assert_close(found[name].sum, term.sum, atol=1e-4, rtol=1e-4)


def test_configuration_and_weights_make_the_same_task_again(case):
    task = case.build().eval()
    batch = case.batch(task)
    saved = json.loads(case.recipe.model_dump_json())
    recipe = find.recipe(saved, case.found.name, case.name)
    assert recipe == case.recipe
    torch.manual_seed(99)
    again = case.cls(recipe.task, case.found.cls(recipe.system, case.tokenizer), case.tokenizer).eval()
    again.load_state_dict(task.state_dict())
    with torch.no_grad():
        for name, term in task(batch).items():
            assert torch.equal(again(batch)[name].sum, term.sum)


def test_every_question_is_predicted_and_scored_whatever_the_batches(case):
    task = case.build().eval()
    whole = task.evaluate([case.batch(task, training=False)])
    parts = task.evaluate([case.batch(task, [i], training=False) for i in case.ids])
    assert whole.metrics == pytest.approx(parts.metrics)
    assert whole.metrics and all(0 <= value <= 600 for value in whole.metrics.values()), "percent, and sums of six"
    assert [item["key"] for item in whole.items] == [item["key"] for item in parts.items]
    assert len({item["key"] for item in whole.items}) == len(whole.items) > 0
    for item in whole.items:
        assert 0 <= item["score"] <= 1
        assert {"key", "group", "score", "type"} <= item.keys()
    assert len(whole.predictions) == len(parts.predictions) >= len(case.samples)
    json.dumps([whole.metrics, whole.items, whole.predictions], allow_nan=False)
    assert all(parameter.grad is None for parameter in task.parameters())
    empty = task.evaluate([])
    assert (empty.items, empty.predictions) == ([], [])
