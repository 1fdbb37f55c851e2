"""Visual Genome (Krishna et al., 2017): regions with short phrases, objects, attributes, relationships.

A phrase states one fact in a few words ("a small red dog", "the dog is left of the pear", "there are 2 dogs"): the food of
pre-training. Beside Visual Genome's own fields a region carries `false_phrase`, the same words with one swapped so that it is not
true of the picture, and `spans`, the words that the picture decides: [start, end, kind, object_id or null].
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from diptych.atelier.compose import SIDE, Scene
from diptych.atelier.facts import EXTREMES, OPPOSITE, QUARTERS, SIZES, Facts
from diptych.atelier.vocabulary import COLOURS, Category, World
from diptych.atelier.wording import Line, Piece, line, swapped

MOST_REGIONS = 7


def object_id(image_id: int, index: int) -> int:
    return image_id * 8 + index + 1


def describe(scene: Scene, image_id: int, world: World, rng: Random) -> dict[str, list[Any]]:
    """This picture's entry in each of the five files."""
    boxes = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (t.box for t in scene.things)]
    ids = [object_id(image_id, i) for i in range(len(scene.things))]
    facts = Facts(scene)
    regions = []
    for n, (text, false, spans, things) in enumerate(phrases(facts, world, rng)):
        x, y, width, height = _around([boxes[i] for i in things])
        regions.append(
            {"region_id": image_id * 16 + n, "image_id": image_id, "phrase": text, "x": x, "y": y, "width": width, "height": height}
            | {"false_phrase": false, "spans": [(a, b, kind, None if i is None else ids[i]) for a, b, kind, i in spans]}
        )
    placed = [
        {"object_id": i, "x": x, "y": y, "w": w, "h": h, "names": [t.kind.word]}
        for i, t, (x, y, w, h) in zip(ids, scene.things, boxes, strict=True)
    ]
    attributes = [{**o, "attributes": [COLOURS[t.colour].word, SIZES[t.large]]} for o, t in zip(placed, scene.things, strict=True)]
    return {
        "region_descriptions": [{"id": image_id, "regions": regions}],
        "objects": [{"image_id": image_id, "objects": placed}],
        "attributes": [{"image_id": image_id, "attributes": attributes}],
        "relationships": [{"image_id": image_id, "relationships": _relationships(facts, placed, image_id, world)}],
        "image_data": [{"image_id": image_id, "url": "", "width": SIDE, "height": SIDE, "coco_id": image_id, "flickr_id": None}],
    }


def _relationships(facts: Facts, placed: list[dict[str, Any]], image_id: int, world: World) -> list[dict[str, Any]]:
    sides = [{key: o[key] for key in ("object_id", "x", "y", "w", "h")} | {"name": o["names"][0]} for o in placed]
    return [
        {"relationship_id": image_id * 4 + n, "predicate": said, "subject": sides[i], "object": sides[j], "synsets": []}
        for n, (i, j, said) in enumerate(related(facts, world)[:2])
    ]


