"""What scenes are made of: categories, colours, grounds, people, and which of them each split may use.

Eighty categories, chosen for silhouettes that survive 22 pixels and another artist's hand; fifty appear in training scenes,
thirty only in `test-object`. A colour is a ramp that replaces the artist's own, so it says nothing about the category.

Two Latin rules hold pairs back for `test-composition`: category number i never has colours i and i + 4 (mod 8) elsewhere, and
of the two ways to say a relation ("the dog is left of the pear", "the pear is right of the dog") only one is said elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from diptych.atelier.artwork import TRAIN_FAMILIES, UNSEEN_FAMILIES


class Category(NamedTuple):
    number: int
    word: str  # what the texts call it
    slug: str  # the concept in the artwork pack
    group: str  # "animal", "fruit" ...; empty where no everyday word fits
    plural: str


class Colour(NamedTuple):
    word: str
    rgb: tuple[int, int, int]  # the middle of the ramp


class Ground(NamedTuple):
    """Two flat tones. Both near grey and far from mid-light, so that every ramp stands out."""

    upper: tuple[int, int, int]
    lower: tuple[int, int, int]


class Role(NamedTuple):
    word: str
    slug: str
    deed: str  # completes "... will"

    @property
    def slugs(self) -> tuple[str, ...]:
        return self.slug, f"man-{self.slug}", f"woman-{self.slug}"


_TRAIN = {
    "animal": "dog:dog-face cat:cat-face pig:pig-face frog panda butterfly turtle owl crab elephant duck spider",
    "fruit": "apple:red-apple pear banana strawberry pineapple cherry:cherries watermelon",
    "food": "pizza donut:doughnut burger:hamburger cake:birthday-cake lollipop",
    "vehicle": "bicycle plane:airplane rocket boat:sailboat tractor helicopter",
    "instrument": "guitar trumpet drum violin",
    "tool": "hammer wrench key umbrella camera",
    "clothing": "dress shirt:t-shirt boot:womans-boot hat:top-hat crown",
    "plant": "palm:palm-tree cactus rose mushroom",
    "": "star bell",
}
_HELD_OUT = {
    "animal": "lion penguin rooster dolphin snail bat rabbit:rabbit-face ladybug:lady-beetle",
    "fruit": "lemon peach",
    "food": "loaf:bread cookie",
    "vehicle": "ambulance motorcycle train:locomotive",
    "instrument": "saxophone",
    "tool": "bulb:light-bulb phone:telephone microscope",
    "clothing": "shoe:mans-shoe bow:ribbon bag:handbag",
    "plant": "sunflower leaf:maple-leaf seedling",
    "": "moon:crescent-moon balloon anchor bomb house",
}
_PLURALS = {
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "cherry": "cherries",
    "leaf": "leaves",
    "loaf": "loaves",
}


def _number(tables: list[dict[str, str]]) -> list[Category]:
    entries = [(group, *entry.partition(":")[::2]) for table in tables for group, line in table.items() for entry in line.split()]
    return [
        Category(
            number, word, slug or word, group, _PLURALS.get(word, word + ("es" if word.endswith(("s", "ch", "x", "z")) else "s"))
        )
        for number, (group, word, slug) in enumerate(entries)
    ]


CATEGORIES = _number([_TRAIN, _HELD_OUT])
N_TRAIN = sum(len(line.split()) for line in _TRAIN.values())
GROUPS = [group for group in _TRAIN if group]
OF_WORD = {category.word: category for category in CATEGORIES}

COLOURS = [
    Colour("red", (214, 34, 38)),
    Colour("orange", (245, 128, 12)),
    Colour("yellow", (240, 210, 20)),
    Colour("green", (44, 160, 48)),
    Colour("cyan", (0, 188, 200)),
    Colour("blue", (38, 82, 214)),
    Colour("purple", (132, 46, 186)),
    Colour("pink", (246, 92, 172)),
]
NATURAL = -1  # the artist's own colours: people only

GROUNDS = [
    Ground((244, 241, 232), (222, 214, 198)),
    Ground((232, 240, 245), (203, 214, 222)),
    Ground((240, 240, 240), (209, 209, 209)),
    Ground((34, 38, 46), (54, 60, 70)),
    Ground((44, 38, 34), (66, 58, 52)),
    Ground((22, 22, 22), (46, 46, 46)),
]

SMALL = (22, 23, 24, 25, 26, 27)  # pixels of the longer side, before trimming
LARGE = (38, 40, 42, 44, 46)
PEOPLE = (46, 48, 50)  # a trade must be seen from dress and tools

ROLES = [
    Role("cook", "cook", "make a soup"),
    Role("farmer", "farmer", "feed the cows"),
    Role("doctor", "health-worker", "visit the sick"),
    Role("pilot", "pilot", "fly a plane"),
    Role("astronaut", "astronaut", "walk on the moon"),
    Role("firefighter", "firefighter", "put out a fire"),
    Role("mechanic", "mechanic", "repair a car"),
    Role("painter", "artist", "paint a picture"),
]

SPLITS = ("train", "val", "test", "test-style", "test-composition", "test-object")


def is_held_out(category: Category, colour: int) -> bool:
    """Whether a colour of a category is kept for `test-composition`."""
    return (colour - category.number) % 4 == 0


def is_said(subject: Category, other: Category) -> bool:
    """Whether a relation with this subject and object is said outside `test-composition`: one order of each two categories."""
    return (subject.number < other.number) == ((subject.number + other.number) % 2 == 0)


@dataclass(frozen=True)
class World:
    """What scenes of one split may hold."""

    split: str

    @cached_property
    def categories(self) -> list[Category]:
        return CATEGORIES[N_TRAIN:] if self.split == "test-object" else CATEGORIES[:N_TRAIN]

    @cached_property
    def families(self) -> tuple[str, ...]:
        return UNSEEN_FAMILIES if self.split == "test-style" else TRAIN_FAMILIES

    @cached_property
    def colours(self) -> dict[int, list[int]]:
        """Category number -> the colours it may have."""
        held_out = self.split == "test-composition"
        return {c.number: [k for k in range(len(COLOURS)) if is_held_out(c, k) == held_out] for c in self.categories}

    def says(self, subject: Category, other: Category) -> bool:
        return subject is not other and is_said(subject, other) != (self.split == "test-composition")
