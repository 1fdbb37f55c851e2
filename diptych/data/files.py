"""Annotation files of public data sets: finding them, reading them lean, and saying in one line what is missing or broken.

Published annotations are single JSON documents of up to a gigabyte. `elements` walks the array that is wanted, one element at a
time, so a reader can keep only what it needs; an error names the file and the line.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from diptych.config import UserError, nearest

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
HASHED = {"train": 90, "val": 5, "test": 5}  # the splits that `hashed_split` makes, in percent
_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 24  # bytes; a line is one picture's, or one question's


class NoSplit(UserError):
    """A split that a data set does not have, and those it has."""

    def __init__(self, said: str, splits: Sequence[str]):
        super().__init__(said)
        self.splits = splits


class Problem(NamedTuple):
    """One thing amiss in a data set."""

    kind: str  # in the plural: "captions without a picture"
    said: str  # begins with the place: file:line, or a path
    is_fatal: bool = True


def refuse(problems: Iterable[Problem]) -> None:
    """Raise the first fatal problem, if there is one, and count the others."""
    fatal = [problem for problem in problems if problem.is_fatal]
    if fatal:
        more = f" (and {len(fatal) - 1} more; `diptych data check` lists them)" if len(fatal) > 1 else ""
        raise UserError(fatal[0].said + more)


def refuse_repeated(path: Path, what: str, ids: Sequence[Hashable]) -> None:
    """An id that stands in a file twice would be trained on, scored and predicted twice."""
    if len(seen := set(ids)) < len(ids):
        twice = next(name for name in ids if name not in seen or seen.remove(name))
        raise UserError(f"{path}: {what} {twice} is there twice ({len(ids) - len(set(ids))} repeated in all)")


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
        if _is_file(root / name / first):
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


def no_split(data_set: str, split: str, splits: Iterable[str], root: Path) -> NoSplit:
    splits = list(dict.fromkeys(splits))
    return NoSplit(f"{data_set} in {root} has no split '{split}'{nearest(split, splits)}", splits)


def empty_split(data_set: str, split: str, splits: Iterable[str], root: Path, pictures: int) -> NoSplit:
    """A hashed split that few pictures left empty, and what to do."""
    said = f"a hash gives it {HASHED[split]} % of the pictures, and there are {pictures}"
    cure = "say in a 'split' field of every line what goes where, or use split 'all'"
    return NoSplit(f"{data_set} in {root} has nothing in split '{split}': {said}; {cure}", list(splits))


def relative(name: str) -> str:
    """A path as written in a table, the same whatever the machine that wrote it: a hashed split depends on it."""
    return PurePosixPath(name.strip().replace("\\", "/")).as_posix()


def absent(root: Path, names: Iterable[str]) -> set[str]:
    """Those of many relative paths that are no files. Folders are listed once: asking file by file takes minutes over a network."""
    listed: dict[str, set[str]] = {}
    gone = set()
    for name in names:
        folder, _, last = f"{root}/{name}".rpartition("/")
        if folder not in listed:
            listed[folder] = _within(folder) if os.path.isdir(folder) else set()
        if last not in listed[folder] and not _is_file(root / name):  # for absolute paths and "..", or where case is lost
            gone.add(name)
    return gone


def _within(folder: str) -> set[str]:
    """The names of what lies in a folder but folders; links are not followed, for that would ask file by file."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one
        return False


