"""RefCOCO (Yu et al., 2016): which thing is meant?

Every thing has a companion of its category, and every thing is referred to once, so a picture without the words, boxes given,
leaves all of them equally likely. Expressions are of three kinds in about equal parts: colour ("the red dog"), extreme ("the
leftmost dog"), relation ("the dog left of the red pear"); each is true of its thing alone by a margin. In the test split, testA is
animals and testB everything else.
"""

from __future__ import annotations

from random import Random
from typing import Any

from diptych.atelier import coco
from diptych.atelier.compose import Scene, fits, stage, thing
from diptych.atelier.facts import EXTREMES, Facts
from diptych.atelier.visual_genome import object_id
from diptych.atelier.vocabulary import COLOURS, World

SCENES = 1
_FAMILIES = ((2, 2), (2, 2), (2, 3), (3, 2), (2, 2, 2), (3, 3))  # how many of each category


def derive(world: World, rng: Random, index: int, image_ids: list[int], group: str) -> tuple[list[Scene], dict[str, list[Any]]]:
    image_id = image_ids[0]
    while True:
        scene = _scene(world, rng)
        facts = Facts(scene)
        chosen = [_expression(facts, world, rng, i) for i in range(len(scene.things))]
        if all(chosen) and sum(said[0] == "relation" for said in chosen if said) >= len(chosen) // 3:
            break
    refs = []
    for i, (t, said) in enumerate(zip(scene.things, chosen, strict=True)):
        assert said
        kind, words = said
        ann_id = object_id(image_id, i)
        split = ("testA" if t.kind.group == "animal" else "testB") if world.split == "test" else world.split
        sentence = {"raw": words, "sent": words, "sent_id": ann_id, "tokens": words.split()}
        refs.append(
            {"ref_id": ann_id, "ann_id": ann_id, "category_id": t.category + 1, "image_id": image_id, "split": split, "kind": kind}
            | {"file_name": coco.file_name(world.split, image_id), "sent_ids": [ann_id], "sentences": [sentence], "group": group}
        )
    boxes = coco.instances(scene, image_id)
    return [scene], {"refs": refs, "ref_instances": boxes, "ref_instances.images": [coco.image(image_id, world.split)]}


def _scene(world: World, rng: Random) -> Scene:
    while True:
        sizes = rng.choice(_FAMILIES)
        things = []
        for category, n in zip(rng.sample(world.categories, len(sizes)), sizes, strict=True):
            alike = rng.choice(world.colours[category.number]) if rng.random() < 0.4 else None
            things += [thing(rng, world, category, alike) for _ in range(n)]
        if fits([t.size for t in things]):
            return stage(rng, rng.sample(things, len(things)))


def _expression(facts: Facts, world: World, rng: Random, i: int) -> tuple[str, str] | None:
    """The kind and the words. What fits most rarely comes first more often, so that the three kinds are about as frequent."""
    first = rng.random()
    order = [_relation, _colour, _extreme] if first < 0.45 else [_colour, _extreme] if first < 0.6 else [_extreme, _colour]
    for kind in order:
        if said := kind(facts, world, rng, i):
            return kind.__name__[1:], said
    return None


def _colour(facts: Facts, world: World, rng: Random, i: int) -> str:
    t = facts.things[i]
    return f"the {COLOURS[t.colour].word} {t.kind.word}" if facts.count(t.category, t.colour) == 1 else ""


def _extreme(facts: Facts, world: World, rng: Random, i: int) -> str:
    t = facts.things[i]
    alike = facts.which(t.category)
    fitting = [which for which in EXTREMES if facts.extreme(which, alike) == i]
    return f"the {rng.choice(fitting)} {t.kind.word}" if fitting else ""


def _relation(facts: Facts, world: World, rng: Random, i: int) -> str:
    """The anchor is named by its colour; the thing's companions must be plainly elsewhere."""
    t = facts.things[i]
    rivals = [j for j in facts.which(t.category) if j != i]
    fitting = []
    for j, anchor in enumerate(facts.things):
        if not world.says(t.kind, anchor.kind) or facts.count(anchor.category, anchor.colour) > 1:
            continue
        said = facts.relation(i, j)
        if said and all(facts.relation(rival, j) not in (None, said) for rival in rivals):
            fitting.append(f"the {t.kind.word} {said} the {COLOURS[anchor.colour].word} {anchor.kind.word}")
    return rng.choice(fitting) if fitting else ""
