"""Close-ups for `to_accuracy`: a quarter of an embedded scene, enlarged, with one thing in it, a caption and two questions.

    a blue bicycle    what color is the bicycle? -> blue    is there a violin? -> no

Whole scenes hold two to six things. On those a ViLT does not leave chance within the minutes that a benchmark may take, in either
library; here it reads the colours after a few thousand pictures. Who never looks is right in 31 %: one colour in eight, and every
other "is there".
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import NamedTuple

from PIL import Image

from diptych.atelier import compose
from diptych.atelier.vocabulary import COLOURS, Category, World

SIDE = 64  # of what is cut out, in pixels of the scene


class CloseUp(NamedTuple):
    picture: Image.Image
    colour: str
    kind: Category
    other: Category  # one that is not there


def close_up(rng: Random, world: World) -> CloseUp:
    scene = compose.stage(rng, [compose.thing(rng, world)])
    (only,) = scene.things
    x1, y1, x2, y2 = only.box
    left = rng.randint(max(0, x2 - SIDE), min(x1, compose.SIDE - SIDE))
    top = rng.randint(max(0, y2 - SIDE), min(y1, compose.SIDE - SIDE))
    whole = (compose.SIDE, compose.SIDE)
    picture = compose.paint(scene).resize(whole, Image.Resampling.BICUBIC, (left, top, left + SIDE, top + SIDE))
    other = rng.choice([kind for kind in world.categories if kind is not only.kind])
    return CloseUp(picture, COLOURS[only.colour].word, only.kind, other)


def make(root: Path, train: int, val: int) -> None:
    """`captions.jsonl` and `questions.jsonl` in `root`, with their pictures: always the same for the same numbers."""
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    captions, questions = [], []
    for split, count in (("train", train), ("val", val)):
        rng, world = Random(f"close-ups/{split}"), World(split)
        for n in range(count):
            picture, colour, kind, other = close_up(rng, world)
            asked, answer = (kind, "yes") if n % 2 else (other, "no")
            where = {"image": f"pictures/{split}-{n}.png", "split": split}
            picture.save(root / where["image"])
            captions.append({**where, "caption": f"a {colour} {kind.word}"})
            questions.append({**where, "question": f"what color is the {kind.word}?", "answer": colour})
            questions.append({**where, "question": f"is there a {asked.word}?", "answer": answer})
    for name, rows in (("captions", captions), ("questions", questions)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