def hashed_split(key: str) -> str:
    """train, val or test (90 : 5 : 5) for data without splits of its own: by the key alone, so adding pictures moves none."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()  # a file's name may be in another encoding
    lot = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if lot < 0.9 else "val" if lot < 0.95 else "test"


def digest(paths: Iterable[Path], *settings: object) -> str:
    """sha256 of file contents and of the settings that choose among them."""
    total = hashlib.sha256(repr(settings).encode())
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


# ----------------------------------------------------------------------------------------------------- JSON, lines


SPAN = (int, int, str, int | None)  # of the embedded data: start, end, kind, id of a thing
_LARGEST = 2**63  # what an array of numbers holds


def elements(path: Path, key: str | None = None, of: Any = object) -> Iterator[Any]:
    """Elements of the document's array, or of the array under `key` of the document's object, one at a time.

    Each is `of` the shape that its reader relies on, or is refused with its line: a type; {"key": shape, "key?": shape}, where the
    second may be absent or null and further keys are ignored; [shape] for a list; (shape, shape) for a list of so many.
    """
    with path.open(encoding="utf-8") as file:
        text = _Window(path, file)
        if key is None:
            text.expect("[")
            yield from text.array(of)
            return
        text.expect("{")
        while text.peek() != "}":
            name = text.value()
            text.expect(":")
            if name == key:
                text.expect("[")
                yield from text.array(of)
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
            except (ValueError, RecursionError) as error:
                raise self._broken(str(error)) from None
            else:
                if end < len(self.text) or self.is_whole:  # a number may go on beyond the window
                    if _is_half_a_character(self.text, self.at, end, value):
                        raise self._broken(_HALF)
                    self.at = end
                    return value
            self._more()

    def array(self, shape: Any) -> Iterator[Any]:
        """Elements after the opening bracket, up to the closing one."""
        is_right = fits(shape)
        while self.peek() != "]":
            value = self.value()
            if not is_right(value):
                raise UserError(f"{self.path}:{self.line()}: {amiss(value, shape)}")
            yield value
            if self.peek() != "]":
                self.expect(",")
        self.at += 1

    def _broken(self, why: str) -> UserError:
        return UserError(f"{self.path}:{self.line()}: broken JSON ({why})")

    def line(self) -> int:
        return self.lines + self.text.count("\n", 0, self.at)


NUMBER = int | float


def fits(shape: Any) -> Callable[[Any], bool]:
    """Whether a value has a shape, as a function: `amiss` without the words, for the millions of values that are right."""
    if shape is object:
        return lambda value: True
    if isinstance(shape, dict):
        fields = [(key.removesuffix("?"), key.endswith("?"), fits(inner)) for key, inner in shape.items()]
        absent = object()

        def is_object(value: Any) -> bool:
            if type(value) is not dict:
                return False
            for field, may_lack, is_right in fields:
                inner = value.get(field, absent)
                if (inner is None or inner is absent) and may_lack:
                    continue
                if inner is absent or not is_right(inner):
                    return False
            return True

        return is_object
    if isinstance(shape, list):
        is_right = fits(shape[0])
        return lambda value: type(value) is list and all(map(is_right, value))
    if isinstance(shape, tuple):
        each = [fits(inner) for inner in shape]
        return lambda value: (
            type(value) is list
            and len(value) == len(each)
            and all(is_right(one) for is_right, one in zip(each, value, strict=True))
        )
    if shape is str:
        return lambda value: type(value) is str
    if shape in _WHOLE:
        return lambda value: (type(value) is int and -_LARGEST < value < _LARGEST) or not amiss(value, shape)
    return lambda value: not amiss(value, shape)


def amiss(value: Any, shape: Any, name: str = "") -> str:
    """What keeps a value from having a shape (see `elements`), or nothing."""
    kind = type(value)
    if shape is object or (shape is str and kind is str):
        return ""
    if kind is int and shape in _WHOLE and -_LARGEST < value < _LARGEST:
        return ""
    if isinstance(shape, dict):
        if kind is not dict:
            return _not(value, "an object {...}", name)
        for key, inner in shape.items():
            field = key.removesuffix("?")
            if field is not key and value.get(field) is None:
                continue
            if field not in value:
                return f"no '{field}' {f'in {name}' if name else 'here'}{nearest(field, value)}".replace("valid:", "found:")
            if said := amiss(value[field], inner, f"{name}.{field}" if name else field):
                return said
        return ""
    if isinstance(shape, list | tuple):
        is_exact = isinstance(shape, tuple)
        if kind is not list or (is_exact and len(value) != len(shape)):
            return _not(value, f"a list of {len(shape)}" if is_exact else "a list", name)
        for one, inner in zip(value, shape if is_exact else shape * len(value), strict=True):
            if said := amiss(one, inner, name):
                return said
        return ""
    is_number = isinstance(value, NUMBER)
    if not isinstance(value, shape) or kind is bool or (is_number and not -_LARGEST < value < _LARGEST):
        return _not(value, _KINDS.get(shape, "of another kind"), name)
    return ""


_WHOLE = (int, NUMBER, int | str, int | None)
_KINDS = {int: "a whole number", str: "a text", NUMBER: "a number", int | str: "a number or a text", int | None: "a number or null"}


def _not(value: Any, expected: str, name: str) -> str:
    return f"{repr(name) if name else 'this'} must be {expected}, not {json.dumps(value, ensure_ascii=False)[:40]}"


_HALF = "half of a surrogate pair is no character"


def _is_half_a_character(text: str, start: int, end: int, value: Any) -> bool:
    """Whether JSON escapes made a text that cannot be written: a lone \\ud83d. Few texts have such escapes; only they are tried."""
    if text.find("\\ud", start, end) < 0 and text.find("\\uD", start, end) < 0:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def json_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a jsonl file. Empty lines are skipped; broken ones become problems."""
    for number, line in text_lines(path, problems):
        if not line.strip():
            continue
        try:
            value = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            problems.append(Problem("broken lines", f"{path}:{number}: broken JSON ({error.msg}, column {error.colno})"))
            continue
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; brackets in brackets in brackets
            problems.append(Problem("broken lines", f"{path}:{number}: JSON that cannot be held ({error})"))
            continue
        if _is_half_a_character(line, 0, len(line), value):
            problems.append(Problem("broken lines", f"{path}:{number}: broken JSON ({_HALF})"))
        elif isinstance(value, dict):
            yield number, value
        else:
            problems.append(Problem("broken lines", f"{path}:{number}: an object {{...}} expected, found {json.dumps(value)[:40]}"))


