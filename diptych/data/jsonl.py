"""Own data, a line for each question: what its layouts have in common, so that a layout is its fields and nothing else.

    vqa_jsonl     {"image": "tom.jpg", "question": "is the cat asleep?", "answer": "yes"}
    ve_jsonl      {"image": "tom.jpg", "text": "The cat is asleep.", "label": "entailment"}
    nlvr2_jsonl   {"images": ["tom.jpg", "kit.jpg"], "text": "One cat is asleep.", "label": true}
    vcr_jsonl     {"image": "tom.jpg", "question": "What will it do?", "answers": ["Sleep.", "Eat.", "Run."], "right": 0}
    rec_jsonl     {"image": "tom.jpg", "text": "the cat on the left", "box": [12, 40, 220, 310]}

    DIR/asked.jsonl     any name; or train.jsonl, val.jsonl, test.jsonl, one for each split; or give the file itself
    DIR/tom.jpg         paths are relative to the file's folder

The keys of a file's first line tell what layout it is of (`Jsonl.marks`). Every layout understands three more fields: an id,
which names the line in predictions (default: file name and line), "split" (then on every line) and "group" (what belongs together
shares a split and a draw of intervals). Without splits, a hash of the group, or else of the first picture's path, puts 90 % into
train, 5 % into val and 5 % into test; split "all" is everything. What is not answered can be asked, not learnt from or scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from diptych.config import UserError, nearest
from diptych.contracts import Box, Sample
from diptych.data import files
from diptych.data.files import Problem

_NAME = "The data"
_KEY = re.compile(r'"(\w+)"\s*:')


# ------------------------------------------------------------------------- lines of any table: where, what, which split


@dataclass(frozen=True)
class Line:
    """One line of the user's own, wherever it stands."""

    where: str  # file:line
    images: tuple[str, ...]  # relative to the folder
    split: str  # "" where a hash decides
    group: str  # what the hash is of

    @property
    def part(self) -> str:
        return self.split or files.hashed_split(self.group)


L = TypeVar("L", bound=Line)


def in_split(lines: Sequence[L], split: str, root: Path) -> list[L]:
    """The lines of one split, or what splits there are."""
    wanted = [line for line in lines if split in ("all", line.part)]
    if not wanted:
        splits = [*dict.fromkeys(line.part for line in lines), "all"]
        if split in files.HASHED and lines and not lines[0].split:
            raise files.empty_split(_NAME, split, splits, root, len({line.images for line in lines}))
        raise files.no_split(_NAME, split, splits, root)
    return wanted


def by_split(lines: Sequence[L]) -> dict[str, list[L]]:
    parts: dict[str, list[L]] = {}
    for line in lines:
        parts.setdefault(line.part, []).append(line)
    return parts


def sound(lines: Sequence[L], folder: Path, what: str) -> tuple[list[L], list[Problem]]:
    """The lines whose pictures are there, and what is amiss: pictures that are not, a split on some lines only."""
    gone = files.absent(folder, dict.fromkeys(image for line in lines for image in line.images))
    problems = [
        Problem(f"{what} without a picture", f"{line.where}: no picture {folder / image}")
        for line in lines
        for image in line.images
        if image in gone
    ]
    if any(line.split for line in lines):
        problems += [
            Problem("lines without a split", f"{line.where}: no split for {line.images[0]}, while other lines have one")
            for line in lines
            if not line.split
        ]
    return [line for line in lines if not gone.intersection(line.images)], problems


def keys(path: Path) -> set[str]:
    """What stands before a colon in a .jsonl file's first line, though the line may be broken."""
    return set(_KEY.findall(files.first_line(path))) if path.suffix == ".jsonl" else set()


def asks(path: Path) -> bool:
    """Whether the lines of a file ask something of their pictures: a caption does not."""
    found = keys(path)
    return "question" in found or ({"text"} < found & {"text", "label", "box"} and bool(found & {"image", "images"}))


# ------------------------------------------------------------------------------------------------ questions as .jsonl


@dataclass(frozen=True)
class Asked(Line):
    sample: Sample


