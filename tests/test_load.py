"""A finished run can be loaded, asked, saved and loaded again; what it cannot do, it says, and what would give it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych import find
from diptych.checkpoint import weights_of
from diptych.config import Recipe, UserError
from diptych.data import coco_captions, nlvr2, snli_ve, vqa_v2
from diptych.data.mixture import Source
from diptych.train import run


def brief(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 2, "batch_size": 4, "precision": "fp32"})})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/base, a pre-trained ViLT, and runs/vqa, the same fine-tuned."""
    place = tmp_path_factory.mktemp("place")
    coco_captions.example(place / "coco")
    vqa_v2.example(place / "vqa")
    found = find.system("vilt:tiny")
    pairs = [Source("coco", coco_captions.COCOCaptions.open(place / "coco", "val"))]
    questions = [Source("vqa", vqa_v2.VQAv2.open(place / "vqa", "val"))]
    run.pretrain(brief(found.recipe), found.cls, pairs, place / "base", quiet=True, trackers=())
    recipe = brief(find.task("vqa").finetuning(found.recipe))
    run.finetune(
        recipe, found.cls, find.task_class("vqa"), questions, place / "tuned", start=place / "base", quiet=True, trackers=()
    )
    return place


def picture(place: Path) -> Path:
    return next((place / "coco" / "val2014").iterdir())


def test_what_is_saved_is_what_was_loaded(place: Path, tmp_path: Path):
    model = diptych.load(place / "tuned")
    copy = diptych.load(model.save_pretrained(tmp_path / "copy"))
    assert {path.name for path in (tmp_path / "copy").iterdir()} == set(find.EXCHANGED)
    assert copy.recipe == model.recipe
    ours, theirs = weights_of(model.module), weights_of(copy.module)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert copy.answer(picture(place), "is the dog left?") == model.answer(picture(place), "is the dog left?")


def test_a_picture_may_come_as_path_bytes_array_or_image(place: Path):
    model = diptych.load(place / "base")
    path = picture(place)
    image = Image.open(path)
    as_png = io.BytesIO()
    image.save(as_png, "PNG")
    (expected,) = model.match(path, "a red dog")
    assert 0 < expected < 1
    for same in (str(path), as_png.getvalue(), np.asarray(image), image):
        assert model.match(same, "a red dog") == pytest.approx([expected], abs=1e-4)


def test_texts_beside_one_picture_are_judged_one_by_one(place: Path):
    model = diptych.load(place / "base")
    texts = ["a red dog", "a very long statement about a dog that is red", "no"]
    together = model.match(picture(place), texts)
    assert together == pytest.approx([model.match(picture(place), text)[0] for text in texts], abs=1e-3)


def test_verbs_of_a_pretrained_system(place: Path):
    model = diptych.load(place / "base")
    (words,) = model.fill(picture(place), "a red [MASK]", top=3)
    assert len(words) == 3
    assert words[0].probability >= words[1].probability
    assert model.ask(picture(place), "a red [MASK]").guesses[:3] == words
    reply = model.ask(picture(place), "a red dog")
    assert reply.verb == "match"
    assert sum(guess.probability for guess in reply.guesses) == pytest.approx(1)
    assert reply.guesses[0].probability >= reply.guesses[1].probability, "best first"
    with pytest.raises(UserError, match=r"cannot answer; `diptych finetune vqa --from .*base` gives a model that can"):
        model.answer(picture(place), "is it red?")
    with pytest.raises(UserError, match=r"no \[MASK\] in it"):
        model.fill(picture(place), "a red dog")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a [mask] dog", r"'a \[mask\] dog': write a hidden word as \[MASK\], not \[mask\]$"),
        ("a [MASK] dog, a [Mask ] cat", r"not \[Mask \]$"),
        ("a [MASK dog", r"not \[MASK$"),
        ("  ", "an empty text asks nothing"),
        (" | ", "an empty text asks nothing"),
        ("a dog | " + "red " * 50, r"'red red .*\.\.\.': 52 tokens, and this run reads 40 \(text.max_tokens\)"),
        ("a dog " * 20 + "[MASK]", "43 tokens, and this run reads 40"),
    ],
)
def test_a_text_that_would_be_taken_for_another_is_refused(place: Path, text: str, said: str):
    with pytest.raises(UserError, match=said):
        diptych.load(place / "base").ask(picture(place), text)


