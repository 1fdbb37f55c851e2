"""Referring expressions: boxes scored one by one, targets by counting, places of a bare picture, and the score by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych import find
from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Detected, Sample
from diptych.data import rec_jsonl, refcoco
from diptych.data.collate import Collate
from diptych.data.picture import decode_sample
from diptych.data.rec_jsonl import RECJsonl
from diptych.data.refcoco import RefCOCO
from diptych.draw import Draw
from diptych.load import Model
from diptych.nn.box import iou
from diptych.tasks.rec import REC, BoxScore, Found, finetuning, windows
from diptych.text import tokenizer as vocabulary

FOUND = find.system("vilt:tiny")
RECIPE = finetuning(FOUND.recipe)
TOKENIZER = vocabulary.load("atelier")


def task(**settings) -> REC:
    torch.manual_seed(0)
    return REC(RECIPE.task.model_copy(update=settings), FOUND.cls(RECIPE.system, TOKENIZER), TOKENIZER).eval()


def batch_of(samples: list[Sample], *index: int) -> Batch:
    ids = list(index or range(len(samples)))
    collate = Collate(TOKENIZER, RECIPE.text, RECIPE.data, training=False)
    pictures = [decode_sample(samples[i], RECIPE.data.image) for i in ids]
    return collate([samples[i] for i in ids], pictures, ids, Draw(0))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Four things, two phrases each; two pictures of two boxes: (4, 6, 24, 16) and (26, 6, 44, 26) of 48 x 32."""
    refcoco.example(tmp_path)
    reader = RefCOCO.open(tmp_path, "val")
    return [reader[i] for i in range(len(reader))]


def test_a_box_is_the_mean_of_what_lies_under_it():
    torch.manual_seed(1)
    width, tokens = 8, 6
    head = BoxScore(width)
    x_VD, t_D, covers_V4 = torch.randn(tokens, width), torch.randn(width), torch.rand(tokens, 2, 2).sort(1).values.flatten(1)
    mask_V, box_R4 = torch.arange(tokens) < 5, torch.tensor([[0, 0, 1, 1], [0.2, 0.1, 0.6, 0.8], [0.5, 0.5, 0.5, 0.5]])
    found_R = head(x_VD[None], mask_V[None], covers_V4[None], t_D[None], box_R4[None])[0]
    for box, found in zip(box_R4.tolist(), found_R, strict=True):
        hidden, total = torch.zeros(2 * width), 0.0
        for x_D, is_real, (x1, y1, x2, y2) in zip(x_VD, mask_V.tolist(), covers_V4.tolist(), strict=True):
            common = max(0.0, min(x2, box[2]) - max(x1, box[0])) * max(0.0, min(y2, box[3]) - max(y1, box[1]))
            share = is_real * common / ((x2 - x1) * (y2 - y1))
            hidden, total = hidden + share * (head.token(x_D) + head.both(x_D * t_D)), total + share
        hidden = hidden / max(total, 1e-30) + head.text(t_D) + head.place(torch.tensor(box))
        torch.testing.assert_close(found, head.down(torch.nn.functional.gelu(head.norm(hidden)))[0])


def test_windows_are_everywhere():
    box_R4 = windows(RECIPE.task.sizes, RECIPE.task.shapes)
    assert (box_R4 >= 0).all() and (box_R4 <= 1 + 1e-6).all() and len(box_R4.unique(dim=0)) == len(box_R4)
    generator = torch.Generator().manual_seed(0)
    side, shape = 0.17 + 0.6 * torch.rand(4000, generator=generator), 0.5 + 1.5 * torch.rand(4000, generator=generator)
    size = torch.stack([side * shape.sqrt(), side / shape.sqrt()], 1).clamp(max=1)
    low = torch.rand(4000, 2, generator=generator) * (1 - size)
    reached = iou(torch.cat([low, low + size], 1), box_R4).max(1).values > 0.5
    assert reached.float().mean() > 0.99