def _around(boxes: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    if not boxes:
        return 0, 0, SIDE, SIDE
    x, y = min(b[0] for b in boxes), min(b[1] for b in boxes)
    return x, y, max(b[0] + b[2] for b in boxes) - x, max(b[1] + b[3] for b in boxes) - y


# ---------------------------------------------------------------------------------------------------- one-fact phrases


def phrases(facts: Facts, world: World, rng: Random) -> list[Line]:
    """Up to MOST_REGIONS different ones: some things on their own, one relation or two, a number, and what else there is to say."""
    things = list(range(len(facts.things)))
    rng.shuffle(things)
    found = [_thing(facts, world, rng, i) for i in things[:3]]
    for fact in [_relation, _count, _relation, *rng.sample(_OTHERS, len(_OTHERS))]:
        if len(found) < MOST_REGIONS and (said := fact(facts, world, rng)) and all(said.text != other.text for other in found):
            found.append(said)
    return found


def _thing(facts: Facts, world: World, rng: Random, i: int) -> Line:
    """a [small] [red] dog"""
    t = facts.things[i]
    size, colour = rng.choice([(True, True), (True, True), (False, True), (True, False)])
    pieces = [Piece("a")]
    if size:
        pieces.append(Piece(SIZES[t.large], "size", i))
    if colour:
        pieces.append(Piece(COLOURS[t.colour].word, "colour", i))
    pieces.append(Piece(t.kind.word, "object", i))
    large, tint = (t.large if size else None), (t.colour if colour else None)
    swaps = []
    if size and not facts.count(t.category, tint, not t.large):
        swaps.append((1, SIZES[not t.large]))
    if colour and (others := [k for k in world.colours[t.category] if not facts.count(t.category, k, large)]):
        swaps += [(len(pieces) - 2, COLOURS[rng.choice(others)].word)] * 2
    if not swaps or rng.random() < 0.5:
        swaps = [(len(pieces) - 1, absent(facts, world, rng, tint).word)]
    return line(pieces, swapped(pieces, *rng.choice(swaps)), [i])


def _relation(facts: Facts, world: World, rng: Random) -> Line | None:
    """the dog is left of the pear"""
    if not (pairs := related(facts, world)):
        return None
    i, j, said = rng.choice(pairs)
    pieces = [Piece("the"), _noun(facts, i), Piece("is"), Piece(said, "relation"), Piece("the"), _noun(facts, j)]
    return line(pieces, swapped(pieces, 3, OPPOSITE[said]), [i, j])


def _count(facts: Facts, world: World, rng: Random) -> Line:
    """there are 2 dogs | there are 3 red things | there are 5 things | there are 0 cats"""
    t = rng.choice(facts.things)
    about, one, many = rng.choice(
        [
            (facts.which(category=t.category), t.kind.word, t.kind.plural),
            (facts.which(colour=t.colour), f"{COLOURS[t.colour].word} thing", f"{COLOURS[t.colour].word} things"),
            (list(range(len(facts.things))), "thing", "things"),
        ]
    )
    if rng.random() < 0.15:
        missing = absent(facts, world, rng)
        about, one, many = [], missing.word, missing.plural
    number = len(about)
    fewest = 2 if one == "thing" else 0  # in any picture: "there is 1 thing" would be false without looking
    wrong = rng.choice([n for n in (number - 2, number - 1, number + 1, number + 2) if fewest <= n <= 6])
    true, false = (
        [Piece("there is" if n == 1 else "there are"), Piece(str(n), "count"), Piece(one if n == 1 else many)]
        for n in (number, wrong)
    )
    return line(true, false, about)


def _larger(facts: Facts, world: World, rng: Random) -> Line | None:
    """the dog is larger than the pear"""
    alone = lone(facts)
    pairs = [(i, j) for i in alone for j in alone if facts.sizes[i] != facts.sizes[j]]
    if not pairs:
        return None
    i, j = rng.choice(pairs)
    said, wrong = ("larger than", "smaller than") if facts.sizes[i] else ("smaller than", "larger than")
    pieces = [Piece("the"), _noun(facts, i), Piece("is"), Piece(said, "relation"), Piece("the"), _noun(facts, j)]
    return line(pieces, swapped(pieces, 3, wrong), [i, j])


def _looks(facts: Facts, world: World, rng: Random) -> Line | None:
    """the dog is red | the dog is small"""
    if not (alone := lone(facts)):
        return None
    i = rng.choice(alone)
    return _is(facts, world, rng, [Piece("the"), _noun(facts, i)], i)


def _sized(facts: Facts, world: World, rng: Random) -> Line | None:
    """the large thing is red"""
    alone = [i for i, large in enumerate(facts.sizes) if facts.sizes.count(large) == 1]
    if not alone:
        return None
    i = rng.choice(alone)
    return _is(facts, world, rng, [Piece("the"), Piece(SIZES[facts.sizes[i]], "size", i), Piece("thing")], i, name=True, size=False)


def _extreme(facts: Facts, world: World, rng: Random) -> Line | None:
    """the leftmost thing is red"""
    which = rng.choice(EXTREMES)
    i = facts.extreme(which)
    if i is None:
        return None
    return _is(facts, world, rng, [Piece("the"), Piece(which, "place", i), Piece("thing")], i, name=True)


def _grouped(facts: Facts, world: World, rng: Random) -> Line | None:
    """the animal is red"""
    alone = [i for i, group in enumerate(facts.groups) if group and facts.groups.count(group) == 1]
    if not alone:
        return None
    i = rng.choice(alone)
    return _is(facts, world, rng, [Piece("the"), Piece(facts.groups[i], "object", i)], i)


def _is(facts: Facts, world: World, rng: Random, who: list[Piece], i: int, *, name: bool = False, size: bool = True) -> Line:
    """... is red | is small | is a dog; false with another colour, the other size, another category"""
    t = facts.things[i]
    about = rng.choice(["colour", "colour", *["size"] * size, *["object"] * name])
    if about == "size":
        pieces = [*who, Piece("is"), Piece(SIZES[t.large], "size", i)]
        return line(pieces, swapped(pieces, len(pieces) - 1, SIZES[not t.large]), [i])
    if about == "object":
        pieces = [*who, Piece("is"), Piece("a"), Piece(t.kind.word, "object", i)]
        return line(pieces, swapped(pieces, len(pieces) - 1, absent(facts, world, rng, t.colour).word), [i])
    other = rng.choice([k for k in world.colours[t.category] if k != t.colour])
    pieces = [*who, Piece("is"), Piece(COLOURS[t.colour].word, "colour", i)]
    return line(pieces, swapped(pieces, len(pieces) - 1, COLOURS[other].word), [i])


def _quarter(facts: Facts, world: World, rng: Random) -> Line | None:
    """the dog is in the top left"""
    if not (placed := [(i, where) for i in lone(facts) if (where := facts.quarter(i))]):
        return None
    i, where = rng.choice(placed)
    pieces = [Piece("the"), _noun(facts, i), Piece("is in the"), Piece(where, "place", i)]
    return line(pieces, swapped(pieces, 3, rng.choice([other for other in QUARTERS if other != where])), [i])


def _absence(facts: Facts, world: World, rng: Random) -> Line:
    """there is no cat"""
    here = rng.choice(facts.things).kind
    pieces = [Piece("there is no"), Piece(absent(facts, world, rng).word, "object")]
    return line(pieces, swapped(pieces, 1, here.word), [])


_OTHERS: list[Callable[[Facts, World, Random], Line | None]] = [
    _larger, _looks, _sized, _extreme, _grouped, _quarter, _absence,
]  # fmt: skip


def _noun(facts: Facts, i: int) -> Piece:
    return Piece(facts.things[i].kind.word, "object", i)


def lone(facts: Facts) -> list[int]:
    """Things that "the dog" names without doubt."""
    return [i for i, category in enumerate(facts.categories) if facts.categories.count(category) == 1]


def related(facts: Facts, world: World) -> list[tuple[int, int, str]]:
    """(i, j, what i is to j) of things alone of their kind, in the order that this world says them."""
    alone = lone(facts)
    kinds = [t.kind for t in facts.things]
    return [(i, j, said) for i in alone for j in alone if world.says(kinds[i], kinds[j]) and (said := facts.relation(i, j))]


def absent(facts: Facts, world: World, rng: Random, colour: int | None = None) -> Category:
    """A category that is not in the picture and may have that colour elsewhere, so that the words alone do not give it away."""
    while True:
        category = rng.choice(world.categories)
        if category.number not in facts.categories and (colour is None or colour in world.colours[category.number]):
            return category
