"""COCO (Lin et al., 2014): captions and instances.

Five dense captions a picture: each names everything that is there, in another order and another turn. Beside COCO's own fields a
caption carries `false_caption`, a word swapped so that it is not true of the picture, and `spans`, its noun phrases and the
instance that each is about (of several alike, the first): [start, end, "object", annotation id]. Instances carry exact boxes, and
polygons along the drawing's outline.
"""

from __future__ import annotations

from random import Random
from typing import Any

from diptych.atelier.compose import SIDE, Scene, silhouette
from diptych.atelier.facts import OPPOSITE, SIZES, Facts
from diptych.atelier.visual_genome import absent, object_id
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, World
from diptych.atelier.wording import Line, Piece, Span, line, swapped

CAPTIONS = 5
CATEGORY_TABLE = [{"id": c.number + 1, "name": c.word, "supercategory": c.group or "thing"} for c in CATEGORIES]


def image(image_id: int, split: str) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name(split, image_id), "height": SIDE, "width": SIDE}


def file_name(split: str, image_id: int) -> str:
    """Relative to the folder of images."""
    return f"{split}/{image_id:08d}.jpg"


def instances(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    found = []
    for i, t in enumerate(scene.things):
        x1, y1, x2, y2 = t.box
        polygon, area = silhouette(t)
        found.append(
            {"id": object_id(image_id, i), "image_id": image_id, "category_id": t.category + 1, "bbox": (x1, y1, x2 - x1, y2 - y1)}
            | {"area": area, "iscrowd": 0, "segmentation": [polygon]}
        )
    return found


def caption_records(scene: Scene, image_id: int, world: World, rng: Random) -> list[dict[str, Any]]:
    return [
        {"id": image_id * CAPTIONS + n, "image_id": image_id, "caption": text, "false_caption": false}
        | {"spans": [(a, b, "object", object_id(image_id, i)) for a, b, i in noun_phrases(spans)]}
        for n, (text, false, spans, _) in enumerate(captions(Facts(scene), world, rng))
    ]


def noun_phrases(spans: list[Span]) -> list[tuple[int, int, int]]:
    """Characters [start, end) and thing of each noun phrase without its article: neighbouring words about one thing."""
    found: list[tuple[int, int, int]] = []
    for start, end, kind, i in spans:
        if i is None or kind == "place":
            continue
        if found and found[-1][2] == i and found[-1][1] == start - 1:
            start = found.pop()[0]
        found.append((start, end, i))
    return found


def captions(facts: Facts, world: World, rng: Random) -> list[Line]:
    turns = [_list, _there_is, _picture, _related, _placed]
    rng.shuffle(turns)
    return [_with_false(turn(facts, world, rng), facts, world, rng) for turn in turns]


def _list(facts: Facts, world: World, rng: Random) -> list[Piece]:
    """a small red dog, a blue pear and 2 yellow stars"""
    return _enumerate(_phrases(facts, rng))


def _there_is(facts: Facts, world: World, rng: Random) -> list[Piece]:
    """there is a blue pear, a small red dog and 2 yellow stars"""
    named = _phrases(facts, rng)
    return [Piece("there is" if named[0][0].text == "a" else "there are"), *_enumerate(named)]


def _picture(facts: Facts, world: World, rng: Random) -> list[Piece]:
    """a picture of 2 yellow stars, a blue pear and a red dog"""
    return [Piece("a"), Piece("picture of"), *_enumerate(_phrases(facts, rng))]


def _related(facts: Facts, world: World, rng: Random) -> list[Piece]:
    """a small red dog left of a blue pear, with 2 yellow stars"""
    singles = [members[0] for members in _alike(facts) if len(members) == 1]
    kinds = [t.kind for t in facts.things]
    pairs = [(i, j, said) for i in singles for j in singles if world.says(kinds[i], kinds[j]) and (said := facts.relation(i, j))]
    if not pairs:
        return _list(facts, world, rng)
    i, j, said = rng.choice(pairs)
    first = [*_phrase(facts, [i], rng), Piece(said, "relation"), *_phrase(facts, [j], rng)]
    rest = _phrases(facts, rng, leave_out=(i, j))
    return [*first, Piece(","), Piece("with"), *_enumerate(rest)] if rest else first


def _placed(facts: Facts, world: World, rng: Random) -> list[Piece]:
    """in the top left a small red dog, and also a blue pear and 2 yellow stars"""
    placed = [(members[0], where) for members in _alike(facts) if len(members) == 1 and (where := facts.quarter(members[0]))]
    if not placed:
        return _there_is(facts, world, rng)
    i, where = rng.choice(placed)
    first = [Piece("in the"), Piece(where, "place", i), *_phrase(facts, [i], rng)]
    rest = _phrases(facts, rng, leave_out=(i,))
    return [*first, Piece(","), Piece("and also"), *_enumerate(rest)] if rest else first


def _alike(facts: Facts) -> list[list[int]]:
    """Things of one category and colour are named together."""
    together: dict[tuple[int, int], list[int]] = {}
    for i, t in enumerate(facts.things):
        together.setdefault((t.category, t.colour), []).append(i)
    return list(together.values())


def _phrases(facts: Facts, rng: Random, leave_out: tuple[int, ...] = ()) -> list[list[Piece]]:
    together = [members for members in _alike(facts) if members[0] not in leave_out]
    rng.shuffle(together)
    return [_phrase(facts, members, rng) for members in together]


def _phrase(facts: Facts, members: list[int], rng: Random) -> list[Piece]:
    """a [small] red dog | 2 red dogs"""
    i = members[0]
    t = facts.things[i]
    colour = Piece(COLOURS[t.colour].word, "colour", i)
    if len(members) > 1:
        return [Piece(str(len(members)), "count", i), colour, Piece(t.kind.plural, "object", i)]
    size = [Piece(SIZES[t.large], "size", i)] if rng.random() < 0.4 else []
    return [Piece("a"), *size, colour, Piece(t.kind.word, "object", i)]


def _enumerate(phrases: list[list[Piece]]) -> list[Piece]:
    pieces = list(phrases[0])
    for n, phrase in enumerate(phrases[1:], 2):
        pieces += [Piece("and") if n == len(phrases) else Piece(","), *phrase]
    return pieces


def _with_false(pieces: list[Piece], facts: Facts, world: World, rng: Random) -> Line:
    """The false caption swaps a colour, a category or the relation. A caption names everything, so a new pair is always false."""
    said = next((n for n, piece in enumerate(pieces) if piece.kind == "relation"), None)
    # the two of a relation keep their names: with another, it could be a relation that is held out
    related = () if said is None else (pieces[said - 1].thing, pieces[said + 2].thing)
    choices = [
        n for n, (_, kind, i) in enumerate(pieces) if kind in ("colour", "relation") or (kind == "object" and i not in related)
    ]
    while True:
        n = rng.choice(choices)
        text, kind, i = pieces[n]
        if kind == "relation":
            into = OPPOSITE[text]
            break
        assert i is not None
        t = facts.things[i]
        if kind == "object":
            other = absent(facts, world, rng, t.colour)
            into = other.word if text == t.kind.word else other.plural
            break
        if others := [k for k in world.colours[t.category] if not facts.count(t.category, k)]:
            into = COLOURS[rng.choice(others)].word
            break
    return line(pieces, swapped(pieces, n, into), range(len(facts.things)))
