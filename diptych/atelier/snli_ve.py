"""SNLI-VE (Xie et al., 2019): does the picture entail a sentence, contradict it, or leave it open?

One quarter of each picture is curtained, and a sentence speaks of one quarter. Three pictures and three sentences make a Latin
square, so every sentence and every picture has each label once and neither alone says anything:

                 about the 2nd quarter   about the 1st        about the 3rd
    1st curtained   entailment              neutral              contradiction
    2nd curtained   neutral                 contradiction        entailment
    3rd curtained   contradiction           entailment           neutral

`sentence1`, the caption that SNLI judged by, says nothing here. `Flickr30K_ID` plus ".jpg" is the file, relative to images.
"""

from __future__ import annotations

from random import Random
from typing import Any

from diptych.atelier.compose import GAP, SIDE, Scene, Thing, quadrant_corner, stage, thing, turned_into
from diptych.atelier.facts import QUARTERS, SIZES
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, LARGE, SMALL, World

SCENES = 3
LABELS = ("entailment", "neutral", "contradiction")


def derive(world: World, rng: Random, index: int, image_ids: list[int], group: str) -> tuple[list[Scene], dict[str, list[Any]]]:
    first, second, third, fourth = rng.sample(range(4), 4)
    quarters = (second, first, third)  # of the three sentences
    says, likes, unlikes = zip(*(_sentence(world, rng, quarter) for quarter in quarters), strict=True)
    open_quarter = [_put(rng, thing(rng, world), fourth)] if rng.random() < 0.8 else []
    ground = stage(rng, []).ground, rng.randrange(44, 100)
    scenes = [
        Scene((likes[0], unlikes[2], *open_quarter), *ground, curtain=first),
        Scene((unlikes[1], likes[2], *open_quarter), *ground, curtain=second),
        Scene((unlikes[0], likes[1], *open_quarter), *ground, curtain=third),
    ]
    labels = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    rows = []
    for n, (image_id, of_picture) in enumerate(zip(image_ids, labels, strict=True)):
        for m, label in enumerate(of_picture):
            rows.append(
                {
                    "annotator_labels": [LABELS[label]] * 5,
                    "captionID": f"{image_id:08d}.jpg#0",
                    "gold_label": LABELS[label],
                    "pairID": f"{world.split}-{index}-{n}{m}",
                    "sentence1": "A picture with a curtain.",
                    "sentence2": says[m],
                    "Flickr30K_ID": f"{world.split}/{image_id:08d}",
                    "group": group,
                }
            )
    return scenes, {"snli_ve": rows}


def _sentence(world: World, rng: Random, quarter: int) -> tuple[str, Thing, Thing]:
    """A sentence about a quarter, a thing there that makes it true, and one that makes it false."""
    likes = _put(rng, thing(rng, world), quarter)
    colour, name, where = COLOURS[likes.colour].word, likes.kind.word, QUARTERS[quarter]
    by = rng.choice(["colour", "category", "size"])
    if by == "size":
        said = [f"The thing in the {where} is {SIZES[likes.large]}.", f"There is a {SIZES[likes.large]} thing in the {where}."]
        return rng.choice(said), likes, likes._replace(size=rng.choice(SMALL if likes.large else LARGE))
    if by == "colour":
        other = rng.choice([k for k in world.colours[likes.category] if k != likes.colour])
        said = [f"The thing in the {where} is {colour}.", f"There is {_a(f'{colour} {name}')} in the {where}."]
        return rng.choice(said), likes, likes._replace(colour=other)
    kinds = [c for c in world.categories if c is not CATEGORIES[likes.category] and likes.colour in world.colours[c.number]]
    said = [f"There is {_a(name)} in the {where}.", f"There is {_a(f'{colour} {name}')} in the {where}."]
    return rng.choice(said), likes, turned_into(rng, world, likes, rng.choice(kinds))


def _put(rng: Random, t: Thing, quarter: int) -> Thing:
    """Anywhere in a quarter, with room to become large."""
    x, y = quadrant_corner(quarter)
    rim = LARGE[-1] // 2 + GAP
    free = SIDE // 2 - 2 * rim
    return t._replace(cx=x + rim + rng.randrange(free), cy=y + rim + rng.randrange(free))


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
