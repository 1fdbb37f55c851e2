"""What is made is frozen, does not depend on how it is made, and keeps its splits apart."""

import hashlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.atelier import make
from diptych.atelier.artwork import load
from diptych.atelier.compose import Scene, paint, silhouette
from diptych.atelier.make import KINDS, Chunk, groups
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, SPLITS, is_held_out, is_said
from diptych.config import UserError

# A change of either is another benchmark: raise make.VERSION, say so in the change log, then write the new hashes here.
VERSION = 2
PARAMETERS = "875570b2aa9d84d9d4b2d1983bf5356c70adbff64ec9bd231e5d32b3863802d6"
ANNOTATIONS = "354e1e748b2523817e3853ea7dda3b1561a26d60f269d17f24a8a55b4a98e626"

SCENES = 600


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "scenes"
    make.make(root, scenes=SCENES)
    return root


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[tuple[list[Scene], str]]]:
    """split -> scenes of a group, and all that is written about them"""
    return {
        split: [(scenes, json.dumps(rows)) for kind in KINDS for _, scenes, rows in groups(Chunk(3, split, kind, range(60), 1))]
        for split in SPLITS
    }


def test_the_benchmark_is_frozen(root):
    about = json.loads((root / "dataset.json").read_text())
    assert (make.VERSION, about["parameters_sha256"], about["annotations_sha256"]) == (VERSION, PARAMETERS, ANNOTATIONS)
    assert make.digest(about["parameters"]) == PARAMETERS


def test_two_processes_make_the_same_and_what_is_there_stays(root, tmp_path):
    about = make.make(tmp_path / "again", scenes=SCENES, jobs=2)
    assert json.loads(json.dumps(about)) == make.make(root, scenes=SCENES, progress=lambda done, total: pytest.fail("made again"))
    for path in (p for p in root.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(root)).read_bytes(), path


def test_another_seed_replaces_and_strangers_are_left_alone(tmp_path):
    first = make.make(tmp_path / "scenes", scenes=60)
    other = make.make(tmp_path / "scenes", scenes=60, seed=1)
    assert first["annotations_sha256"] != other["annotations_sha256"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(UserError, match="something else is there"):
        make.make(tmp_path / "mine", scenes=60)
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "scenes"}


def test_no_picture_and_no_group_crosses_splits(root):
    pictures = {path: hashlib.sha256(path.read_bytes()).digest() for path in root.glob("images/*/*.jpg")}
    assert len(set(pictures.values())) == len(pictures) == sum(c["pictures"] for c in _counts(root).values())
    of_group: dict[str, set[str]] = {}
    files = [
        path
        for path in root.rglob("*")
        if path.suffix in (".json", ".jsonl") and path.parent.name in ("vqa", "nlvr2", "snli_ve", "vcr")
    ]
    for path in files:
        split = next(s for s in sorted(SPLITS, key=len, reverse=True) if s in path.stem)
        for group in re.findall(r'"(?:group|movie)":"([^"]+)"', path.read_text()):
            of_group.setdefault(group, set()).add(split)
    for ref in pickle.loads((root / "refcoco/refs(atelier).p").read_bytes()):
        of_group.setdefault(ref["group"], set()).add(ref["file_name"].split("/")[0])
    assert len(of_group) > SCENES / 8
    assert all(len(splits) == 1 for splits in of_group.values())


def _counts(root: Path) -> dict[str, dict[str, int]]:
    return json.loads((root / "dataset.json").read_text())["counts"]


def test_counts_are_those_of_the_files(root):
    for split, counts in _counts(root).items():
        assert counts["pictures"] == len(list((root / "images" / split).glob("*.jpg")))
        assert counts["captions"] == len(_read(root, f"coco/captions_{split}.json")["annotations"])
        assert counts["questions"] == len(_read(root, f"vqa/v2_OpenEnded_mscoco_{split}_questions.json")["questions"])
        assert counts["nlvr2"] == len((root / f"nlvr2/{split}.json").read_text().splitlines())
    assert sum(c["pictures"] for c in _counts(root).values()) == pytest.approx(SCENES, rel=0.05)


