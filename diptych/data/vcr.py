"""VCR: questions about film stills with four answers and four reasons to choose from (Zellers et al., CVPR 2019).

Licence: for research, after a form at visualcommonsense.com; get vcr1annots.zip and vcr1images.zip there. 212,923 train, 26,534
val, 25,263 test questions; the labels of the test questions are not public: a prediction file goes to the benchmark's server.

    published                               embedded scenes
    DIR/train.jsonl, val.jsonl, test.jsonl  DIR/vcr/train.jsonl, ...
    DIR/vcr1images/<img_fn>                 DIR/images/<img_fn>
    DIR/vcr1images/<metadata_fn>            DIR/images/<metadata_fn>      boxes x1 y1 x2 y2 score, in pixels; names, width, height

A text is a list of words and of lists of places in `objects` (places may repeat). Here such a reference becomes the thing's name
and its number, counted from 1: "turtle 3". A person gets one of the official code's gender-neutral names, by its place: "Casey 1
and Riley 2". `Sample.boxes` are all objects of the picture in their order, so number n is box n - 1.

Labels of a sample: question_id (the annot_id), choices (answers), rationales; answer (the right one), right and right_rationale
(the places), where they are public. Its text is the question. Its group is the film. A file is checked as a whole when it is
opened, then read a line at a time: its lines would fill half a gigabyte.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from diptych.config import UserError
from diptych.contracts import Box, Sample
from diptych.data import files
from diptych.data.files import NUMBER, Problem

_NAME = "VCR"
_PICTURES = ("vcr1images", "images", "")
CHOICES = 4
# of the official code (rowanz/r2c); one of them is there twice
NAMES = (
    "Casey",
    "Riley",
    "Jessie",
    "Jackie",
    "Avery",
    "Jaime",
    "Peyton",
    "Kerry",
    "Jody",
    "Kendall",
    "Peyton",
    "Skyler",
    "Frankie",
)
NAMES += ("Pat", "Quinn")

_LINE = {
    **dict.fromkeys(("annot_id", "img_fn", "metadata_fn"), str),
    **{"objects": [str], "question": list, "answer_choices": [list], "rationale_choices": [list]},
    **{"answer_label?": int, "rationale_label?": int, "movie?": str},
}
_METADATA = {"boxes": [[NUMBER]], "names": [str], "width": int, "height": int}


class VCR:
    purposes = frozenset({"vcr"})
    looks_for = "SPLIT.jsonl with answer_choices and rationale_choices, in DIR or DIR/vcr"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> VCR:
        tables = _tables(root)
        if tables and split not in tables:
            raise files.no_split(_NAME, split, tables, root)
        return cls(root, split, tables.get(split) or files.needed(_NAME, root, (f"{split}.jsonl", f"vcr/{split}.jsonl")), limit)

    def __init__(self, root: Path, split: str, table: Path, limit: int | None):
        self._table, self._settings = table, (split, limit)
        problems: list[Problem] = []
        numbers, ids, first = array("q"), [], ""
        for number, row in files.json_lines(table, problems):
            if len(numbers) == limit:
                break
            if said := files.amiss(row, _LINE) or _amiss(row):
                problems.append(Problem("broken lines", f"{table}:{number}: {said}"))
            numbers.append(number)
            ids.append(row.get("annot_id"))
            first = first or str(row.get("img_fn", ""))
        files.refuse(problems)
        if not numbers:
            raise UserError(f"{table}: no question in it")
        files.refuse_repeated(table, "question", ids)
        self._folder = files.picture_folder(_NAME, root, _PICTURES, first)
        with table.open("rb") as lines:
            starts = array("q", accumulate(map(len, lines), initial=0))
        self._start = array("q", (starts[number - 1] for number in numbers))

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: int) -> Sample:
        with self._table.open("rb") as lines:
            lines.seek(self._start[index])
            row = json.loads(lines.readline())
        boxes = _boxes(self._folder / row["metadata_fn"], row)
        labels: dict[str, Any] = {"question_id": row["annot_id"]}
        for name, kind in (("choices", "answer"), ("rationales", "rationale")):
            labels[name] = tuple(told(tokens, row["objects"]) for tokens in row[f"{kind}_choices"])
        for name, kind in (("right", "answer"), ("right_rationale", "rationale")):
            if row.get(f"{kind}_label") is not None:
                labels[name] = row[f"{kind}_label"]
        if "right" in labels:
            labels["answer"] = labels["choices"][labels["right"]]
        return Sample(
            key=row["annot_id"],
            images=(self._folder / row["img_fn"],),
            texts=(told(row["question"], row["objects"]),),
            boxes=boxes,
            labels=labels,
            group=row.get("movie") or row["img_fn"],
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._table], *self._settings)


def _tables(root: Path) -> dict[str, Path]:
    """Split -> its file."""
    found = [path for folder in ("vcr", ".") for path in sorted((root / folder).glob("*.jsonl")) if path.is_file()]
    return {path.stem: path for path in reversed(found) if '"rationale_choices"' in files.first_line(path)}


def _amiss(row: dict[str, Any]) -> str:
    """What is wrong in a line whose fields are there."""
    things = len(row["objects"])
    for kind in ("answer", "rationale"):
        choices, label = row[f"{kind}_choices"], row.get(f"{kind}_label")
        if len(choices) != CHOICES:
            return f"'{kind}_choices' must be {CHOICES} texts, not {len(choices)}"
        if label is not None and not 0 <= label < CHOICES:
            return f"'{kind}_label' must be 0 to {CHOICES - 1}, not {label}"
    for tokens in (row["question"], *row["answer_choices"], *row["rationale_choices"]):
        if not tokens:
            return "an empty text"
        for token in tokens:
            if isinstance(token, list):
                if not token or not all(type(place) is int and 0 <= place < things for place in token):
                    return f"{json.dumps(token)} must be places of the {things} objects"
            elif not isinstance(token, str):
                return f"{json.dumps(token)} is no word and no list of places of objects"
    return ""


def told(tokens: Sequence[str | list[int]], objects: Sequence[str]) -> str:
    """A text whose references are names and numbers."""
    said = []
    for token in tokens:
        if isinstance(token, str):
            said.append(token)
        else:
            said.append(" and ".join(f"{_called(objects[place], place)} {place + 1}" for place in dict.fromkeys(token)))
    return " ".join(" ".join(said).split())


def _called(name: str, place: int) -> str:
    return NAMES[place % len(NAMES)] if name == "person" else name


def _boxes(path: Path, row: dict[str, Any]) -> tuple[Box, ...]:
    try:
        about = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it has the boxes of question {row['annot_id']}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None
    if said := files.amiss(about, _METADATA):
        raise UserError(f"{path}: {said}")
    boxes = about["boxes"]
    if len(boxes) != len(row["objects"]):
        raise UserError(f"{path}: {len(boxes)} boxes, but question {row['annot_id']} has {len(row['objects'])} objects")
    if any(len(box) < 4 for box in boxes):
        raise UserError(f"{path}: a box of fewer than four numbers")
    return tuple(Box((box[0], box[1], box[2], box[3]), name) for box, name in zip(boxes, row["objects"], strict=True))


def example(root: Path) -> None:
    """Four questions about two stills of one film, in the published layout."""
    names = [f"lsmdc_1/{n}.jpg" for n in "ab"]
    files.example_pictures(root / "vcr1images/lsmdc_1", [name.rpartition("/")[2] for name in names])
    objects = ["person", "person", "cup"]
    boxes = [[2, 4, 14, 30, 0.99], [20, 4, 32, 30, 0.98], [15, 20, 20, 26, 0.9]]
    rows = []
    for n in range(2):
        about = {"boxes": boxes, "segms": [[]] * 3, "names": objects, "width": 48, "height": 32}
        (root / "vcr1images" / names[n].replace(".jpg", ".json")).write_text(json.dumps(about))
        for k in range(2):
            rows.append(
                {
                    "movie": "lsmdc_1",
                    "annot_id": f"val-{2 * n + k}",
                    "img_id": f"val-{n}",
                    "question_number": k,
                    "img_fn": names[n],
                    "metadata_fn": names[n].replace(".jpg", ".json"),
                    "objects": objects,
                    "question": ["What", "will", [k], "drink", "?"],
                    "answer_choices": [[[k], "will", "drink", word, "."] for word in ("tea", "milk", "water", "nothing")],
                    "answer_label": k,
                    "rationale_choices": [[[k], "and", [1 - k, 1 - k], verb, [2], "."] for verb in ("hold", "see", "fill", "hide")],
                    "rationale_label": 3 - k,
                    "match_fold": "val-0",
                }
            )
    (root / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