def test_what_is_meant(samples):
    """The thing itself; or in equal parts what overlaps it by more than half."""
    asked = [samples[1], replace(samples[2], labels={}), samples[3]]
    given = task().label(batch_of(asked))
    assert given.labels["rec"].tolist() == [[0, 1], [0, 1], [IGNORE] * 2, [IGNORE] * 2, [0, 1], [0, 1]]
    assert given.counts == {"rec": 4}
    tiled = task(candidates="windows").label(batch_of(asked))
    box = torch.tensor([26 / 48, 6 / 32, 44 / 48, 26 / 32])
    near_R = torch.tensor([float(iou(box[None], one[None])) for one in windows(RECIPE.task.sizes, RECIPE.task.shapes)]) > 0.5
    assert 1 < near_R.sum() < 40
    torch.testing.assert_close(tiled.labels["rec"][0], near_R / near_R.sum())
    flat = replace(samples[1], boxes=(samples[1].boxes[0], samples[1].boxes[1]._replace(xyxy=(26, 6, 26, 26))))
    assert task().label(batch_of([flat])).counts == {"rec": 0}, "a box without area"


def detected(*boxes: tuple[float, float, float, float]) -> Detected:
    box_R4 = np.array(boxes, np.float32).reshape(-1, 4) / np.array([48, 32, 48, 32], np.float32)
    return Detected(box_R4, np.zeros((len(boxes), 4), np.float16), np.zeros((len(boxes), 2), np.float16))


def told(judged: REC, monkeypatch, logits) -> None:
    def scores(batch, found):
        width = found.box_BR4.shape[1]
        table = torch.tensor([list(logits(text))[:width] + [0.0] * (width - len(logits(text))) for text in texts(batch)])
        return table.masked_fill(~found.mask_BR, -1e4)

    def texts(batch):
        return [TOKENIZER.decode([i for i in ids if i > 4]) for ids in batch.text_BT.tolist()]

    monkeypatch.setattr(judged, "scores", scores)


def test_scores_of_given_boxes(samples, monkeypatch):
    """A system that knows left from right and takes "the dog" for the first."""
    judged = task()
    told(judged, monkeypatch, lambda text: [0.0, 1.0] if "right" in text else [1.0, 0.0])
    whole = judged.evaluate([judged.label(batch_of(samples))])
    parts = judged.evaluate([judged.label(batch_of(samples, i)) for i in range(4)])
    assert whole == parts
    assert whole.metrics == {"accuracy": 75, "reachable": 100}
    assert [item["score"] for item in whole.items] == [1, 1, 1, 0, 1, 1, 1, 0]
    assert len({item["key"] for item in whole.items}) == 8
    assert whole.predictions[2] == {"ref_id": 1, "sent_id": 2, "bbox": [26, 6, 18, 20]}, "pixels of the stored picture"
    json.dumps([whole.items, whole.predictions], allow_nan=False)
    assert judged.evaluate([]).metrics == {}


def test_scores_of_detected_boxes(samples, monkeypatch):
    """A picture with two copies of a box that is right for one phrase, a miss for the other; one in which nothing was seen."""
    judged = task(candidates="detected")
    told(judged, monkeypatch, lambda text: [1.0, 1.0, 0.0])
    twice, nothing = detected((4, 6, 24, 16), (4, 6, 24, 16), (26, 6, 44, 15.9)), detected()
    asked = [
        replace(sample, texts=sample.texts[:1], regions=(own,))
        for sample, own in zip(samples, (twice, twice, nothing, nothing), strict=True)
    ]
    batch = judged.label(batch_of(asked))
    assert batch.labels["rec"].tolist() == [[0.5, 0.5, 0], *[[IGNORE] * 3] * 3]
    other = judged.label(batch_of([replace(asked[3], regions=(detected((26, 6, 44, 26)),))]))
    evaluation = judged.evaluate([batch, other])
    assert [item["score"] for item in evaluation.items] == [1, 0, 0, 0, 1]
    assert evaluation.metrics == {"accuracy": 40, "reachable": 40}
    assert evaluation.predictions[2]["bbox"] == [0, 0, 0, 0]
    with pytest.raises(UserError, match="--regions STORE"):
        judged.label(batch_of(samples))
    with pytest.raises(ValueError, match="withhold=picture"):
        REC.Config(candidates="detected", withhold="picture")


