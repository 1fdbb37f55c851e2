"""A region store: boxes, features and class probabilities of many pictures, memory-mapped.

    DIR/store.json        width, classes, what made it, sizes and hash; written last: the mark of a finished store
        index.jsonl       one line a picture: {"key": "train/00000001.jpg", "first": 0, "count": 4}
        box.f32           [N, 4]  xyxy in [0, 1] of the picture as stored
        feature.f16       [N, D]
        soft_label.f16    [N, K]  probabilities of the classes, "background" first

A picture's line is appended after its rows have reached the disk, so a store that was cut at any byte is continued behind its last
whole line: what lies beyond is cut off, and the pictures before are not computed again. Half precision keeps three digits, which
is what detectors' features are worth; 12 regions of 256 numbers are 6 kB a picture, and only the pages that are read are loaded.

A picture is sought by its folder and name ("train/00000001.jpg"), then by its name, then by the number in its name without zeros
(image ids of public files); one that is bytes, by their sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diptych import checkpoint
from diptych.config import UserError
from diptych.contracts import Detected, Reader, Sample
from diptych.data.picture import BrokenPicture, decode
from diptych.data.wrapped import Wrapped

PARTS = {"box": ("box.f32", np.float32), "feature": ("feature.f16", np.float16), "soft_label": ("soft_label.f16", np.float16)}
FILES = ("index.jsonl", *(name for name, _ in PARTS.values()))


def key_of(image: Path | bytes) -> str:
    """The name under which a picture is written."""
    return f"sha256:{hashlib.sha256(image).hexdigest()}" if isinstance(image, bytes) else f"{image.parent.name}/{image.name}"


def _sought(image: Path | bytes) -> Iterator[str]:
    """The names under which a picture may have been written, best first."""
    yield key_of(image)
    if isinstance(image, Path):
        yield image.name
        yield image.stem
        if number := re.search(r"(\d+)$", image.stem):
            yield str(int(number.group()))


class RegionStore:
    """A finished store, by picture."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.about = _about(self.path)
        self.classes: tuple[str, ...] = tuple(self.about["classes"])
        self.width: int = self.about["width"]
        self._place = {line["key"]: (line["first"], line["count"]) for line in _whole_lines(self.path)[0]}

    def __reduce__(self) -> tuple[type[RegionStore], tuple[Path]]:
        return RegionStore, (self.path,)  # to loader processes: they map the files themselves

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __contains__(self, image: Path | bytes) -> bool:
        return any(name in self._place for name in _sought(image))

    def __getitem__(self, image: Path | bytes) -> Detected:
        for name in _sought(image):
            if name in self._place:
                return self.at(name)
        key = key_of(image)
        near = get_close_matches(key, self._place, n=1)
        hint = f"; the nearest is '{near[0]}'" if near else ""
        raise UserError(f"{self.path}: no regions of {key}{hint} (`diptych regions extract` with the same --out adds pictures)")

    def at(self, key: str) -> Detected:
        first, count = self._place[key]
        box_R4, feature_RD, soft_label_RK = (self._rows[part][first : first + count] for part in PARTS)
        return Detected(box_R4, feature_RD, soft_label_RK)

    @property
    def nothing(self) -> Detected:
        """A picture without any region."""
        box_R4, feature_RD, soft_label_RK = (self._rows[part][:0] for part in PARTS)
        return Detected(box_R4, feature_RD, soft_label_RK)

    @cached_property
    def _rows(self) -> dict[str, NDArray[Any]]:
        columns = _columns(self.width, len(self.classes))
        return {
            part: np.memmap(self.path / name, dtype, "r", shape=(self.about["rows"], columns[part]))
            if self.about["rows"]
            else np.zeros((0, columns[part]), dtype)
            for part, (name, dtype) in PARTS.items()
        }

    @property
    def fingerprint(self) -> str:
        return self.about["sha256"]


