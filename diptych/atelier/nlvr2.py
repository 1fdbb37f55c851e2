"""NLVR2 (Suhr et al., 2019): is a sentence true of a pair of pictures?

Four scenes from one small palette, four pairs of them, and two sentences about different things: where one is true the other is
false, of two pairs each ("both images contain a dog", "the left image contains more cats than the right image"). Each pair is thus
asked about twice with both labels, and each sentence four times, so neither the sentence alone nor the pictures alone say anything.
A quarter of the sentences deny ("at most one image contains a dog"). `left_url` and `right_url` name the pictures, relative to the
folder of images.

That the sentences are two matters. One alone, and its exact opposite as often (version 1 of the data), leave as little to guess;
but then neither its form nor what the pictures hold says anything before both are known, and nothing found a beginning: at the
sizes of `small`, with eight times the draws, even the training pairs stayed at chance. Of two sentences which one fits the pair is
what pre-training teaches to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random
from typing import Any, NamedTuple

from diptych.atelier.coco import file_name
from diptych.atelier.compose import Scene, fits, stage, thing
from diptych.atelier.facts import Facts
from diptych.atelier.vocabulary import COLOURS, Category, World

SCENES = 4
DENIED = 0.25  # share of sentences that are their claim's opposite
DRAWS = 12  # sentences tried on the same scenes


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


class Said(NamedTuple):
    what: What
    sentence: str
    is_true: list[bool]  # of each pair of scenes


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
        pairs = [(i, j) if rng.random() < 0.5 else (j, i) for i, j in combinations(range(SCENES), 2)]
        said: list[Said] = []
        for _ in range(DRAWS):
            what = rng.choice(subjects)
            sentence, opposite, holds = rng.choice(_claims(what, rng))
            is_true = [holds(what.count(facts[i]), what.count(facts[j])) for i, j in pairs]
            denies = rng.random() < DENIED
            new = Said(what, opposite if denies else sentence, [true != denies for true in is_true])
            for other in said:
                if chosen := _complementary(other, new):
                    return scenes, {"nlvr2": _records(world, index, image_ids, group, pairs, chosen, (other, new))}
            said.append(new)


def _complementary(a: Said, b: Said) -> list[int]:
    """Two pairs of which only `a` is true, two of which only `b` is. None where there are not, or both are about one thing."""
    only_a, only_b = ([n for n, (x, y) in enumerate(zip(p.is_true, q.is_true, strict=True)) if x > y] for p, q in ((a, b), (b, a)))
    return sorted(only_a[:2] + only_b[:2]) if a.what != b.what and min(len(only_a), len(only_b)) >= 2 else []


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
    world: World,
    index: int,
    image_ids: list[int],
    group: str,
    pairs: Sequence[tuple[int, int]],
    chosen: Sequence[int],
    sentences: Sequence[Said],
) -> list[dict[str, Any]]:
    return [
        {
            "sentence": f"{said.sentence[0].upper()}{said.sentence[1:]}.",
            "label": str(said.is_true[place]),
            "identifier": f"{world.split}-{index}-{n}-{k}",
            "left_url": file_name(world.split, image_ids[pairs[place][0]]),
            "right_url": file_name(world.split, image_ids[pairs[place][1]]),
            "synset": "",
            "query": "",
            "group": group,
        }
        for k, said in enumerate(sentences)
        for n, place in enumerate(chosen)
    ]
