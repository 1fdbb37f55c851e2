"""The contact sheet of a data set: what different readers know of a picture stands in one figure; a broken one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diptych.contracts import Box, Sample
from diptych.data import files
from diptych.report.samples import GAP, MOST, _side_by_side, samples_page


def test_readers_meet_at_the_picture(tmp_path: Path):
    files.example_pictures(tmp_path, ["a.jpg", "b.jpg"])
    a, b = tmp_path / "a.jpg", tmp_path / "b.jpg"
    told = {
        "captions": [Sample("a", (a,), ("a <red> dog",), boxes=(Box((1, 2, 3, 4), "dog"),))],
        "regions": [Sample("1", (a,), ("the dog sleeps",), boxes=(Box((1, 2, 3, 4), "dog"),)), Sample("2", (b,), ("a boat",))],
        "questions": [Sample("7", (a,), ("is it red?",), labels={"question_id": 7, "answer": "yes"})],
    }
    page = samples_page("mine", "train", told, n=5)
    figure = next(part for part in page.split("<figure>") if "the dog sleeps" in part)
    assert "a &lt;red&gt; dog" in figure and "is it red?" in figure and "yes" in figure
    assert figure.count("<rect") == 1, "the same box from two readers is drawn once"
    assert page.count("<figure>") == 2 and "2 drawn of 2" in page


def test_pictures_that_are_compared_stand_side_by_side(tmp_path: Path):
    files.example_pictures(tmp_path, ["a.jpg", "b.jpg"])
    pair = Sample("1", (tmp_path / "a.jpg", tmp_path / "b.jpg"), ("both are dogs",), labels={"question_id": 1, "label": False})
    page = samples_page("mine", "train", {"pairs": [pair]}, n=5)
    assert page.count("<figure>") == 1 and f'width="{48 + GAP + 48}"' in page
    assert "both are dogs" in page and "<dd>False</dd>" in page
    low, high = np.zeros((2, 3, 3), np.uint8), np.full((4, 2, 3), 7, np.uint8)
    joined = _side_by_side([low, high])
    assert joined.shape == (4, 3 + GAP + 2, 3)
    assert (joined[:2, :3] == 0).all() and (joined[2:, :3] == 255).all() and (joined[:, -2:] == 7).all()


def test_the_choice_is_the_seeds(tmp_path: Path):
    files.example_pictures(tmp_path, [f"{n}.jpg" for n in range(30)])
    told = {"mine": [Sample(str(n), (tmp_path / f"{n}.jpg",), (f"caption {n}",)) for n in range(30)]}
    pages = [samples_page("mine", "train", told, 4, seed) for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]
    assert pages[0].count("<figure>") == 4


def test_many_languages_are_named_english_first_and_not_all(tmp_path: Path):
    files.example_pictures(tmp_path, ["a.jpg"])
    told = {"wit": [Sample(code, (tmp_path / "a.jpg",), (f"in {code}",), language=code) for code in "abcdefghijkl"]}
    told["wit"].append(Sample("en", (tmp_path / "a.jpg",), ("a cat",)))
    page = samples_page("names", "train", told, 1)
    assert page.index("en: a cat") < page.index(": in ")
    assert page.count(": in ") == MOST - 1
    assert f"and {13 - MOST} more" in page


def test_a_broken_picture_is_named_and_left_out(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    page = samples_page("mine", "train", {"mine": [Sample("a", (tmp_path / "a.jpg",), ("a dog",))]}, 3)
    assert "a.jpg: not a picture" in page
    assert "<figure>" not in page
