"""Your own pictures and captions: a folder, with the captions in one table or in a text file beside each picture.

    DIR/captions.jsonl      {"image": "cats/tom.jpg", "caption": "a grey cat on a sofa"}      or "captions": ["...", "..."]
    DIR/captions.csv        image,caption                                                     with this header
    DIR/captions.tsv        image<TAB>caption
    DIR/tom.jpg, tom.txt    without a table: tom.txt describes tom.jpg, one caption a line; subfolders too

Paths are relative to DIR. metadata.jsonl or .csv with file_name and text (Hugging Face's imagefolder) works too. A picture may
come on several lines. Further columns: "split" (then on every line), "language" (a code such as de; default en), "group" (pictures that belong
together, for intervals).

Without a split column, a hash of the picture's path puts 90 % into train, 5 % into val and 5 % into test, the same ones on every
machine; adding pictures moves none. Split "all" is everything. Every picture that is named must be there, and beside a text file
layout every picture needs its text: `diptych data check` lists all that is amiss at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config import UserError, nearest
from diptych.contracts import Sample
from diptych.data import files

_NAME = "The folder"
_TABLES = [f"{name}.{kind}" for name in ("captions", "metadata") for kind in ("jsonl", "csv", "tsv")]
_IMAGE = ("image", "file_name", "filename", "file", "path")
_CAPTION = ("caption", "text", "captions", "texts")
_SPLITS = ("train", "val", "test")


class Line(NamedTuple):
    """What one place of the folder says of one picture."""

    where: str  # file:line, for errors
    image: str  # relative to the folder
    captions: tuple[str, ...]
    split: str
    language: str
    group: str


class Folder:
    purposes = frozenset({"pretrain", "retrieval"})
    looks_for = "captions.jsonl, captions.csv, captions.tsv, or NAME.txt beside each picture"

    @staticmethod
    def recognises(root: Path) -> bool:
        """Also a folder of bare pictures, so that the error says what to add."""
        if not root.is_dir():
            return False
        return _table(root) is not None or any(_is_picture(path) for path in root.iterdir()) or any(_beside(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Folder:
        if not root.is_dir():
            raise UserError(f"no folder {root}")
        return cls(root, split, limit)

    def __init__(self, root: Path, split: str, limit: int | None):
        self._root, self._settings = root, (split, limit)
        found = list(lines(root))
        _complain(root, found)
        has_splits = any(line.split for line in found)
        wanted = [line for line in found if split in ("all", line.split if has_splits else files.hashed_split(line.image))]
        if not wanted:
            if has_splits or split not in _SPLITS:
                raise files.no_split(
                    _NAME, split, sorted({line.split for line in found} if has_splits else {*_SPLITS, "all"}), root
                )
            raise UserError(
                f"split '{split}' of {root} is empty: it takes a hashed 5 % of {len(found)} pictures; name splits in a 'split' column, or use 'all'"
            )
        self._samples: list[Sample] = []
        by_picture: dict[tuple[str, str], list[Line]] = {}
        for line in wanted:
            by_picture.setdefault((line.image, line.language), []).append(line)
        languages = {image: sum(other == image for other, _ in by_picture) for image, _ in by_picture}
        for (image, language), said in by_picture.items():
            key = image if languages[image] == 1 else f"{image}@{language}"
            texts = tuple(dict.fromkeys(caption for line in said for caption in line.captions))
            self._samples.append(Sample(key, images=(root / image,), texts=texts, language=language, group=said[0].group or image))
            if len(self._samples) == limit:
                break

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        table = _table(self._root)
        if table:
            return files.digest([table], *self._settings)
        said = [(sample.key, sample.texts) for sample in self._samples]
        return files.digest([], said, *self._settings)


def lines(root: Path) -> Iterator[Line]:
    """Everything the folder says, in order; raises on what can't be read, not yet on missing pictures."""
    table = _table(root)
    if table is None:
        for path in sorted(_beside(root)):
            captions = tuple(line.strip() for _, line in files.text_lines(path.with_suffix(".txt")) if line.strip())
            yield Line(str(path.with_suffix(".txt")), path.relative_to(root).as_posix(), captions, "", "en", "")
        return
    rows = files.json_lines(table) if table.suffix == ".jsonl" else files.table(table)
    for number, row in rows:
        yield _line(f"{table}:{number}", row)


