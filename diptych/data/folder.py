"""Your own pictures and captions: a folder, with the captions in one table or in a text file beside each picture.

    DIR/captions.jsonl      {"image": "cats/tom.jpg", "caption": "a grey cat on a sofa"}      or "captions": ["...", "..."]
    DIR/captions.csv        image,caption                                                     with this header
    DIR/captions.tsv        image<TAB>caption
    DIR/tom.jpg, tom.txt    without a table: tom.txt describes tom.jpg, one caption a line; subfolders too

Paths are relative to DIR; a table of another name is given as a path itself. metadata.jsonl or .csv with file_name and text
(Hugging Face's imagefolder) works too. A picture may come on several lines. Further columns: "split" (then on every line),
"language" (a code such as de; default en), "group" (pictures that belong together: they share a split, and a draw of intervals).

Without a split column, a hash of the group, or else of the picture's path, puts 90 % into train, 5 % into val and 5 % into test,
the same ones on every machine; adding pictures moves none. Split "all" is everything. Every picture that a table names must be
there, and without a table every picture needs its text: `diptych data check` lists all that is amiss at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.config import UserError, nearest
from diptych.contracts import Sample
from diptych.data import files, jsonl
from diptych.data.files import Problem
from diptych.data.jsonl import Line

_KINDS = (".jsonl", ".csv", ".tsv")
_TABLES = [f"{name}{kind}" for name in ("captions", "metadata") for kind in _KINDS]
_IMAGE = ("image", "file_name", "filename", "file", "path")
_CAPTION = ("caption", "text", "captions", "texts")
_GLANCE = 10_000  # files looked at before a folder is held to have no texts beside its pictures


@dataclass(frozen=True)
class _Line(Line):
    """What one place says of one picture."""

    captions: tuple[str, ...]
    language: str = "en"

    @property
    def image(self) -> str:
        return self.images[0]


class Folder:
    purposes = frozenset({"pretrain", "retrieval"})
    looks_for = "captions.jsonl, captions.csv, captions.tsv, or NAME.txt beside each picture"

    @staticmethod
    def recognises(root: Path) -> bool:
        """Also a folder of nothing but pictures, so that the error says what to add."""
        if root.is_file():
            return root.suffix in _KINDS and not jsonl.asks(root)
        if not root.is_dir():
            return False
        return _table(root) is not None or _is_bare(root) or any(_beside(islice(root.rglob("*"), _GLANCE)))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Folder:
        lines, _, problems = _read(root)
        files.refuse(problems)
        return cls(root, split, limit, jsonl.in_split(lines, split, root))

    @classmethod
    def survey(cls, root: Path) -> tuple[dict[str, Folder], list[Problem]]:
        """Every split as far as it can be read, and all that is amiss: what `open` stops at, and pictures that are not used."""
        lines, named, problems = _read(root)
        parts = jsonl.by_split(lines)
        return {split: cls(root, split, None, its) for split, its in parts.items()}, problems + _unused(root, named)

    def __init__(self, root: Path, split: str, limit: int | None, lines: Sequence[_Line]):
        self._table, self._settings = _table(root), (split, limit)
        folder = root if root.is_dir() else root.parent
        by_picture: dict[tuple[str, str], list[_Line]] = {}
        for line in lines:
            by_picture.setdefault((line.image, line.language), []).append(line)
        seen: set[str] = set()
        self._samples: list[Sample] = []
        for (image, language), said in islice(by_picture.items(), limit):
            key = f"{image}@{language}" if image in seen else image
            seen.add(image)
            texts = tuple(dict.fromkeys(caption for line in said for caption in line.captions))
            self._samples.append(Sample(key, (folder / image,), texts, language=language, group=said[0].group))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        if self._table:
            return files.digest([self._table], *self._settings)
        return files.digest([], [(sample.key, sample.texts) for sample in self._samples], *self._settings)


# ------------------------------------------------------------------------------------------------- reading the folder


def _read(root: Path) -> tuple[list[_Line], set[str], list[Problem]]:
    """What the folder says of pictures that are there, in order; pictures it names; and all that keeps it from use as it is."""
    table = _table(root)
    folder = root if root.is_dir() else root.parent
    problems: list[Problem] = []
    if table is not None:
        lines = list(_of_table(table, problems))
        if not lines and not problems:
            problems.append(Problem("empty tables", f"{table} is empty: one line for each picture is expected"))
    elif root.is_dir():
        lines = list(_of_texts(root, problems))
    else:
        raise UserError(f"{root}: no such folder, nor a {', '.join(_KINDS)}")
    silent = {line.where for line in lines if not line.captions}
    problems += [Problem("lines without a caption", f"{x.where}: no caption for {x.image}") for x in lines if x.where in silent]
    complete, more = jsonl.sound(lines, folder, "captions")
    return [line for line in complete if line.where not in silent], {line.image for line in lines}, problems + more


def _of_table(table: Path, problems: list[Problem]) -> Iterator[_Line]:
    rows = files.json_lines(table, problems) if table.suffix == ".jsonl" else files.table(table, problems)
    for number, row in rows:
        try:
            yield _line(f"{table}:{number}", row)
        except UserError as error:
            problems.append(Problem("broken lines", str(error)))


def _of_texts(root: Path, problems: list[Problem]) -> Iterator[_Line]:
    pictures = _pictures(root)
    told = [path for path in pictures if path.with_suffix(".txt").is_file()]
    for path in told:
        text = path.with_suffix(".txt")
        captions = tuple(caption for _, line in files.text_lines(text, problems) if (caption := line.strip()))
        image = path.relative_to(root).as_posix()
        yield _Line(str(text), (image,), "", image, captions)
    if not pictures:
        problems.append(Problem("empty folders", f"{root} has neither pictures nor captions"))
    elif not told:
        hint = f"add captions.jsonl (or .csv, .tsv), or {pictures[0].with_suffix('.txt').name} and so on"
        problems.append(Problem("pictures without caption", f"{root}: found {len(pictures)} pictures but no captions; {hint}"))
    else:
        problems += [
            Problem("pictures without caption", f"{path}: no {path.with_suffix('.txt').name} beside it")
            for path in sorted(set(pictures) - set(told))
        ]


def _line(where: str, row: Mapping[str, Any]) -> _Line:
    def field(names: tuple[str, ...]) -> Any:
        name = next((name for name in names if name in row), None)
        if name is None:
            raise UserError(f"{where}: no '{names[0]}' here{nearest(names[0], row)}".replace("valid:", "found:"))
        return row[name]

    image, said = field(_IMAGE), field(_CAPTION)
    if not isinstance(image, str) or not image.strip():
        raise UserError(f"{where}: 'image' must be the path of a picture, not {json.dumps(image)}")
    captions = [said] if isinstance(said, str) else said
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: the caption of {image} must be a text or a list of texts, not {json.dumps(said)}")
    split, language, group = (str(row.get(name) or "").strip() for name in ("split", "language", "group"))
    texts = tuple(text for caption in captions if (text := caption.strip()))
    image = files.relative(image)
    return _Line(where, (image,), split, group or image, texts, language or "en")


def _unused(root: Path, named: set[str]) -> list[Problem]:
    """Pictures that the table does not name, or texts beside no picture: no harm, but seldom meant."""
    if not root.is_dir():
        return []
    if _table(root):
        extra = [path for path in _pictures(root) if path.relative_to(root).as_posix() not in named]
        return [Problem("pictures without caption", f"{path}: not in {_table(root)}", is_fatal=False) for path in extra]
    pictures = {path.with_suffix("") for path in _pictures(root)}
    alone = sorted(path for path in root.rglob("*.txt") if path.with_suffix("") not in pictures)
    return [Problem("captions without a picture", f"{path}: no picture of this name", is_fatal=False) for path in alone]


def _table(root: Path) -> Path | None:
    return root if root.is_file() else files.first_of(root, _TABLES)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in files.PICTURES and not path.name.startswith(".")


def _is_bare(root: Path) -> bool:
    """Pictures, and nothing that could be about them."""
    there = [path for path in islice(root.iterdir(), _GLANCE) if not path.is_dir() and not path.name.startswith(".")]
    return bool(there) and all(_is_picture(path) for path in there)


def _pictures(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if _is_picture(path))


def _beside(paths: Iterator[Path]) -> Iterator[Path]:
    """Pictures that have a text file beside them."""
    return (path for path in paths if _is_picture(path) and path.with_suffix(".txt").is_file())


def example(root: Path) -> None:
    """Four pictures in a subfolder and a table."""
    files.example_pictures(root / "cats", [f"{n}.jpg" for n in range(4)])
    rows = [{"image": f"cats/{n}.jpg", "captions": [f"a cat number {n}", "a red cat"]} for n in range(4)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
