"""Class-aware sampling, and names of several sets merged into one vocabulary."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_every_system import TOKENIZER

from diptych import find
from diptych.contracts import Box, Sample
from diptych.data.mixture import Mixture, Source
from diptych.draw import Draw
from diptych.regions.balance import ClassAware
from diptych.systems.detector import RegionDetector


class Things:
    """Pictures by the names of what they show."""

    fingerprint = "1" * 64

    def __init__(self, *pictures: str):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        boxes = tuple(Box((0, 0, 4, 4), name, ("red",)) for name in self.pictures[index].split())
        return Sample(key=str(index), images=(Path(f"{index}.jpg"),), boxes=boxes)


def test_rare_classes_are_shown_until_they_have_enough_and_no_more():
    things = Things("dog dog dog", "dog dog cat", "ant", "cat bee", "ant ant", "")
    balanced = ClassAware(things, 5)
    count = Counter(box.name for i in range(len(balanced)) for box in balanced[i].boxes)
    assert balanced.index[:6] == [0, 1, 2, 3, 4, 5], "everything once"
    assert min(count.values()) >= 5
    assert balanced.index[6:] == [3, 3, 3, 3, 2, 4], "the rarest first; the cats beside the bees are counted"
    assert ClassAware(things, 1).index == [0, 1, 2, 3, 4, 5]
    assert balanced.fingerprint != ClassAware(things, 4).fingerprint
    merged = ClassAware(things, 3, lambda name: "ant" if name == "bee" else name)
    assert merged.index[6:] == [1]


def test_aliases_of_several_sets_are_one_class_above_the_floor():
    config = RegionDetector.Config(aliases={"puppy": "dog", "hound": "puppy"}, least_seen=3)
    sets = [Things("dog puppy", "cat cat"), Things("hound cat", "ant ant")]
    prepared = RegionDetector.prepare(config, sets, TOKENIZER)
    assert prepared.names == ("cat", "dog"), "two ants are below the floor"
    assert RegionDetector(prepared, TOKENIZER).called("hound") == "dog"


def test_copies_of_a_set_are_counted_in_its_pictures_after_balancing():
    """VinVL: so many copies of a set and one of another, each picture of the first so many times as often."""
    small, large = Things("dog dog", "cat"), Things(*["ant ant"] * 9, "bee")
    balanced = ClassAware(large, 3)
    assert len(balanced) == 12, "the bee three times"
    mixture = Mixture([Source("small", small, copies=8), Source("large", balanced)], Draw(0))
    share = mixture.slots_S / mixture.slots_S.sum()
    assert share == pytest.approx(np.array([16, 12]) / 28, abs=1e-4)
    source_N, index_N = mixture.locate(np.arange(28 * 400))
    shown = Counter((int(s), balanced.index[i] if s else int(i)) for s, i in zip(source_N, index_N, strict=True))
    assert shown[0, 0] / shown[1, 0] == pytest.approx(8, rel=0.01)
    assert shown[1, 9] / shown[1, 0] == pytest.approx(3, rel=0.01)
    assert find.parse_spec("vg@8x")[2:] == (find.Path("vg"), None, 8)
    assert find.parse_spec("vg@8")[2:] == (find.Path("vg"), 8, 1)
