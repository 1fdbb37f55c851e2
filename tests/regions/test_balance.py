"""Class-aware sampling, and names of several sets merged into one vocabulary."""

from collections import Counter
from pathlib import Path

from test_every_system import TOKENIZER

from diptych.contracts import Box, Sample
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