def pictures(root: Path) -> list[str]:
    """Every picture in the folder, by its path from there."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if _is_picture(path))


def _line(where: str, row: dict[str, Any]) -> Line:
    def field(names: tuple[str, ...]) -> Any:
        name = next((name for name in names if name in row), None)
        if name is None:
            raise UserError(f"{where}: no '{names[0]}' here (found: {', '.join(row)}){nearest_of(names[0], row)}")
        return row[name]

    image, said = field(_IMAGE), field(_CAPTION)
    if not isinstance(image, str) or not image.strip():
        raise UserError(f"{where}: 'image' must be the path of a picture, found {image!r}")
    captions = [said] if isinstance(said, str) else said
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: the caption of {image} must be a text or a list of texts, found {said!r}")
    captions = tuple(stripped for caption in captions if (stripped := caption.strip()))
    others = [str(row.get(name) or "").strip() for name in ("split", "language", "group")]
    return Line(where, image.strip(), captions, others[0], others[1] or "en", others[2])


def nearest_of(name: str, row: dict[str, Any]) -> str:
    """A hint where one of the columns looks like the missing one."""
    hint = nearest(name, row)
    return hint if "did you mean" in hint else ""


def _complain(root: Path, found: list[Line]) -> None:
    """One line about what is missing, or nothing."""
    if not found:
        table = _table(root)
        if table:
            raise UserError(f"{table} is empty: one line for each picture is expected")
        there = pictures(root)
        if there:
            hint = f"add captions.jsonl (or .csv, .tsv), or {Path(there[0]).with_suffix('.txt')} and so on"
            raise UserError(f"{root} has {len(there)} pictures but no captions: {hint}")
        raise UserError(f"{root} has neither pictures nor captions")
    silent = [line for line in found if not line.captions]
    if silent:
        raise UserError(f"{silent[0].where}: no caption for {silent[0].image}{_more(silent)}")
    absent = [line for line in found if not (root / line.image).is_file()]
    if absent:
        raise UserError(f"{absent[0].where}: no picture {root / absent[0].image}{_more(absent)}")
    unsplit = [line for line in found if not line.split]
    if unsplit and len(unsplit) < len(found):
        raise UserError(f"{unsplit[0].where}: no split for {unsplit[0].image}, while other lines have one{_more(unsplit)}")
    if _table(root) is None and (bare := sorted(set(pictures(root)) - {line.image for line in found})):
        more = f" (and {len(bare) - 1} more)" if len(bare) > 1 else ""
        raise UserError(
            f"{root / bare[0]} has no caption: {Path(bare[0]).with_suffix('.txt').name} is missing{more}; or list the pictures to use in captions.jsonl"
        )


def _more(lines: list[Line]) -> str:
    return f" (and {len(lines) - 1} more; `diptych data check` lists them)" if len(lines) > 1 else ""


def _table(root: Path) -> Path | None:
    return files.first_of(root, _TABLES)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in files.PICTURES


def _beside(root: Path) -> Iterator[Path]:
    """Pictures that have a text file beside them."""
    return (path for path in root.rglob("*") if _is_picture(path) and path.with_suffix(".txt").is_file())


def example(root: Path) -> None:
    """Four pictures in a subfolder and a table."""
    files.example_pictures(root / "cats", [f"{n}.jpg" for n in range(4)])
    rows = [{"image": f"cats/{n}.jpg", "captions": [f"a cat number {n}", "a red cat"]} for n in range(4)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
