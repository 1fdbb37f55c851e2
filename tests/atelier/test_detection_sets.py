"""The four detection sets: each with names of its own, and one vocabulary when they are merged."""

import json

import pytest
from test_every_system import TOKENIZER

from diptych.atelier import detection
from diptych.atelier.compose import families
from diptych.atelier.vocabulary import CATEGORIES, N_TRAIN
from diptych.data.coco_instances import COCOInstances
from diptych.systems.detector import RegionDetector

WORDS = {category.word for category in CATEGORIES[:N_TRAIN]}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("data") / "detection"
    about = detection.make(root, small=True)
    assert detection.make(root, small=True) == about, "nothing is done twice"
    return root, [COCOInstances.open(root / one.family, "train") for one in detection.SETS]


def vocabulary(readers: list[COCOInstances], **settings: object) -> set[str]:
    return {*RegionDetector.prepare(RegionDetector.Config(**settings), readers, TOKENIZER).names}


def test_each_set_alone_has_its_own_words(sets):
    twemoji, emojione, fxemoji, noto = [*map(vocabulary, ([reader] for reader in sets[1]))]
    assert {"plane", "airplane", "aircraft", "puppy"} <= twemoji
    assert not twemoji & {*detection._NOT_IN_BASE}
    assert emojione == WORDS - {*detection._NOT_IN_EMOJIONE} - {"plane", "burger"} | {"airplane", "hamburger"}
    assert all(name[0].isupper() for name in fxemoji | noto)
    assert "Musical instrument" in noto and not noto & {"Trumpet", "Drum"}
    assert {"Guitar", "Trumpet"} <= fxemoji


def test_merged_they_have_one_name_for_each_thing_and_what_fits_none(sets):
    merging = detection.merging()["system"]
    assert vocabulary(sets[1], aliases=merging["aliases"]) - {"toy"} == WORDS | {"Musical instrument"}
    assert merging["least_seen"] == 30
    assert "toy" not in vocabulary(sets[1], aliases=merging["aliases"], least_seen=5), "said of anything, and seldom"


def test_a_set_is_one_artists_and_some_things_are_rare_in_the_large_ones(sets):
    for one, reader in zip(detection.SETS, sets[1], strict=True):
        world = detection._SetWorld("train", one)
        assert all(families(category.slug, world.families) == [one.family] for category in world.categories)
        often = sorted((world.categories.count(category) for category in {*world.categories}), reverse=True)
        assert often[0] >= 30 * often[-1] if one.rarity else often[0] == often[-1]
        names = {said for names in one.names.values() for said in names} | {one.odd[0]}
        samples = [reader[i] for i in range(len(reader))]
        assert {box.name for sample in samples for box in sample.boxes} <= names
        assert any(box.attributes for sample in samples for box in sample.boxes) == one.attributes
    keys = [key.images[0].name for reader in sets[1] for key in map(reader.__getitem__, range(len(reader)))]
    assert len(keys) == len({*keys}), "one region store can hold them all"


def test_it_is_a_function_of_the_seed(sets, tmp_path):
    root, (first, *_) = sets
    one = detection.SETS[0]
    detection._write(tmp_path / "again", one, "train", range(1, len(first) + 1), 0)
    there = "coco/instances_train.json"
    assert json.loads((tmp_path / "again" / there).read_text()) == json.loads((root / one.family / there).read_text())
