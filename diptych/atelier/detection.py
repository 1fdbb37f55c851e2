"""Makes the detection data: four sets of pictures with boxes, whose names for the same things differ.

    ROOT/twemoji/coco/instances_SPLIT.json   ROOT/twemoji/images/SPLIT/00000001.jpg      likewise emojione, fxemoji, noto
    ROOT/merge.yaml                          aliases and floor that make one vocabulary of the four (regions train --config)
    ROOT/dataset.json                        how it was made; written last

Each set is drawn by one family of artists and plays one of the four that VinVL's detector learns from (section 2 there):

    twemoji    Visual Genome    free words (a plane is an airplane, too), a few that fit nothing, colours and sizes; the base
    emojione   COCO             few names, each as often as the others
    fxemoji    Objects365       more pictures, many names, most of them rare
    noto       Open Images      the most pictures, rare names, and one name for several things

In a real set things stand about that it has no name for; here pictures show only what their set names. The scenes cannot be seen as
such sets: their artists meet within a picture, and annotations do not tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from diptych.atelier import coco, facts
from diptych.atelier.artwork import load
from diptych.atelier.compose import Scene, crowd, paint, stage
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, N_TRAIN, Category, World
from diptych.draw import Draw

VERSION = 1
SPLITS = {"train": 1.0, "val": 0.05}  # of a set's size
FLOOR = 30  # boxes: a name with fewer, over all sets, is left out (VinVL's number)
QUALITY = 75

_WORDS = [category.word for category in CATEGORIES[:N_TRAIN]]


class Set(NamedTuple):
    family: str  # whose drawings
    pictures: int
    names: Mapping[str, tuple[str, ...]]  # the scenes' word -> what it is called here, one of these each time
    aliases: frozenset[str]  # of these names: those that mean just what the scenes' word means
    rarity: float = 0.0  # the n-th thing is drawn 1 / n**rarity as often as the first
    attributes: bool = False
    odd: tuple[str, float] = ("", 0.0)  # a word for anything at all, and how often it is said


def _named(words: list[str], style: Mapping[str, str], title: bool = False) -> dict[str, tuple[str, ...]]:
    named = {word: tuple(style.get(word, word).split("/")) for word in words}
    return {word: tuple(name.capitalize() for name in names) for word, names in named.items()} if title else named


_FREE = {
    "dog": "dog/dog/dog/puppy", "cat": "cat/cat/cat/kitten", "plane": "plane/plane/airplane/aircraft", "bicycle": "bicycle/bike",
    "boat": "boat/sailboat", "donut": "donut/doughnut", "burger": "burger/hamburger", "shirt": "shirt/t-shirt",
    "hat": "hat/top hat", "palm": "palm/palm tree", "boot": "boot/boots", "duck": "duck/duck/duckling",
}  # fmt: skip
_PUBLIC = {
    "plane": "airplane", "boat": "sailboat", "burger": "hamburger", "shirt": "t-shirt", "hat": "top hat", "palm": "palm tree",
    "boot": "boots", "cherry": "cherries", "bicycle": "bike",
}  # fmt: skip
_COARSE = {"trumpet": "musical instrument", "drum": "musical instrument"}
_NOT_IN_BASE = ("camera", "lollipop", "wrench", "violin", "tractor", "crown", "cactus", "panda", "cake", "rocket")
_NOT_IN_EMOJIONE = (
    *("frog", "panda", "butterfly", "turtle", "crab", "spider", "pineapple", "cherry", "watermelon", "lollipop", "rocket"),
    *("helicopter", "guitar", "trumpet", "drum", "violin", "wrench", "key", "camera", "dress", "hat", "crown", "palm", "cactus"),
    *("mushroom", "bell"),
)
_NOT_IN_FXEMOJI = ("butterfly", "owl", "crab", "duck", "boat", "drum", "umbrella", "star")  # that family never drew them


def _but(left_out: Sequence[str]) -> list[str]:
    return [word for word in _WORDS if word not in left_out]


def _set(family: str, pictures: int, names: dict[str, tuple[str, ...]], coarse: Iterable[str] = (), **more: Any) -> Set:
    same = {name for word, said in names.items() for name in said if name != word and word not in coarse}
    return Set(family, pictures, names, frozenset(same), **more)


SETS = (
    _set("twemoji", 1200, _named(_but(_NOT_IN_BASE), _FREE), attributes=True, odd=("toy", 0.003)),
    _set("emojione", 1200, _named(_but(_NOT_IN_EMOJIONE), {"plane": "airplane", "burger": "hamburger"})),
    _set("fxemoji", 2400, _named(_but(_NOT_IN_FXEMOJI), _PUBLIC, title=True), rarity=1.0),
    _set("noto", 4800, _named(_but(("camera",)), {**_PUBLIC, **_COARSE}, title=True), _COARSE, rarity=1.0),
)


def merging() -> dict[str, Any]:
    """As a recipe's change: what each name of any set is called in the one vocabulary, and how rare a name may be."""
    aliases = {name: word for one in SETS for word, names in one.names.items() for name in names if name in one.aliases}
    return {"system": {"aliases": dict(sorted(aliases.items())), "least_seen": FLOOR}}


