"""VCR (Zellers et al., 2019): what will a person do next, and how do you know?

People are tagged "person" only, so their trade must be seen. Both people of a picture are asked about with the same four answers,
of which two are right for one of them. The four rationales agree with the right answer and differ in what can be seen: a
direction and a colour, each right or wrong, so no rationale is the odd one out.

Tokens are words or lists of places in `objects`. Boxes are in the metadata file beside the picture: `img_fn` and `metadata_fn` are
relative to the folder of images, as in the published archive.
"""

from __future__ import annotations

from random import Random
from typing import Any

from diptych.atelier.coco import file_name
from diptych.atelier.compose import SIDE, Scene, Thing, families, fits, silhouette, stage, thing
from diptych.atelier.facts import OPPOSITE, Facts
from diptych.atelier.vocabulary import COLOURS, NATURAL, PEOPLE, ROLES, Role, World

SCENES = 1

Tokens = list[str | list[int]]


def derive(world: World, rng: Random, index: int, image_ids: list[int], group: str) -> tuple[list[Scene], dict[str, list[Any]]]:
    roles = rng.sample(ROLES, 4)  # of the first person, of the second, of nobody
    while True:
        things = [_person(rng, world, roles[0]), _person(rng, world, roles[1])]
        things += [thing(rng, world) for _ in range(rng.randint(2, 3))]
        kinds = [t.category for t in things[2:]]
        if len(set(kinds)) < len(kinds) or not fits([t.size for t in things]):
            continue
        scene = stage(rng, things)
        facts = Facts(scene)
        beside = [[j for j in range(2, len(things)) if facts.relation(person, j)] for person in (0, 1)]
        if all(beside):
            break
    image_id = image_ids[0]
    names = ["person" if t.colour == NATURAL else t.kind.word for t in scene.things]
    rows = []
    for person in (0, 1):
        right = roles[person]
        candidates = rng.sample(roles, 4)
        answers = [[[person], "will", *role.deed.split(), "."] for role in candidates]
        other = rng.choice(beside[person])
        reasons, best = _rationales(world, rng, facts, person, other, right)
        rows.append(
            {
                "annot_id": f"{world.split}-{index}-{person}",
                "img_id": f"{world.split}-{image_id}",
                "img_fn": file_name(world.split, image_id),
                "metadata_fn": file_name(world.split, image_id).replace(".jpg", ".json"),
                "movie": group,
                "match_fold": f"{world.split}-0",
                "question_number": person,
                "objects": names,
                "question": ["What", "will", [person], "do", "next", "?"],
                "answer_choices": answers,
                "answer_label": candidates.index(right),
                "rationale_choices": reasons,
                "rationale_label": best,
            }
        )
    metadata = {
        "boxes": [[*t.box, 1.0] for t in scene.things],
        "segms": [[_points(t)] for t in scene.things],
        "names": names,
        "width": SIDE,
        "height": SIDE,
    }
    return [scene], {"vcr": rows, "files": [(f"images/{rows[0]['metadata_fn']}", metadata)]}


def _person(rng: Random, world: World, role: Role) -> Thing:
    slug = rng.choice([slug for slug in role.slugs if families(slug, world.families)])
    return Thing(slug, rng.choice(families(slug, world.families)), -1, NATURAL, rng.choice(PEOPLE), rng.random() < 0.5)


def _rationales(world: World, rng: Random, facts: Facts, person: int, other: int, role: Role) -> tuple[list[Tokens], int]:
    """[0] is a cook and is left of [2] , which is red . The right and the wrong direction times the right and a wrong colour."""
    t = facts.things[other]
    said = facts.relation(person, other)
    assert said
    colours = [t.colour, rng.choice([k for k in world.colours[t.category] if k != t.colour])]
    facts_said = [(where, colour) for where in (said, OPPOSITE[said]) for colour in colours]
    order = rng.sample(range(4), 4)
    trade = ["is", "an" if role.word[0] in "aeiou" else "a", *role.word.split()]
    reasons: list[Tokens] = [
        [[person], *trade, "and", "is", *where.split(), [other], ",", "which", "is", COLOURS[colour].word, "."]
        for where, colour in (facts_said[n] for n in order)
    ]
    return reasons, order.index(0)


def _points(t: Thing) -> list[list[int]]:
    flat, _ = silhouette(t)
    return [list(point) for point in zip(flat[::2], flat[1::2], strict=True)]