def test_a_bare_picture_is_searched(samples):
    module = task()
    model = Model(module, TOKENIZER, RECIPE, {"system": "vilt", "task": "rec"}, Path("none"))
    picture = samples[0].images[0]
    places = model.ground(picture, "the dog on the left", top=4)
    assert len(places) == 4 and places == sorted(places, key=lambda place: -place.probability)
    box_R4 = torch.tensor([place.box for place in places])
    assert (iou(box_R4, box_R4) - torch.eye(4)).max() <= 0.5, "four places, not one four times"
    assert 0 < sum(place.probability for place in places) <= 1 + 1e-5
    every = [Found(box, 0.25) for box in ([0, 0, 1, 1], [0, 0, 1, 0.9], [0.5, 0.5, 0.6, 0.6], [0, 0, 0.1, 0.1])]
    assert [place.probability for place in module._places(every, 5)] == [0.5, 0.25, 0.25]
    reply = model.ask(picture, "the dog on the left")
    assert reply.verb == "ground" and len(reply.boxes) == len(reply.guesses) > 0
    other = Model(FOUND.cls(RECIPE.system, TOKENIZER), TOKENIZER, FOUND.recipe, {"system": "vilt"}, Path("none"))
    with pytest.raises(UserError, match="finetune rec"):
        other.ground(picture, "the dog")


def test_a_bare_picture_that_a_detector_saw_is_pointed_at_there(samples):
    seen = detected((26, 6, 44, 26), (0, 0, 8, 8))
    bare = replace(samples[0], texts=samples[0].texts[:1], boxes=(), regions=(seen,))
    (places,) = task().ground(batch_of([bare]))
    assert len(places) == 2 and sum(place.probability for place in places) == pytest.approx(1)
    (elsewhere,) = task().ground(batch_of([replace(bare, regions=())]))
    assert len(elsewhere) == 5


def test_a_phrase_without_a_box_is_predicted_in_pixels(samples):
    """Whether the batch's other pictures have boxes or not."""
    bare = replace(samples[0], key="bare", boxes=(), labels={}, texts=samples[0].texts[:1])
    judged = task()
    with_others = judged.evaluate([judged.label(batch_of([samples[1], bare]))]).predictions[-1]
    alone = judged.evaluate([judged.label(batch_of([bare]))]).predictions[0]
    place = judged.ground(batch_of([bare]), 1)[0][0].box
    x1, y1, x2, y2 = (np.array(place) * [48, 32, 48, 32]).tolist()
    assert with_others["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.02)
    assert alone["bbox"] == pytest.approx(with_others["bbox"], abs=0.02)


def test_one_box_a_picture_leaves_nothing_to_choose(tmp_path):
    rec_jsonl.example(tmp_path)
    reader = RECJsonl.open(tmp_path, "all")
    samples = [reader[i] for i in range(4)]
    assert REC.prepare(RECIPE.task, [samples], TOKENIZER) == RECIPE.task
    alone = [replace(s, boxes=(s.boxes[s.labels["right"]],), labels={**s.labels, "right": 0}) for s in samples]
    with pytest.raises(UserError, match=r"task\.candidates=windows"):
        REC.prepare(RECIPE.task, [alone], TOKENIZER)
    silent = [replace(s, labels={}) for s in samples]
    with pytest.raises(UserError, match="phrases whose box is known"):
        REC.prepare(RECIPE.task, [silent], TOKENIZER)
    assert REC.prepare(RECIPE.task, [[*silent * 30, *alone, *samples]], TOKENIZER) == RECIPE.task, "the first may have none"
    tiled = RECIPE.task.model_copy(update={"candidates": "windows"})
    assert REC.prepare(tiled, [alone], TOKENIZER) == tiled
    judged = task(candidates="windows")
    batch = judged.label(batch_of(alone))
    assert batch.counts == {"rec": 4} and judged(batch)["rec"].sum.isfinite()
