"""Your own questions about pictures: a jsonl file, one question a line.

    {"image": "cats/tom.jpg", "question": "is the cat asleep?", "answer": "yes"}       or "answers": ["yes", "yes", "no"]

    DIR/questions.jsonl     any name; or train.jsonl, val.jsonl, test.jsonl, one for each split; or give the file itself
    DIR/cats/tom.jpg        paths are relative to the file's folder

Further fields: "question_id" (default: file name and line), "question_type" (scores are broken down by it), "split" (then on every
line), "group". Fewer than ten answers stand for ten annotators, each in turn: one answer counts in full, and two are both right.
Without answers a question can be asked, not learnt from or scored.

Without splits, a hash of the group, or else of the picture's path, puts 90 % of the pictures into train, 5 % into val and 5 % into
test, with all their questions; split "all" is everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config import UserError, nearest
from diptych.contracts import Sample
from diptych.data import files
from diptych.data.files import Problem

_NAME = "The data"
_ANNOTATORS = 10


class _Line(NamedTuple):
    """One question, and where it stands."""

    where: str  # file:line
    image: str  # relative to the file's folder
    split: str  # "" where a hash decides
    sample: Sample


class VQAJsonl:
    purposes = frozenset({"vqa"})
    looks_for = "a .jsonl file of {image, question, answer}"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> VQAJsonl:
        lines, problems = _read(root)
        files.refuse(problems)
        wanted = [line for line in lines if split in ("all", _split(line))]
        if not wanted:
            splits = [*dict.fromkeys(_split(line) for line in lines), "all"]
            if split in files.HASHED and not lines[0].split:
                raise files.empty_split(_NAME, split, splits, root, len({line.image for line in lines}))
            raise files.no_split(_NAME, split, splits, root)
        return cls(root, split, limit, wanted)

    @classmethod
    def survey(cls, root: Path) -> tuple[dict[str, VQAJsonl], list[Problem]]:
        """Every split as far as it can be read, and all that is amiss: what `open` stops at, and questions without answers."""
        lines, problems = _read(root)
        by_split: dict[str, list[_Line]] = {}
        for line in lines:
            by_split.setdefault(_split(line), []).append(line)
        problems += [
            Problem("questions without an answer", f"{line.where}: no answer", is_fatal=False)
            for line in lines
            if "answers" not in line.sample.labels
        ]
        return {split: cls(root, split, None, its) for split, its in by_split.items()}, problems

    def __init__(self, root: Path, split: str, limit: int | None, lines: Sequence[_Line]):
        self._tables, self._settings = _tables(root), (split, limit)
        self._samples = [line.sample for line in lines[:limit]]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._tables, *self._settings)


# ---------------------------------------------------------------------------------------------- reading the questions


def _tables(root: Path) -> list[Path]:
    """The file itself, or a folder's files of questions; where one of them is named like a split, only such."""
    found = [root] if root.is_file() and root.suffix == ".jsonl" else sorted(root.glob("*.jsonl"))
    found = [path for path in found if path.is_file() and '"question"' in files.first_line(path)]
    return [path for path in found if path.stem in files.HASHED and root.is_dir()] or found


def _read(root: Path) -> tuple[list[_Line], list[Problem]]:
    """The questions about pictures that are there, in order, and everything that keeps the data from being used as it is."""
    tables, problems, lines = _tables(root), [], []
    if not tables:
        raise UserError(f"{root}: {VQAJsonl.looks_for} is expected there")
    for table in tables:
        split = table.stem if root.is_dir() and table.stem in files.HASHED else ""
        for number, row in files.json_lines(table, problems):
            try:
                lines.append(_line(f"{table}:{number}", row, table, split, f"{table.stem}:{number}"))
            except UserError as error:
                problems.append(Problem("broken lines", str(error)))
    folder = tables[0].parent
    gone = files.absent(folder, dict.fromkeys(line.image for line in lines))
    problems += [
        Problem("questions without a picture", f"{line.where}: no picture {folder / line.image}")
        for line in lines
        if line.image in gone
    ]
    if any(line.split for line in lines):
        problems += [
            Problem("lines without a split", f"{line.where}: no split, while other lines have one")
            for line in lines
            if not line.split
        ]
    first: dict[str, str] = {}
    problems += [
        Problem("question_ids given twice", f"{line.where}: {line.sample.key} is the question_id of {first[line.sample.key]}, too")
        for line in lines
        if first.setdefault(line.sample.key, line.where) != line.where
    ]
    return [line for line in lines if line.image not in gone], problems


def _line(where: str, row: Mapping[str, Any], table: Path, split: str, key: str) -> _Line:
    def text(name: str, given: Any) -> str:
        if isinstance(given, bool) or not isinstance(given, str | int | float) or not str(given).strip():
            raise UserError(f"{where}: '{name}' must be a text, not {json.dumps(given, ensure_ascii=False)}")
        return str(given).strip()

    for name in ("image", "question"):
        if name not in row:
            raise UserError(f"{where}: no '{name}' here{nearest(name, row)}".replace("valid:", "found:"))
    said = row.get("answers", [row["answer"]] if "answer" in row else [])
    if not isinstance(said, list):
        raise UserError(f"{where}: 'answers' must be a list of texts, not {json.dumps(said, ensure_ascii=False)}")
    answers = [text("answer", answer) for answer in said]
    image, question = files.relative(text("image", row["image"])), text("question", row["question"])
    split, group, kind = (
        str(row.get(name) or default) for name, default in (("split", split), ("group", ""), ("question_type", ""))
    )
    number = row.get("question_id", key)
    labels: dict[str, Any] = {"question_id": number, "question_type": kind}
    if answers:
        labels |= {"answer": Counter(answers).most_common(1)[0][0], "answers": _ten(answers)}
    sample = Sample(str(number), (table.parent / image,), (question,), labels=labels, group=group or image)
    return _Line(where, image, split, sample)


def _ten(answers: Sequence[str]) -> tuple[str, ...]:
    """Ten annotators out of few answers, each in turn; ten or more stay as they are."""
    return tuple(answers[n % len(answers)] for n in range(max(_ANNOTATORS, len(answers))))


def _split(line: _Line) -> str:
    return line.split or files.hashed_split(line.sample.group)


def example(root: Path) -> None:
    """Four questions about two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    asked = [("tom", "is the cat asleep?", "yes"), ("tom", "what colour is it?", "grey"), ("kit", "is the cat asleep?", "no")]
    rows: list[dict[str, Any]] = [
        {"image": f"cats/{name}.jpg", "question": question, "answer": answer} for name, question, answer in asked
    ]
    rows.append({"image": "cats/kit.jpg", "question": "what is it?", "answers": ["kitten", "cat", "kitten"]})
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