class Writer:
    """A store in the making. `add` pictures in any order; `finish` marks it whole. What is there already `has` its place."""

    def __init__(self, path: Path | str, width: int, classes: Sequence[str], made: Mapping[str, Any]):
        """made: what the features come from (detector, settings); a store is continued by the same alone."""
        self.path = Path(path)
        self._asked = {"width": width, "classes": list(classes), "made": json.loads(json.dumps(dict(made), default=str))}
        self._columns = _columns(width, len(classes))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be a region store ({error.strerror})") from None
        before = self.path / "making.json"
        if (self.path / "store.json").is_file():
            self._same_as(_about(self.path))
        elif before.is_file():
            self._same_as(json.loads(before.read_text(encoding="utf-8")))
        elif any(not there.name.startswith(".") for there in self.path.iterdir()):
            raise UserError(f"{self.path}: holds other files and no region store; use another --out")
        checkpoint.write_json(before, self._asked)
        (self.path / "store.json").unlink(missing_ok=True)  # from here to `finish` it is in the making
        lines, size = _whole_lines(self.path) if (self.path / "index.jsonl").is_file() else ([], 0)
        rows = [self._room(part) for part in PARTS]
        while lines and lines[-1]["first"] + lines[-1]["count"] > min(rows):  # the index may outlive a lost page of rows
            size -= len(_line(lines.pop()))
        self.keys = {line["key"] for line in lines}
        self.rows = lines[-1]["first"] + lines[-1]["count"] if lines else 0
        self._index = _cut(self.path / "index.jsonl", size)
        self._files = {
            part: _cut(self.path / name, self.rows * self._columns[part] * np.dtype(dtype).itemsize)
            for part, (name, dtype) in PARTS.items()
        }

    def has(self, image: Path | bytes) -> bool:
        return key_of(image) in self.keys

    def add(self, found: Mapping[str, Detected]) -> None:
        """Some pictures' rows, then their lines; each reaches the disk before the next begins."""
        new = {key: own for key, own in found.items() if key not in self.keys}
        for part, own_file in self._files.items():
            name, dtype = f"{part}_R", PARTS[part][1]
            for key, own in new.items():
                rows = np.ascontiguousarray(getattr(own, next(f for f in Detected._fields if f.startswith(name))), dtype)
                if rows.shape != (len(own.box_R4), self._columns[part]):
                    raise UserError(f"{key}: {part} of shape {list(rows.shape)}, the store's is {self._columns[part]} wide")
                own_file.write(rows.tobytes())
            _flush(own_file)
        for key, own in new.items():
            self._index.write(_line({"key": key, "first": self.rows, "count": len(own.box_R4)}))
            self.rows += len(own.box_R4)
            self.keys.add(key)
        _flush(self._index)

    def finish(self) -> RegionStore:
        self.close()
        sizes = {name: (self.path / name).stat().st_size for name in FILES}
        sha256 = digest(self.path, self._asked)
        about = {**self._asked, "pictures": len(self.keys), "rows": self.rows, "bytes": sizes, "sha256": sha256}
        checkpoint.write_json(self.path / "store.json", about)
        (self.path / "making.json").unlink()
        return RegionStore(self.path)

    def close(self) -> None:
        for file in (self._index, *self._files.values()):
            file.close()

    def _room(self, part: str) -> int:
        """How many whole rows a file holds."""
        name, dtype = PARTS[part]
        with suppress(FileNotFoundError):
            return (self.path / name).stat().st_size // (self._columns[part] * np.dtype(dtype).itemsize)
        return 0

    def _same_as(self, there: Mapping[str, Any]) -> None:
        for name, asked in self._asked.items():
            if there.get(name) != asked:
                shown = "" if name == "classes" else f" ({there.get(name)} there, {asked} here)"
                raise UserError(f"{self.path}: begun with other {name}{shown}; use another --out")


class WithRegions(Wrapped):
    """A reader whose samples bring what a store holds of their pictures.

    A picture that no detector could read is not in the store: nothing was seen in it, and whoever decodes it tells of it.
    """

    def __init__(self, reader: Reader, store: RegionStore):
        super().__init__(reader)
        self.store = store

    @property
    def region_classes(self) -> tuple[str, ...]:
        return self.store.classes

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader[index]
        return replace(sample, regions=tuple(self._seen(image) for image in sample.images))

    def _seen(self, image: Path | bytes) -> Detected:
        try:
            return self.store[image]
        except UserError:
            try:
                decode(image)
            except BrokenPicture:
                return self.store.nothing
            raise

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.reader.fingerprint} {self.store.fingerprint}".encode()).hexdigest()


def digest(path: Path, about: Mapping[str, Any]) -> str:
    """sha256 of what a store was asked for and of all its bytes."""
    whole = hashlib.sha256(json.dumps({name: about[name] for name in ("width", "classes", "made")}, sort_keys=True).encode())
    for name in FILES:
        with (path / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _columns(width: int, classes: int) -> dict[str, int]:
    return {"box": 4, "feature": width, "soft_label": classes}


def _about(path: Path) -> dict[str, Any]:
    """store.json of a finished store whose files have the sizes it says."""
    if not path.exists():
        raise UserError(f"{path}: no such region store; `diptych regions extract --out {path}` makes one")
    if path.is_file():
        raise UserError(f"{path}: a region store is a folder; this is a file")
    if not (path / "store.json").is_file():
        begun = (path / "making.json").is_file()
        said = "not finished; the command that began it goes on with it" if begun else "no store.json in it, so no region store"
        raise UserError(f"{path}: {said}")
    about = json.loads((path / "store.json").read_text(encoding="utf-8"))
    for name, size in about["bytes"].items():
        there = (path / name).stat().st_size if (path / name).is_file() else -1
        if there != size:
            said = "is missing" if there < 0 else f"has {there:,} bytes, {size:,} were written"
            raise UserError(f"{path / name}: {said}; the store is torn, make it again")
    return about


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of the index up to the first that is not whole, and their bytes."""
    lines, size = [], 0
    for raw in (path / "index.jsonl").read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw)
        except ValueError:
            break
        if not raw.endswith(b"\n") or not isinstance(line, dict):
            break
        lines.append(line)
        size += len(raw)
    return lines, size


def _line(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode()


def _cut(path: Path, size: int) -> IO[bytes]:
    """The file open for appending behind its first `size` bytes."""
    file = path.open("ab")
    file.truncate(size)
    return file


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
