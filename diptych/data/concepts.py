"""The embedded names as labelled pictures: each drawing of one thing once, with its concept as the label.

    DIR/wit/SPLIT.tsv.gz, DIR/images/     as written by `diptych data make names`; pictures of two or three things are left out

For questions about pictures alone (tasks/probe.py) and about names, the English ones (tasks/zeroshot.py). Splits tell what a
pre-training on `names` has seen:

    train   drawings by the four artists of the names' `train`, but for one of each concept that has several
    seen    that one: its artist is known from the other concepts. Pre-training has met the picture too, never with its label
    val     the fifth artist        test   the sixth and seventh       unseen in pre-training, and in `train`
    test-concept   by the sixth and seventh, too, and of things that neither has seen or read of
"""

from __future__ import annotations

import csv
import gzip
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files
from diptych.draw import Draw

_TABLE = {"train": "train", "seen": "train", "val": "val", "test": "test", "test-concept": "test-concept"}
_PAGE = "diptych:names/"


class Concepts:
    purposes = frozenset({"probe"})
    looks_for = "wit/SPLIT.tsv.gz of the embedded names"

    @staticmethod
    def recognises(root: Path) -> bool:
        return (root / "dataset.json").is_file() and (root / "wit/train.tsv.gz").is_file()

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Concepts:
        if split not in _TABLE:
            raise files.no_split("Concepts", split, _TABLE, root)
        return cls(root, split, limit)

    def __init__(self, root: Path, split: str, limit: int | None):
        self._table, self._settings = root / f"wit/{_TABLE[split]}.tsv.gz", (split, limit)
        drawings: dict[str, list[str]] = {}  # concept -> its pictures, in the order of the table
        called: dict[str, dict[str, str]] = {}  # the English name, where the table has one
        try:
            with gzip.open(self._table, "rt", encoding="utf-8", newline="") as text:
                for row in csv.DictReader(text, delimiter="\t"):
                    concept = row["page_url"].removeprefix(_PAGE)
                    own = drawings.setdefault(concept, [])
                    if row.get("language") == "en":
                        called[concept] = {"name": row["caption_reference_description"]}
                    if "+" not in concept and row["image_url"] not in own:
                        own.append(row["image_url"])
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, KeyError) as error:
            raise UserError(f"{self._table}: not a table of the embedded names ({error!r})") from None
        if _TABLE[split] == "train":
            drawings = {concept: _side(own, place, split) for place, (concept, own) in enumerate(sorted(drawings.items()))}
        shown = [(concept, picture) for concept, own in drawings.items() for picture in own][:limit]
        if not shown:
            raise UserError(f"{self._table}: no picture of a single thing")
        self._samples = [
            Sample(picture, (root / "images" / picture,), labels={"label": concept, **called.get(concept, {})}, group=concept)
            for concept, picture in shown
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._table], *self._settings)


def _side(own: list[str], place: int, split: str) -> list[str]:
    """One drawing of a concept is kept from `train`; which one is drawn, so that it is every artist's turn."""
    if len(own) < 2:
        return own if split == "train" else []
    kept = int(Draw(0).integers("concepts/seen", np.array([place]), len(own))[0, 0])
    return [own[kept]] if split == "seen" else [picture for n, picture in enumerate(own) if n != kept]


def example(root: Path) -> None:
    """Three drawings of each of two things, in every table; so `train` has four and `seen` two."""
    drawn = [(concept, f"{concept}-{artist}.jpg") for concept in ("cat", "boat") for artist in "abc"]
    files.example_pictures(root / "images", [picture for _, picture in drawn])
    (root / "wit").mkdir()
    (root / "dataset.json").write_text('{"dataset": "names"}\n')
    for split in dict.fromkeys(_TABLE.values()):
        with gzip.open(root / f"wit/{split}.tsv.gz", "wt", encoding="utf-8", newline="") as text:
            table = csv.writer(text, delimiter="\t", lineterminator="\n")
            table.writerows([("page_url", "image_url"), *((_PAGE + concept, picture) for concept, picture in drawn)])
