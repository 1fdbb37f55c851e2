"""What is detected and written, scored: with a system that says what it is told, and from E2E-VLP's own heads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_every_system import TOKENIZER, Case, picture, sample

from diptych import find
from diptych.config import UserError
from diptych.contracts import Regions
from diptych.data.collate import Collate
from diptych.draw import Draw
from diptych.load import Model
from diptych.tasks.caption import CaptionTask
from diptych.tasks.coco_results import image_id
from diptych.tasks.detection import DetectionTask
from diptych.tasks.detection import finetuning as finetuning_detection


@pytest.fixture
def case() -> Case:
    return Case("e2e_vlp")


def batches(case: Case, *groups):
    """As evaluation makes them: every text a row, samples kept."""
    collate = Collate(TOKENIZER, case.recipe.text, case.recipe.data, training=False)
    return [collate([case.samples[i] for i in ids], [[picture(i)] for i in ids], list(ids), Draw(0)) for ids in groups]


def test_detection_by_hand(case, monkeypatch):
    """Two things a picture: one found, one found under another name; a third box on nothing is surest."""
    system = case.build().eval()
    names = system.region_classes

    def detect(batch):
        boxes, chances = [], []
        for i in range(len(batch.images.pixel_I3HW)):
            first, second = batch.regions.box_IR4[i, :2]
            owner = next(s for s, at in zip(batch.samples, batch.image_of_BN[:, 0].tolist(), strict=True) if at == i)
            wrong = next(name for name in names[1:] if name not in {box.name for box in owner.boxes})
            told = (owner.boxes[0].name, wrong, wrong)
            boxes.append(torch.stack([first, second, torch.tensor([0.9, 0.9, 1.0, 1.0])]))
            chance = torch.zeros(3, len(names))
            for r, (name, sure) in enumerate(zip(told, (0.6, 0.5, 0.9), strict=True)):
                chance[r, names.index(name)] = sure
            chances.append(chance)
        return Regions(torch.stack(boxes), torch.ones(len(boxes), 3, dtype=torch.bool), None, torch.stack(chances))

    monkeypatch.setattr(system, "detect", detect)
    task = DetectionTask(DetectionTask.Config(), system, TOKENIZER)
    whole = task.evaluate(batches(case, range(6)))
    parts = task.evaluate(batches(case, [0, 1], [2, 3, 4], [5]))
    assert whole == parts
    # the two surest of a picture's three boxes are the one on nothing and the one that is right
    assert whole.metrics["found"] == 50
    # of all boxes by score: six on nothing, six right, six right: precision at recall 1 is 12 / 18, and nowhere better before
    assert whole.metrics["AP50_any"] == pytest.approx(100 * 12 / 18)
    assert 0 < whole.metrics["AP50"] < 100 and whole.metrics["AP75"] == whole.metrics["AP50"] == pytest.approx(whole.metrics["AP"])
    assert [item["key"] for item in whole.items] == [f"sample-{i}" for i in range(6)]
    assert len(whole.predictions) == 18
    json.dumps([whole.metrics, whole.items, whole.predictions], allow_nan=False)
    assert task.evaluate([]).metrics == {}


def test_predictions_are_coco_s_results(case, monkeypatch):
    """Of a picture 48 wide and 64 high, with a class that the data set numbers and one that it does not."""
    system = case.build().eval()
    dog, cat = (system.region_classes.index(name) for name in ("dog", "cat"))

    def detect(batch):
        chance = torch.zeros(1, 2, len(system.region_classes))
        chance[0, 0, dog], chance[0, 1, cat] = 0.75, 0.5
        box_IR4 = torch.tensor([[[0.25, 0.5, 0.75, 0.625], [0.0, 0.0, 1.0, 1.0]]])
        return Regions(box_IR4, torch.ones(1, 2, dtype=torch.bool), None, chance)

    monkeypatch.setattr(system, "detect", detect)
    case.samples = {1: replace(sample(1), key="139", boxes=(), labels={"category_ids": {"dog": 18}})}
    (batch,) = batches(case, [1])
    found = DetectionTask(DetectionTask.Config(), system, TOKENIZER).evaluate([batch])
    assert found.predictions == [
        {"image_id": 139, "category_id": 18, "category": "dog", "bbox": [12.0, 32.0, 24.0, 8.0], "score": 0.75},
        {"image_id": 139, "category_id": None, "category": "cat", "bbox": [0.0, 0.0, 48.0, 64.0], "score": 0.5},
    ]
    case.samples[1] = replace(case.samples[1], images=(b"no picture",))
    assert DetectionTask(DetectionTask.Config(), system, TOKENIZER).evaluate(batches(case, [1])).predictions == []


@pytest.mark.parametrize(
    ("key", "number"), [("139", 139), ("0", 0), ("007", "007"), ("cats/1.jpg", "cats/1.jpg"), ("²", "²"), ("٣", "٣")]
)
def test_a_picture_s_number_is_written_as_one(key, number):
    assert image_id(key) == number


def test_a_class_that_training_never_met_counts_as_missed(case):
    system = case.build().eval()
    case.samples = [replace(sample(0), boxes=tuple(box._replace(name="zebra") for box in sample(0).boxes))]
    evaluation = DetectionTask(DetectionTask.Config(), system, TOKENIZER).evaluate(batches(case, [0]))
    assert evaluation.metrics["AP50"] == evaluation.metrics["found"] == 0


def test_captioning_by_hand(case, monkeypatch):
    system = case.build().eval()

    def decode(batch, most, beam):
        assert (most, beam) == (40, 5)
        of = {at: s for s, at in zip(batch.samples, batch.image_of_BN[:, 0].tolist(), strict=True)}
        said = [of[i].texts[1] if of[i].key != "139" else "there is a dog" for i in range(len(of))]
        return [TOKENIZER.encode(text, 40).ids[1:-1] for text in said]

    monkeypatch.setattr(system, "decode", decode)
    case.samples = [replace(case.samples[i], key="139") if i == 2 else case.samples[i] for i in range(6)]
    task = CaptionTask(CaptionTask.Config(), system, TOKENIZER)
    whole, parts = (task.evaluate(batches(case, *groups)) for groups in ([range(6)], [[0, 1], [2, 3, 4], [5]]))
    assert whole == parts
    assert whole.metrics["exact"] == pytest.approx(100 * 5 / 6)
    assert whole.metrics["CIDEr"] == pytest.approx(100 * sum(10 * item["scores"]["cider/10"] for item in whole.items) / 6)
    assert 0 < whole.metrics["BLEU-4"] < 100
    assert whole.predictions[2] == {"image_id": 139, "caption": "there is a dog"}
    assert whole.predictions[3]["image_id"] == "sample-3"
    json.dumps([whole.metrics, whole.items, whole.predictions], allow_nan=False)
    assert task.evaluate([]).metrics == {}
    # a picture that another sample shows too: asked once, with the texts of both, however batches are cut
    case.samples[5] = replace(case.samples[5], key="140", images=case.samples[2].images, texts=("there is a dog", "a dog"))
    whole, parts = (task.evaluate(batches(case, *groups)) for groups in ([range(6)], [[0, 1], [2, 3, 4], [5]]))
    assert (
        [item["key"] for item in whole.items]
        == [item["key"] for item in parts.items]
        == [f"sample-{i}" for i in (0, 1)] + ["139", "sample-3", "sample-4"]
    )
    assert parts.items[2]["scores"]["exact"] == 1


@pytest.mark.parametrize("kind", [CaptionTask, DetectionTask])
def test_fine_tuning_is_the_system_s_own_loss_of_it(case, kind):
    system = case.build().eval()
    task = kind(kind.Config(), system, TOKENIZER)
    clean = replace(batches(case, range(6))[0], counts={})
    batch = task.corrupt(task.label(clean), Draw(3))
    terms, whole = task(batch), system(case.batch(system))
    assert {name: term.count for name, term in terms.items()} == batch.counts
    for name, term in terms.items():
        torch.testing.assert_close(term.sum, whole[name].sum)
    evaluation = task.eval().evaluate([clean])
    assert len(evaluation.items) == 6 and all(0 <= item["score"] <= 1 for item in evaluation.items)


def test_a_model_says_what_it_sees(case):
    model = Model(case.build().eval(), TOKENIZER, case.recipe, {"system": "e2e_vlp"}, Path("none"))
    (ids,) = model.system.decode(model._rows(picture(0), [""], labelled=False), 6, 2)
    assert model.caption(picture(0), beam=2, most=6) == TOKENIZER.decode(ids)
    things = model.detect(picture(0), top=3)
    assert len(things) == 3 and things == sorted(things, key=lambda thing: -thing.probability)
    assert all(thing.name in model.system.region_classes[1:] and len(thing.box) == 4 for thing in things)
    other = Model(Case("vit").build(), TOKENIZER, Case("vit").recipe, {"system": "vit"}, Path("none"))
    for verb in (other.caption, other.detect):
        with pytest.raises(UserError, match="a pre-trained vit cannot"):
            verb(picture(0))


def test_systems_that_cannot_are_refused_and_named():
    with pytest.raises(UserError, match=r"detection needs a system that can find things in pictures; vilt does not, .*e2e_vlp"):
        find.suits("detection", "vilt")
    with pytest.raises(UserError, match=r"caption needs a system that can write; vilt does not, these do: e2e_vlp"):
        find.suits("caption", "vilt")
    task = DetectionTask(finetuning_detection(Case("detector").recipe).task, Case("detector").build(), TOKENIZER)
    with pytest.raises(UserError, match="learns to detect by pre-training"):
        task(None)


def test_detection_is_not_trained_without_boxes(case):
    config = DetectionTask.Config()
    bare = [replace(case.samples[i], boxes=()) for i in range(6)]
    with pytest.raises(UserError, match=r"^detection learns from boxes, and the training data have none$"):
        DetectionTask.prepare(config, [bare], TOKENIZER)
    assert DetectionTask.prepare(config, [bare, [*bare, case.samples[0]]], TOKENIZER) == config