def _read(root: Path, path: str) -> dict:
    return json.loads((root / path).read_text())


def test_artists_things_and_colours_are_held_out(drawn):
    things = {split: [t for scenes, _ in groups_ for scene in scenes for t in scene.things] for split, groups_ in drawn.items()}
    artists = {split: {t.family for t in there} for split, there in things.items()}
    twins = {split: {load().concepts[t.slug].twin for t in there if t.category >= 0} for split, there in things.items()}
    things_of = {split: {t.slug for t in there if t.category >= 0} for split, there in things.items()}
    pairs = {split: {(t.category, t.colour) for t in there if t.category >= 0} for split, there in things.items()}
    for split in SPLITS:
        if split != "test-style":
            assert not artists[split] & artists["test-style"]
        if split != "test-object":
            assert len(things_of[split]) == 50
            assert not twins[split] & twins["test-object"]
        if split != "test-composition":
            assert not pairs[split] & pairs["test-composition"]
    assert len(things_of["test-object"]) == 30
    assert len(pairs["test-composition"]) == 100  # two colours of each: all come up, so that the rule is seen to hold


_NOUN = {word: c for c in CATEGORIES for word in (c.word, c.plural)}
_NOUNS, _COLOURS = "|".join(_NOUN), "|".join(c.word for c in COLOURS)
_RELATION = re.compile(
    rf"\b({_NOUNS}) (?:is )?(?:left of|right of|above|below) (?:an?|the) (?:small |large )?(?:(?:{_COLOURS}) )?({_NOUNS})\b"
)


@pytest.mark.parametrize("split", SPLITS)
def test_texts_do_not_tell_what_is_held_out(drawn, split):
    told = "\n".join(text for _, text in drawn[split])
    looks = [(word, colour) for colour, word in re.findall(rf"\b({_COLOURS}) ({_NOUNS})\b", told)]
    looks += re.findall(rf"\b({_NOUNS}) is ({_COLOURS})\b", told)
    colour_of = {c.word: n for n, c in enumerate(COLOURS)}
    assert len(looks) > 1000
    assert {is_held_out(_NOUN[word], colour_of[colour]) for word, colour in looks if split != "test-object"} <= {
        split == "test-composition"
    }
    relations = _RELATION.findall(re.sub(r"\bis the (\w+) (?=left|right|above|below)", r"the \1 ", told))
    assert len(relations) > 100
    assert {is_said(_NOUN[a], _NOUN[b]) for a, b in relations} == {split != "test-composition"}


def test_boxes_areas_and_outlines_are_those_of_the_pixels():
    """A thing alone is painted over black and white; what is opaque enough differs by little."""
    for _, [scene], _ in groups(Chunk(3, "train", "captions", range(40), 1)):
        for t in scene.things:
            with_it = [np.asarray(paint(Scene((t,), ground, 0)), float) for ground in (0, 5)]
            without = [np.asarray(paint(Scene((), ground, 0)), float) for ground in (0, 5)]
            alpha = 1 - ((with_it[0] - with_it[1]) / (without[0] - without[1])).mean(2)
            seen = alpha >= 47 / 255
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            x1, y1, x2, y2 = t.box
            assert np.abs(np.subtract((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), t.box)).max() <= 1
            polygon, area = silhouette(t)
            assert area == pytest.approx(seen.sum(), rel=0.05)
            xs, ys = polygon[::2], polygon[1::2]
            assert (min(ys), max(ys)) == (y1, y2)
            assert x1 <= min(xs) < max(xs) <= x2


def test_pictures_have_the_published_size(root):
    for path in list(root.glob("images/*/*.jpg"))[::40]:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((128, 128), "RGB")