def table(path: Path, columns: Iterable[Sequence[str]], problems: list[Problem]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column -> field) of a csv or tsv file with a header line. Lines of another length become problems.

    columns: the names, any of which will do, of each column that the header must have.
    """
    lines = (line for _, line in text_lines(path, problems))
    first = next(lines, "")
    delimiter = "\t" if path.suffix == ".tsv" else ";" if ";" in first and "," not in first else ","  # ";": Excel in half of Europe
    names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    absent = [known[0] for known in columns if not set(known) & set(names)]
    if names and absent:
        found = nearest(absent[0], names).replace("valid:", "found:")
        problems.append(
            Problem("broken lines", f"{path}:1: the first line is taken for the header, and it has no '{absent[0]}'{found}")
        )
        return
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # strict: an open quote swallows all that follows
    try:
        for fields in rows:
            place = 1 + rows.line_num
            if len(fields) == len(names):
                yield place, dict(zip(names, fields, strict=True))
            elif fields:
                said = f"{path}:{place}: {len(fields)} fields, the header has {len(names)} ({', '.join(names)})"
                problems.append(Problem("broken lines", said))
    except csv.Error as error:
        problems.append(Problem("broken lines", f"{path}:{1 + rows.line_num}: {error}; the rest of the file was not read"))


def text_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    """(line number, line) of a UTF-8 file, byte order mark or not. A line in another encoding or without end becomes a problem."""
    try:
        file = path.open("rb")
    except OSError as error:  # a link to itself, no permission
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        for number in count(1):
            line = file.readline(_LONGEST_LINE)
            if not line:
                return
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                problems.append(Problem("broken lines", f"{path}:{number}: a line of more than {_LONGEST_LINE >> 20} MB"))
                while line and not line.endswith(b"\n"):
                    line = file.readline(_LONGEST_LINE)
                continue
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.append(Problem("broken lines", f"{path}:{number}: not a text in UTF-8 ({error.reason})"))


def first_line(path: Path) -> str:
    """The first line that is not empty."""
    return next((line for _, line in text_lines(path, []) if line.strip()), "")


def example_pictures(folder: Path, names: Iterable[str]) -> None:
    """Small pictures for the readers' `example`: 48 x 32 pixels, each of its own colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        Image.new("RGB", (48, 32), (60 * n % 256, 200 - 40 * n % 200, 90)).save(folder / name)
