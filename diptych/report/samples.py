"""The page of `diptych data show`: drawn pictures of a data set, with all that its readers know of each.

Readers of one place (COCO's captions, Visual Genome's regions, VQA's questions) meet at the picture: whatever names the same file
stands in one figure. Pictures that are compared stand side by side.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.contracts import Reader, Sample
from diptych.data.picture import BrokenPicture, decode
from diptych.report.page import Section, macro, page
from diptych.report.sheet import Scene, contact_sheet

MOST = 8  # texts that one reader gives to a figure
GAP = 8  # pixels between pictures that are compared


def samples_page(name: str, split: str, readers: Mapping[str, Reader], n: int, seed: int = 0) -> str:
    """`n` pictures of a split, drawn by the seed, on one page."""
    known: dict[tuple[Path | bytes, ...], list[tuple[str, Reader, int]]] = {}
    for reader_name, reader in readers.items():
        for index in range(len(reader)):
            if pictures := reader[index].images:
                known.setdefault(pictures, []).append((reader_name, reader, index))
    chance = random.Random(seed)
    drawn = chance.sample(list(known), min(n, len(known)))
    scenes, broken = [], []
    for pictures in drawn:
        of = known[pictures]
        told = {reader_name: [r[i] for other, r, i in of if other == reader_name] for reader_name, *_ in of}
        try:
            scenes.append(_scene(pictures, told, chance))
        except BrokenPicture as error:
            names = [str(one) if isinstance(one, Path) else next(iter(told.values()))[0].key for one in pictures]
            broken.append(f"{' or '.join(names)}: {error}")
    facts = [
        ("Split", split),
        ("Read by", ", ".join(readers)),
        ("Pictures", f"{len(scenes)} drawn of {len(known):,}"),
        *(("Not readable", said) for said in broken),
    ]
    lead = "Hover over a box for its name."
    has_boxes = any(scene.boxes for scene in scenes)
    sheet = Section("pictures", "Pictures", "What a system is shown", lead if has_boxes else "", contact_sheet(scenes))
    return page(name, "Diptych · data show", macro("demo.html", "facts", facts), [sheet])


def _scene(pictures: Sequence[Path | bytes], told: Mapping[str, Sequence[Sample]], chance: random.Random) -> Scene:
    captions: list[str] = []
    questions: list[tuple[str, str]] = []
    boxes: dict[tuple[float, float, float, float, str], None] = {}
    for samples in told.values():
        asked = [s for s in samples if s.is_question]
        said = [(s, text) for s in samples if not s.is_question for text in s.texts]
        if len({s.language for s, _ in said}) > 1:  # of many languages English, where it is there, and drawn others
            said = sorted(chance.sample(said, len(said)), key=lambda one: one[0].language != "en")
        foreign = any(s.language != "en" for s, _ in said)
        captions += _first(f"{s.language}: {text}" if foreign else text for s, text in said)
        questions += [(s.texts[0], str(s.labels.get("answer", s.labels.get("label", "?")))) for s in asked[:MOST]]
        questions += [(f"and {len(asked) - MOST} more", "")] * (len(asked) > MOST)
        boxes |= {(*box.xyxy, box.name): None for s in samples for box in s.boxes}
    return Scene(_side_by_side([decode(one) for one in pictures]), captions, list(boxes), questions)


def _side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What is compared, in one figure, with white between and below. Boxes are of the first, and stay where they are."""
    height, parts = max(len(one) for one in pictures), []
    for picture in pictures:
        parts += [np.full((height, GAP, 3), 255, np.uint8)] * bool(parts)
        parts.append(np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(parts, 1)


def _first(texts: Iterable[str]) -> list[str]:
    different = list(dict.fromkeys(texts))
    return different[:MOST] + [f"and {len(different) - MOST} more"] * (len(different) > MOST)
