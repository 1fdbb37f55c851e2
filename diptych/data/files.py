"""Annotation files of public data sets: finding them, reading them lean, and saying in one line what is missing or broken.

Published annotations are single JSON documents of up to a gigabyte. `elements` walks the array that is wanted, one element at a
time, so a reader can keep only what it needs; an error names the file and the line.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.config import UserError, nearest

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_CHUNK = 1 << 20


def first_of(root: Path, candidates: Iterable[str]) -> Path | None:
    """The first of several relative paths that is a file."""
    return next((path for name in candidates if (path := root / name).is_file()), None)


def needed(data_set: str, root: Path, candidates: Sequence[str]) -> Path:
    """The first of several relative paths, or an error that names the expected one and what lies there instead."""
    path = first_of(root, candidates)
    if path is None:
        folder = (root / candidates[0]).parent
        raise UserError(f"{data_set} needs {candidates[0]} in {root} (found{_listing(folder if folder.is_dir() else root)})")
    return path


def picture_folder(data_set: str, root: Path, candidates: Sequence[str], first: str) -> Path:
    """The folder that holds the picture named `first`."""
    for name in candidates:
        if (root / name / first).is_file():
            return root / name
    raise missing_picture(data_set, root, candidates, first)


def missing_picture(data_set: str, root: Path, candidates: Iterable[str], name: str) -> UserError:
    places = ", ".join(dict.fromkeys(str(root / place) for place in candidates))
    return UserError(f"{data_set}: the picture {name} is in none of {places} (found{_listing(root)})")


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f": no folder {folder}"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f" there: {shown or 'nothing'}"


def no_split(data_set: str, split: str, splits: Iterable[str], root: Path) -> UserError:
    splits = list(dict.fromkeys(splits))
    return UserError(f"{data_set} in {root} has no split '{split}'{nearest(split, splits)}")


def hashed_split(key: str) -> str:
    """train, val or test (90 : 5 : 5) for data without splits of its own: by the key alone, so adding pictures moves none."""
    lot = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "train" if lot < 0.9 else "val" if lot < 0.95 else "test"


def digest(paths: Iterable[Path], *settings: object) -> str:
    """sha256 of file contents and of the settings that choose among them."""
    total = hashlib.sha256(repr(settings).encode())
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


# ----------------------------------------------------------------------------------------------------- JSON, lines


def elements(path: Path, key: str | None = None) -> Iterator[Any]:
    """Elements of the document's array, or of the array under `key` of the document's object, one at a time."""
    with path.open(encoding="utf-8") as file:
        text = _Window(path, file)
        if key is None:
            text.expect("[")
            yield from text.array()
            return
        text.expect("{")
        while text.peek() != "}":
            name = text.value()
            text.expect(":")
            if name == key:
                text.expect("[")
                yield from text.array()
                return
            text.value()
            if text.peek() == ",":
                text.expect(",")
    raise UserError(f"{path}: no list '{key}' in it")


class _Window:
    """A JSON document of which only a stretch is in memory: values are decoded from its start, and it is refilled on demand."""

    _decoder = json.JSONDecoder()

    def __init__(self, path: Path, file: Any):
        self.path, self.file = path, file
        self.text, self.at, self.lines = "", 0, 1
        self.is_whole = False  # the file has been read to its end
        self._more()

    def _more(self) -> None:
        self.lines += self.text.count("\n", 0, self.at)
        try:
            piece = self.file.read(max(_CHUNK, len(self.text)))  # doubling: a long value is tried only a few times
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not a text in UTF-8 ({error.reason} near byte {error.start})") from None
        self.text, self.at = self.text[self.at :] + piece, 0
        self.is_whole = not piece

    def peek(self) -> str:
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.is_whole:
                return self.text[self.at : self.at + 1]
            self._more()

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            raise self._broken(f"'{sign}' expected")
        self.at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.is_whole:
                    self.at = error.pos
                    raise self._broken(error.msg) from None
            else:
                if end < len(self.text) or self.is_whole:  # a number may go on beyond the window
                    self.at = end
                    return value
            self._more()

    def array(self) -> Iterator[Any]:
        """Elements after the opening bracket, up to the closing one."""
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.expect(",")
        self.at += 1

    def _broken(self, why: str) -> UserError:
        return UserError(f"{self.path}:{self.lines + self.text.count(chr(10), 0, self.at)}: broken JSON ({why})")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a jsonl file; empty lines are skipped."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: broken JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number}: an object {{...}} expected, found {type(value).__name__}")
        yield number, value


def table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> field) of a csv or tsv file with a header line."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = csv.reader(
        (line for _, line in text_lines(path)), delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else 0
    )
    header = next(rows, None)
    if header is None:
        raise UserError(f"{path}: empty; a header line such as image{delimiter}caption is expected")
    names = [name.strip() for name in header]
    for fields in rows:
        if not fields:
            continue
        if len(fields) != len(names):
            raise UserError(f"{path}:{rows.line_num}: {len(fields)} fields, the header has {len(names)} ({', '.join(names)})")
        yield rows.line_num, dict(zip(names, fields, strict=True))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a UTF-8 file, byte order mark or not."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                yield number, line
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number + 1}: not a text in UTF-8 ({error.reason})") from None


def example_pictures(folder: Path, names: Iterable[str]) -> None:
    """Small pictures for the readers' `example`: 48 x 32 pixels, each of its own colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        Image.new("RGB", (48, 32), (60 * n % 256, 200 - 40 * n % 200, 90)).save(folder / name)