def test_brackets_and_length_within_bounds_are_no_mistake(place: Path):
    model = diptych.load(place / "base")
    assert model.ask(picture(place), "[masked] men | [a] " + "red " * 33).verb == "choose"
    assert model.ask(picture(place), "a [MASK] dog | a cat").verb == "fill"


@pytest.fixture(scope="module")
def judges(place: Path) -> Path:
    """ve and nlvr2 beside the others, from the same start."""
    snli_ve.example(place / "snli_ve")
    nlvr2.example(place / "pairs")
    found = find.system("vilt:tiny")
    for name, reader in (
        ("ve", snli_ve.SNLIVE.open(place / "snli_ve", "val")),
        ("nlvr2", nlvr2.NLVR2.open(place / "pairs", "val")),
    ):
        recipe = brief(find.task(name).finetuning(found.recipe))
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"freeze": ("system.",), "steps": 1})})
        options = {"start": place / "base", "quiet": True, "trackers": ()}
        run.finetune(recipe, found.cls, find.task_class(name), [Source(name, reader)], place / name, **options)
    return place


def test_entailment_and_two_pictures(judges: Path):
    pair = (picture(judges), next((judges / "pairs" / "dev").glob("*-img1.png")))
    entails, compares = diptych.load(judges / "ve"), diptych.load(judges / "nlvr2")
    guesses = entails.entails(pair[0], "a red dog")
    assert {guess.text for guess in guesses} == {"entailment", "neutral", "contradiction"}
    truths = compares.compare_images(*pair, "a red dog")
    assert {guess.text for guess in truths} == {"True", "False"}
    for told in (guesses, truths):
        assert sum(guess.probability for guess in told) == pytest.approx(1, abs=1e-5)
        assert told == sorted(told, key=lambda guess: -guess.probability)
    assert (reply := entails.ask(pair[0], "a red dog")).verb == "entails"
    assert reply.guesses == guesses
    with pytest.raises(UserError, match=r"cannot compare pictures; `diptych finetune nlvr2 --from .*ve` gives a model that can"):
        entails.compare_images(*pair, "a red dog")
    with pytest.raises(UserError, match=r"cannot say what a picture entails; `diptych finetune ve --from .*base` gives"):
        diptych.load(judges / "base").entails(pair[0], "a red dog")
    for text in ("a red dog", "a red dog | a cat", "a red [MASK]"):
        with pytest.raises(
            UserError, match=r'compares two pictures: diptych.load\(".*nlvr2"\).compare_images\(left, right, text\)$'
        ):
            compares.ask(pair[0], text)
    with pytest.raises(UserError, match=r"none\.jpg: no such picture"):
        compares.compare_images(pair[0], "none.jpg", "a red dog")


def test_a_hinge_for_two_pictures_starts_from_one_for_one(judges: Path):
    before, after = (weights_of(diptych.load(judges / name).system) for name in ("base", "nlvr2"))
    types = "fusion.modality.weight"
    assert torch.equal(after[types], before[types][[0, 1, 1]]), "the second picture's begins as the first's"
    assert all(torch.equal(after[name], before[name]) for name in before if name != types)


def test_where_it_looked_covers_the_picture(place: Path):
    reply = diptych.load(place / "tuned").ask(picture(place), "is the dog left?")
    assert reply.verb == "answer"
    weight_V, box_V4 = reply.look
    assert len(weight_V) == len(box_V4) > 1
    assert (weight_V > 0).all()
    area_V = (box_V4[:, 2] - box_V4[:, 0]) * (box_V4[:, 3] - box_V4[:, 1])
    assert area_V.sum() == pytest.approx(1)  # each place once, and the whole-image token is none
    assert reply.picture.shape == (32, 48, 3)


def test_mistakes(place: Path, tmp_path: Path):
    model = diptych.load(place / "tuned")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"none\.jpg: no such picture"):
        model.answer(tmp_path / "none.jpg", "is it red?")
    with pytest.raises(UserError, match=r"broken\.jpg: cannot be read as a picture"):
        model.answer(tmp_path / "broken.jpg", "is it red?")
    with pytest.raises(UserError, match=r"no config\.json in it"):
        diptych.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not written by Diptych"):
        diptych.load(tmp_path)
    (tmp_path / "config.json").write_bytes((place / "base" / "config.json").read_bytes())
    with pytest.raises(UserError, match="the run is not finished"):
        diptych.load(tmp_path)
    with pytest.raises(AttributeError):
        diptych.laod  # noqa: B018  # pyright: ignore
