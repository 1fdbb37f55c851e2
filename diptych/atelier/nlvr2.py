"""NLVR2 (Suhr et al., 2019): is a sentence true of a pair of pictures?

Four scenes from one small palette and a sentence, drawn until two pairs make it true and two make it false. Each sentence has an
exact opposite ("both images contain a dog", "at most one image contains a dog") that is drawn as often, so neither the sentence
alone nor the pictures alone say anything. `left_url` and `right_url` name the pictures, relative to the folder of images.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random
from typing import Any, NamedTuple

from diptych.atelier.coco import file_name
from diptych.atelier.compose import Scene, fits, stage, thing
from diptych.atelier.facts import Facts
from diptych.atelier.vocabulary import COLOURS, Category, World

SCENES = 4


class What(NamedTuple):
    """What is counted: dogs, red things or red dogs."""

    category: Category | None
    colour: int | None

    def words(self, plural: bool) -> str:
        noun = (self.category.plural if plural else self.category.word) if self.category else ("things" if plural else "thing")
        said = noun if self.colour is None else f"{COLOURS[self.colour].word} {noun}"
        return said if plural else f"{'an' if said[0] in 'aeiou' else 'a'} {said}"

    def count(self, facts: Facts) -> int:
        return facts.count(self.category.number if self.category else None, self.colour)


Claim = tuple[str, str, Callable[[int, int], bool]]  # a sentence, its opposite, and whether the sentence holds of two counts


def _claims(what: What, rng: Random) -> list[Claim]:
    one, many = what.words(False), what.words(True)
    total = rng.randint(2, 5)
    left, right = "the left image contains", "the right image contains"
    return [
        (f"both images contain {one}", f"at most one image contains {one}", lambda a, b: a > 0 and b > 0),
        (f"at least one image contains {one}", f"neither image contains {one}", lambda a, b: a > 0 or b > 0),
        (f"{left} {one}", f"{left} no {one.split(' ', 1)[1]}", lambda a, b: a > 0),
        (f"{right} {one}", f"{right} no {one.split(' ', 1)[1]}", lambda a, b: b > 0),
        (f"{left} more {many} than the right image", f"{right} at least as many {many} as the left image", lambda a, b: a > b),
        (f"{right} more {many} than the left image", f"{left} at least as many {many} as the right image", lambda a, b: b > a),
        (
            f"there are at least {total} {many} in total",
            f"there are fewer than {total} {many} in total",
            lambda a, b: a + b >= total,
        ),
        (
            f"the two images contain the same number of {many}",
            f"the two images contain different numbers of {many}",
            lambda a, b: a == b,
        ),
    ]


def derive(world: World, rng: Random, index: int, image_ids: list[int], group: str) -> tuple[list[Scene], dict[str, list[Any]]]:
    while True:
        scenes, subjects = _palette(world, rng)
        facts = [Facts(scene) for scene in scenes]
        for _ in range(12):
            what = rng.choice(subjects)
            sentence, opposite, holds = rng.choice(_claims(what, rng))
            pairs = [(i, j) if rng.random() < 0.5 else (j, i) for i, j in combinations(range(SCENES), 2)]
            rng.shuffle(pairs)
            is_true = [holds(what.count(facts[i]), what.count(facts[j])) for i, j in pairs]
            if 2 <= sum(is_true) <= 4:
                chosen = [n for wanted in (True, False) for n in [n for n, t in enumerate(is_true) if t == wanted][:2]]
                turned = rng.random() < 0.5
                asked = [(pairs[n], is_true[n] != turned) for n in sorted(chosen)]
                return scenes, {"nlvr2": _records(world, index, image_ids, group, opposite if turned else sentence, asked)}


def _palette(world: World, rng: Random) -> tuple[list[Scene], list[What]]:
    """Four scenes of three categories, and what may be said of them."""
    categories = rng.sample(world.categories, 3)
    colours = {c.number: rng.sample(world.colours[c.number], 2) for c in categories}
    scenes = []
    while len(scenes) < SCENES:
        kinds = [rng.choice(categories) for _ in range(rng.randint(2, 6))]
        things = [thing(rng, world, kind, rng.choice(colours[kind.number])) for kind in kinds]
        if fits([t.size for t in things]):
            scenes.append(stage(rng, things))
    shades = sorted({k for pair in colours.values() for k in pair})
    both = [What(c, k) for c in categories for k in colours[c.number]]
    return scenes, [*[What(c, None) for c in categories] * 2, *[What(None, k) for k in shades], *both]


def _records(
    world: World, index: int, image_ids: list[int], group: str, sentence: str, asked: list[tuple[tuple[int, int], bool]]
) -> list[dict[str, Any]]:
    return [
        {
            "sentence": f"{sentence[0].upper()}{sentence[1:]}.",
            "label": str(label),
            "identifier": f"{world.split}-{index}-{n}-0",
            "left_url": file_name(world.split, image_ids[i]),
            "right_url": file_name(world.split, image_ids[j]),
            "synset": "",
            "query": "",
            "group": group,
        }
        for n, ((i, j), label) in enumerate(asked)
    ]