@dataclass(frozen=True)
class _SetWorld(World):
    """Scenes by one artist, of what a set has names for; a rare thing comes up rarely."""

    of: Set

    @cached_property
    def families(self) -> tuple[str, ...]:
        return (self.of.family,)

    @cached_property
    def categories(self) -> list[Category]:
        """Each as often as it is to be drawn. Which are the rare ones is the set's own matter: drawn by its name."""
        named = [category for category in CATEGORIES[:N_TRAIN] if category.word in self.of.names]
        Random(self.of.family).shuffle(named)
        often = [max(1, round(100 / place**self.of.rarity)) for place in range(1, len(named) + 1)]
        return [category for category, n in zip(named, often, strict=True) for _ in range(n)]

    @cached_property
    def colours(self) -> dict[int, list[int]]:
        return World("train").colours


def make(root: Path, *, small: bool = False, seed: int = 0) -> dict[str, Any]:
    """Make the four sets at `root`; what dataset.json says. `small` is a tenth of it."""
    made = {"dataset": "detection", "version": VERSION, "seed": seed, "small": small, "artwork_sha256": load().sha256}
    made |= {"sets": {one.family: [one.pictures, one.names, one.rarity] for one in SETS}, "floor": FLOOR, "quality": QUALITY}
    made = json.loads(json.dumps(made))
    there = Path(root) / "dataset.json"
    if there.is_file():
        about = json.loads(there.read_text(encoding="utf-8"))
        if all(about.get(key) == value for key, value in made.items()):
            return about
        there.unlink()  # its absence says that the rest is not whole
    counts: dict[str, int] = {}
    image_id = 1
    for one in SETS:
        for split, share in SPLITS.items():
            n = round(one.pictures * share / (10 if small else 1))
            _write(Path(root) / one.family, one, split, range(image_id, image_id + n), seed)
            counts[f"{one.family} {split} pictures"] = n
            image_id += n
    (Path(root) / "merge.yaml").write_text(yaml.safe_dump(merging(), allow_unicode=True, sort_keys=False), encoding="utf-8")
    about = made | {"counts": counts}
    there.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _write(root: Path, one: Set, split: str, image_ids: range, seed: int) -> None:
    """Picture ids differ over all sets, so that one region store can hold them all."""
    world = _SetWorld("train", one)
    id_of = {name: n for n, name in enumerate(sorted({*(n for names in one.names.values() for n in names), one.odd[0]} - {""}), 1)}
    images, instances = [], []
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    seeds = Draw(seed).bits(f"detection/{one.family}/{split}", range(len(image_ids)))[:, 0].tolist()
    for image_id, drawn in zip(image_ids, seeds, strict=True):
        rng = Random(drawn)
        scene = stage(rng, crowd(world, rng))
        paint(scene).save(root / "images" / coco.file_name(split, image_id), quality=QUALITY, optimize=True)
        images.append(coco.image(image_id, split))
        instances += _instances(scene, image_id, one, id_of, rng)
    (root / "coco").mkdir(exist_ok=True)
    about = {"info": {"description": f"Diptych detection: {one.family}", "version": str(VERSION)}, "licenses": []}
    lists = {"images": images, "annotations": instances, "categories": [{"id": n, "name": name} for name, n in id_of.items()]}
    (root / "coco" / f"instances_{split}.json").write_text(json.dumps(about | lists, separators=(",", ":")), encoding="utf-8")


def _instances(scene: Scene, image_id: int, one: Set, id_of: Mapping[str, int], rng: Random) -> list[dict[str, Any]]:
    found = []
    for instance, thing in zip(coco.instances(scene, image_id), scene.things, strict=True):
        name = rng.choice(one.names[thing.kind.word])
        if one.odd[0] and rng.random() < one.odd[1]:
            name = one.odd[0]
        looks = {"attributes": [COLOURS[thing.colour].word, facts.SIZES[thing.large]]} if one.attributes else {}
        found.append({**instance, "category_id": id_of[name], **looks})
    return found
