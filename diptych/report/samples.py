"""The page of `diptych data show`: drawn pictures of a data set, with all that its readers know of each.

Readers of one place (COCO's captions, Visual Genome's regions, VQA's questions) meet at the picture: whatever names the same file
stands in one figure.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diptych.contracts import Reader, Sample
from diptych.data.picture import BrokenPicture, decode
from diptych.report.page import Section, macro, page
from diptych.report.sheet import Scene, contact_sheet

MOST = 8  # texts that one reader gives to a figure


def samples_page(name: str, split: str, readers: Mapping[str, Reader], n: int, seed: int = 0) -> str:
    """`n` pictures of a split, drawn by the seed, on one page."""
    known: dict[Path | bytes, list[tuple[str, Reader, int]]] = {}
    for reader_name, reader in readers.items():
        for index in range(len(reader)):
            for picture in reader[index].images[:1]:  # boxes are of the first
                known.setdefault(picture, []).append((reader_name, reader, index))
    chance = random.Random(seed)
    drawn = chance.sample(list(known), min(n, len(known)))
    scenes, broken = [], []
    for picture in drawn:
        told = {reader_name: [r[i] for other, r, i in known[picture] if other == reader_name] for reader_name, *_ in known[picture]}
        try:
            scenes.append(_scene(picture, told, chance))
        except BrokenPicture as error:
            broken.append(f"{picture if isinstance(picture, Path) else next(iter(told.values()))[0].key}: {error}")
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


def _scene(picture: Path | bytes, told: Mapping[str, Sequence[Sample]], chance: random.Random) -> Scene:
    captions: list[str] = []
    questions: list[tuple[str, str]] = []
    boxes: dict[tuple[float, float, float, float, str], None] = {}
    for samples in told.values():
        asked = [s for s in samples if _is_question(s)]
        said = [(s, text) for s in samples if not _is_question(s) for text in s.texts]
        if len({s.language for s, _ in said}) > 1:  # of many languages English, where it is there, and drawn others
            said = sorted(chance.sample(said, len(said)), key=lambda one: one[0].language != "en")
        foreign = any(s.language != "en" for s, _ in said)
        captions += _first(f"{s.language}: {text}" if foreign else text for s, text in said)
        questions += [(s.texts[0], str(s.labels.get("answer", "?"))) for s in asked[:MOST]]
        questions += [(f"and {len(asked) - MOST} more", "")] * (len(asked) > MOST)
        boxes |= {(*box.xyxy, box.name): None for s in samples for box in s.boxes}
    return Scene(decode(picture), captions, list(boxes), questions)


def _is_question(sample: Sample) -> bool:
    return "question_id" in sample.labels


def _first(texts: Iterable[str]) -> list[str]:
    different = list(dict.fromkeys(texts))
    return different[:MOST] + [f"and {len(different) - MOST} more"] * (len(different) > MOST)
