"""Your own phrases that each mean one thing of a picture: a jsonl file, one a line (data/jsonl.py).

    {"image": "cats/tom.jpg", "text": "the cat on the left", "box": [12, 40, 220, 310]}

The box is x1 y1 x2 y2 in pixels of the picture, turned upright, and lies in the picture; null where it is to be found out. What is
meant on other lines of the same picture is what there is to choose from; where most pictures have one line only,
`--set task.candidates=windows` chooses from boxes laid over the picture. Further fields: "id", "kind" (scores are broken down by
it), "split", "group".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.config import UserError
from diptych.contracts import Box
from diptych.data import files
from diptych.data.files import NUMBER, Problem
from diptych.data.jsonl import Asked, Jsonl, Row, write_example
from diptych.data.picture import upright_size


class RECJsonl(Jsonl):
    purposes = frozenset({"rec"})
    looks_for = "a .jsonl file of {image, text, box}"
    marks = frozenset({"image", "text", "box"})
    answer = "right"

    @staticmethod
    def line(row: Row) -> Asked:
        labels: dict[str, Any] = {"kind": str(row.fields.get("kind") or "")}
        boxes = [_box(row)] if "box" in row else []
        if boxes:
            labels |= {"right": 0, "answer": " ".join(f"{v:g}" for v in boxes[0].xyxy)}
        return row.line([row.text("image")], row.text("text"), labels, boxes)

    @classmethod
    def _read(cls, root: Path) -> tuple[list[Asked], list[Problem]]:
        """Each line beside the boxes of all lines of its picture."""
        lines, problems = super()._read(root)
        of_picture: dict[Path | bytes, dict[Box, int]] = {}
        for line in lines:
            known = of_picture.setdefault(line.sample.images[0], {})
            for box in line.sample.boxes:
                known.setdefault(box, len(known))
        together = []
        for line in lines:
            sample, known = line.sample, of_picture[line.sample.images[0]]
            right = {"right": known[sample.boxes[0]]} if sample.boxes else {}
            together.append(replace(line, sample=replace(sample, boxes=tuple(known), labels={**sample.labels, **right})))
        return together, [*problems, *_outside(lines)]


def _box(row: Row) -> Box:
    said = row.given("box")
    if fault := files.amiss(said, (NUMBER,) * 4, "box"):
        raise UserError(f"{row.where}: {fault}")
    x1, y1, x2, y2 = said
    if not (0 <= x1 <= x2 - 1 and 0 <= y1 <= y2 - 1):
        shape = "x1 y1 x2 y2 in pixels (no fractions of the picture), from 0 on and at least one pixel wide and high"
        raise UserError(f"{row.where}: 'box' must be {shape}, not {said}")
    return Box((x1, y1, x2, y2))


def _outside(lines: Sequence[Asked]) -> Iterator[Problem]:
    """Boxes that do not lie in their picture, give or take a pixel of rounding.

    The heads of all pictures are read for it, however many there are, before anything is trained: a head takes less than half a
    millisecond, a fraction of what decoding will take, and a bad box that was met hours later would interrupt the training.
    """
    size_of: dict[Path, tuple[int, int] | None] = {}
    for line in lines:
        (picture,) = line.sample.images
        assert isinstance(picture, Path)
        for box in line.sample.boxes:
            if picture not in size_of:
                size_of[picture] = upright_size(picture)  # nothing of a broken one, which is another matter
            size, (x1, y1, x2, y2) = size_of[picture], box.xyxy
            if size and not (x1 < size[0] and y1 < size[1] and x2 <= size[0] + 1 and y2 <= size[1] + 1):
                shown, sides = ", ".join(f"{v:g}" for v in box.xyxy), " x ".join(map(str, size))
                said = f"{line.where}: the box {shown} reaches out of the picture, which has {sides} pixels"
                yield Problem("boxes outside the picture", said)


def example(root: Path) -> None:
    """Two things in each of two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    rows = [
        {"image": f"cats/{name}.jpg", "text": f"the cat on the {side}", "box": box}
        for name in ("tom", "kit")
        for side, box in (("left", [2, 4, 20, 30]), ("right", [26.5, 4, 44, 30]))
    ]
    write_example(root / "phrases.jsonl", rows)
