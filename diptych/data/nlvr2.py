"""NLVR2: is a sentence true of a pair of pictures (Suhr et al., ACL 2019)?

Licence: annotations CC-BY 4.0; the pictures belong to whoever put them on the web. Get the annotations at github.com/lil-lab/nlvr
(nlvr2/data), the pictures by the form that is named there. 86,373 train, 6,982 dev, 6,967 test1 sentences with a pair; test1 is
the papers' "test-P". `val` is another name for `dev`, and `test` for `test1`.

    published                                      embedded scenes
    DIR/dev.json (or in DIR/data, DIR/nlvr2/data)  DIR/nlvr2/val.json
    DIR/dev/dev-850-0-img0.png, ...-img1.png       DIR/images/val/00054997.jpg
    DIR/images/train/63/train-...-img0.png

One JSON object a line. An identifier is split-set-pair-sentence; without its last field it names the pictures, in train under the
folder `directory`. The embedded scenes name theirs in `left_url` and `right_url`, where the published files have addresses on the
web. Every picture must be there: some were never to be had, and then `dev.json` has to be without their lines.

Labels of a sample: question_id (the identifier), label (a bool), sentence (the identifier with its third field blank, which is
what the official scorer takes for "the same sentence"). Its group is the set: what was written about the same eight pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files
from diptych.data.files import Problem

_NAME = "NLVR2"
_PLACES = ("", "data", "nlvr2", "nlvr2/data")
_OTHER_NAMES = {"val": "dev", "test": "test1"}
_LINE = {"sentence": str, "label?": str, "identifier": str, "left_url": str, "right_url": str, "group?": str}
_LINE |= {"directory?": int | str}
_TRUTH = {"true": True, "false": False}


class _Pair(NamedTuple):
    where: str
    identifier: str
    pictures: tuple[str, str]  # as they lie under one of the folders of pictures
    text: str
    label: bool | None
    group: str


class NLVR2:
    purposes = frozenset({"nlvr2"})
    looks_for = "train.json, dev.json, test1.json of NLVR2, in DIR, DIR/data or DIR/nlvr2"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_files(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> NLVR2:
        found = _files(root)
        name = split if split in found else _OTHER_NAMES.get(split, split)
        if name not in found:
            raise files.no_split(_NAME, split, found, root)
        return cls(root, split, found[name], limit)

    def __init__(self, root: Path, split: str, path: Path, limit: int | None):
        self._path, self._settings = path, (split, limit)
        self._pairs: list[_Pair] = []
        for pair in _pairs(path):
            self._pairs.append(pair)
            if len(self._pairs) == limit:
                break
        if not self._pairs:
            raise UserError(f"{path}: no sentence in it")
        files.refuse_repeated(path, "identifier", [pair.identifier for pair in self._pairs])
        places = (path.stem, f"images/{path.stem}", "images", "nlvr2/images", "")
        self._folder = files.picture_folder(_NAME, root, places, self._pairs[0].pictures[0])
        gone = files.absent(self._folder, dict.fromkeys(name for pair in self._pairs for name in pair.pictures))
        missing = [Problem("", f"{p.where}: no picture {self._folder / n}") for p in self._pairs for n in p.pictures if n in gone]
        if missing:
            more = f" (and {len(missing) - 1:,} more pictures of other lines)" if len(missing) > 1 else ""
            raise UserError(f"{missing[0].said}, and a sentence is about two{more}")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self._pairs[index]
        labels: dict[str, Any] = {"question_id": pair.identifier, "sentence": _sentence(pair.identifier)}
        if pair.label is not None:
            labels["label"] = pair.label
        pictures = tuple(self._folder / name for name in pair.pictures)
        return Sample(pair.identifier, pictures, (pair.text,), labels=labels, group=pair.group)

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._path], *self._settings)


def _files(root: Path) -> dict[str, Path]:
    """The file of each split: a .json whose first line is such an object, and not a document of another kind."""
    found = {}
    for folder in _PLACES:
        for path in sorted((root / folder).glob("*.json")):
            if '"identifier"' in (line := files.first_line(path)) and '"left_url"' in line:
                found.setdefault(path.stem, path)
    return found


def _pairs(path: Path) -> Iterator[_Pair]:
    problems: list[Problem] = []
    for number, row in files.json_lines(path, problems):
        files.refuse(problems)
        where = f"{path}:{number}"
        if said := files.amiss(row, _LINE):
            raise UserError(f"{where}: {said}")
        fields = row["identifier"].split("-")
        if len(fields) < 4:
            raise UserError(f"{where}: 'identifier' must be split-set-pair-sentence, not {row['identifier']}")
        label = row.get("label")
        if label is not None and label.lower() not in _TRUTH:
            raise UserError(f'{where}: \'label\' must be "True" or "False", not "{label}"')
        names = (row["left_url"], row["right_url"])
        if "://" in names[0]:
            stem, folder = "-".join(fields[:-1]), f"{row['directory']}/" if row.get("directory") is not None else ""
            names = (f"{folder}{stem}-img0.png", f"{folder}{stem}-img1.png")
        group = row.get("group") or "-".join(fields[:-2])
        yield _Pair(
            where, row["identifier"], names, row["sentence"].strip(), None if label is None else _TRUTH[label.lower()], group
        )
    files.refuse(problems)


def _sentence(identifier: str) -> str:
    fields = identifier.split("-")
    fields[-2] = ""
    return "-".join(fields)


def example(root: Path) -> None:
    """Two sentences about two pairs each, in the published layout."""
    pairs = [f"dev-{number}-{pair}" for number in (850, 851) for pair in (0, 1)]
    files.example_pictures(root / "dev", [f"{pair}-img{n}.png" for pair in pairs for n in (0, 1)])
    rows = [
        {
            "sentence": "There are two dogs in total." if n < 2 else "The left image shows a dog.",
            "left_url": "https://example.org/left.jpg",
            "right_url": "https://example.org/right.jpg",
            "identifier": f"{pair}-0",
            "label": str(n % 2 == 0),
            "synset": "dog",
            "query": "two dogs",
        }
        for n, pair in enumerate(pairs)
    ]
    (root / "dev.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
