"""The embedded names as galleries of one language each: one picture of every concept, with its name in that language.

    DIR/wit/SPLIT.tsv.gz, DIR/images/     as written by `diptych data make names`; the rows with is_main_image

For retrieval, and for what MURAL is measured by: the mean of recall at 1, 5 and 10 both ways (`r_mean`), language by language.
Split `test` is in English, `test-sw` in Swahili, and so on: SPLIT-LANGUAGE. Twins, two concepts that are drawn alike, have one
picture between them. Of the languages that never stand beside a picture in training, `train` has none.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from functools import cached_property
from pathlib import Path

from diptych.config import UserError, nearest
from diptych.contracts import Sample
from diptych.data import files

_NAME = "languages"
_DEFAULT = "en"


class Languages:
    purposes = frozenset({"retrieval"})
    looks_for = "wit/SPLIT.tsv.gz of the embedded names"

    @staticmethod
    def recognises(root: Path) -> bool:
        return (root / "dataset.json").is_file() and (root / "wit/train.tsv.gz").is_file()

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Languages:
        tables = sorted((path.name.removesuffix(".tsv.gz") for path in root.glob("wit/*.tsv.gz")), key=len, reverse=True)
        table = next((name for name in tables if split == name or split.startswith(f"{name}-")), None)
        if table is None:
            raise files.no_split(_NAME, split, sorted(tables), root)
        return cls(root, table, split[len(table) + 1 :] or _DEFAULT, limit)

    def __init__(self, root: Path, table: str, language: str, limit: int | None):
        self._table, self._settings = root / f"wit/{table}.tsv.gz", (table, language, limit)
        self._language, self._root = language, root
        shown: dict[str, tuple[str, str]] = {}  # concept -> its picture and its name
        spoken: set[str] = set()
        try:
            with gzip.open(self._table, "rt", encoding="utf-8", newline="") as text:
                for row in csv.DictReader(text, delimiter="\t"):
                    if row["is_main_image"] == "true":
                        spoken.add(row["language"])
                        if row["language"] == language:
                            shown.setdefault(row["page_url"], (row["image_url"], row["caption_reference_description"].strip()))
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, KeyError) as error:
            raise UserError(f"{self._table}: not a table of the embedded names ({error!r})") from None
        if language not in spoken:
            raise UserError(f"{self._table}: no name in language '{language}'{nearest(language, spoken)}")
        self._shown = list(shown.items())[:limit]

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, index: int) -> Sample:
        page, (picture, name) = self._shown[index]
        key = f"{picture}/{self._language}"
        return Sample(key=key, images=(self._root / "images" / picture,), texts=(name,), language=self._language, group=page)

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._table], *self._settings)


def example(root: Path) -> None:
    """Four things in two languages; the fourth has a second picture, which is not the gallery's."""
    things = [("cat", "Katze"), ("dog", "Hund"), ("boat", "Boot"), ("sun", "Sonne")]
    files.example_pictures(root / "images", [*(f"{thing}.jpg" for thing, _ in things), "sun-2.jpg"])
    (root / "wit").mkdir()
    (root / "dataset.json").write_text('{"dataset": "names"}\n')
    columns = ("language", "page_url", "image_url", "caption_reference_description", "is_main_image")
    rows = [
        (language, f"diptych:names/{names[0]}", f"{names[0]}.jpg", name, "true")
        for names in things
        for language, name in zip(("en", "de"), names, strict=True)
    ]
    rows.append(("en", "diptych:names/sun", "sun-2.jpg", "sun", "false"))
    for split in ("train", "val", "test"):
        with gzip.open(root / f"wit/{split}.tsv.gz", "wt", encoding="utf-8", newline="") as text:
            csv.writer(text, delimiter="\t", lineterminator="\n").writerows([columns, *rows])