@dataclass(frozen=True)
class Row:
    """One line of a .jsonl file, to be asked for its fields: whatever is amiss with one is a UserError that names the place."""

    where: str
    fields: Mapping[str, Any]
    folder: Path
    split: str  # of the file's name, or ""
    number: Any  # what names the line in predictions

    def has(self, name: str) -> bool:
        """Whether a field is there. One that is misspelt is not taken for none."""
        if near := "" if name in self.fields else _misspelt(name, tuple(self.fields)):
            raise UserError(f"{self.where}: no '{name}' here; did you mean '{near}'?")
        return name in self.fields

    def __contains__(self, name: str) -> bool:
        """Whether a field is there and holds something."""
        return self.has(name) and self.fields[name] is not None

    def given(self, name: str) -> Any:
        if name not in self.fields:
            raise UserError(f"{self.where}: no '{name}' here{nearest(name, self.fields)}".replace("valid:", "found:"))
        return self.fields[name]

    def text(self, name: str) -> str:
        """Numbers are taken as texts, too: an answer may be 2."""
        return self._text(name, self.given(name))

    def texts(self, name: str, count: int | None = None) -> list[str]:
        """A list of so many texts."""
        value = self.given(name)
        if not isinstance(value, list) or len(value) != (len(value) if count is None else count):
            of = "texts" if count is None else f"{count} texts"
            raise UserError(f"{self.where}: '{name}' must be a list of {of}, not {_shown(value)}")
        return [self._text(name.removesuffix("s"), one) for one in value]

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of few texts, in any case."""
        said = self.text(name).lower()
        if said not in choices:
            raise UserError(f"{self.where}: '{name}' is '{said}'{nearest(said, choices)}")
        return said

    def truth(self, name: str) -> bool:
        """true or false, or one of these as a text."""
        value = self.given(name)
        if str(value).lower() not in ("true", "false"):
            raise UserError(f"{self.where}: '{name}' must be true or false, not {_shown(value)}")
        return str(value).lower() == "true"

    def line(self, images: Sequence[str], text: str, labels: Mapping[str, Any], boxes: Sequence[Box] = ()) -> Asked:
        """What the line says, put together. `images`: as they stand there."""
        names = tuple(files.relative(image) for image in images)
        split, group = (str(self.fields.get(name) or default) for name, default in (("split", self.split), ("group", names[0])))
        pictures = tuple(self.folder / name for name in names)
        labels = {"question_id": self.number, **labels}
        sample = Sample(str(self.number), pictures, (text,), boxes=tuple(boxes), labels=labels, group=group)
        return Asked(self.where, names, split, group, sample)

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise UserError(f"{self.where}: '{name}' must be a text, not {_shown(value)}")
        return str(value).strip()


@cache  # the lines of a file are alike
def _misspelt(name: str, there: tuple[str, ...]) -> str:
    """What is one or two letters from a name: `bbox` from `box`, but not `answer_type` from `answer`."""
    return next(iter(get_close_matches(name, there, n=1, cutoff=0.8)), "")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _files(root: Path) -> list[Path]:
    """The .jsonl file itself, or those of a folder."""
    found = [root] if root.suffix == ".jsonl" and root.is_file() else sorted(root.glob("*.jsonl"))
    return [path for path in found if path.is_file()]


class Jsonl:
    """A reader of one layout."""

    purposes: ClassVar[frozenset[str]]
    looks_for: ClassVar[str]
    marks: ClassVar[frozenset[str]]  # keys that the first line of such a file has
    unlike: ClassVar[frozenset[str]] = frozenset()  # and keys that make it a file of another layout
    answer: ClassVar[str] = "label"  # the label that is learnt
    number: ClassVar[str] = "id"  # the field that names a line
    line: ClassVar[Callable[[Row], Asked]]  # what one line says

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(cls._tables(root))

    @classmethod
    def lacks(cls, root: Path) -> str:
        """The one field that keeps a file from being of this layout, said to whoever asks for it; or nothing."""
        for path in _files(root):
            there = keys(path)
            if there and len(absent := cls.marks - there) == 1:
                (field,) = absent
                return f"{path}: no '{field}' in its first line{nearest(field, there).replace('valid:', 'found:')}"
        return ""

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Jsonl:
        lines, problems = cls._read(root)
        files.refuse(problems)
        return cls(root, split, limit, in_split(lines, split, root))

    @classmethod
    def survey(cls, root: Path) -> tuple[dict[str, Jsonl], list[Problem]]:
        """Every split as far as it can be read, and all that is amiss: what `open` stops at, and lines without an answer."""
        lines, problems = cls._read(root)
        problems += [
            Problem("questions without an answer", f"{line.where}: no {cls.answer}", is_fatal=False)
            for line in lines
            if cls.answer not in line.sample.labels
        ]
        tables = cls._tables(root)
        problems += [
            Problem(
                "files that are not read", f"{path}: {tables[0].name} is named like a split, so only such are read", is_fatal=False
            )
            for path in cls._of_layout(root)
            if path not in tables
        ]
        return {split: cls(root, split, None, its) for split, its in by_split(lines).items()}, problems

    def __init__(self, root: Path, split: str, limit: int | None, lines: Sequence[Asked]):
        self._files, self._settings = self._tables(root), (split, limit)
        self._samples = [line.sample for line in lines[:limit]]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._files, *self._settings)

    @classmethod
    def _tables(cls, root: Path) -> list[Path]:
        """The file itself, or a folder's files of this layout; where one of them is named like a split, only such."""
        found = cls._of_layout(root)
        return [path for path in found if path.stem in files.HASHED and root.is_dir()] or found

    @classmethod
    def _of_layout(cls, root: Path) -> list[Path]:
        return [path for path in _files(root) if cls.marks <= (there := keys(path)) and not cls.unlike & there]

    @classmethod
    def _read(cls, root: Path) -> tuple[list[Asked], list[Problem]]:
        """The lines about pictures that are there, in order, and everything that keeps the data from being used as it is."""
        tables, problems, lines = cls._tables(root), [], []
        if not tables:
            raise UserError(f"{root}: {cls.looks_for} is expected there")
        for table in tables:
            split = table.stem if root.is_dir() and table.stem in files.HASHED else ""
            for number, fields in files.json_lines(table, problems):
                named = f"{table.stem}:{number}" if (given := fields.get(cls.number)) is None else given
                try:
                    lines.append(cls.line(Row(f"{table}:{number}", fields, table.parent, split, named)))
                except UserError as error:
                    problems.append(Problem("broken lines", str(error)))
        complete, more = sound(lines, tables[0].parent, "questions")
        problems += more
        first: dict[str, str] = {}
        problems += [
            Problem(
                f"{cls.number}s given twice",
                f"{line.where}: {line.sample.key} is the {cls.number} of {first[line.sample.key]}, too",
            )
            for line in lines
            if first.setdefault(line.sample.key, line.where) != line.where
        ]
        return complete, problems


def write_example(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """For the layouts' `example`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
