"""WIT, the Wikipedia-based image text data set (Srinivasan et al., 2021): a picture and a caption in one of 108 languages.

Licence: CC BY-SA 3.0; pictures under the terms of their pages on Wikimedia Commons. Get the tables at
github.com/google-research-datasets/wit and the pictures by their `image_url`. 37.6 million rows, 11.5 million pictures.

    DIR/wit_v1.train.all-00000-of-00010.tsv.gz ...   or  DIR/wit/train.tsv.gz             (the embedded names)
    DIR/wit_v1.val.all-00000-of-00005.tsv.gz ...
    DIR/images/NAME, the last part of image_url          DIR/images/ and image_url after it

A sample is a row, for a row has one language. Its text is the caption under the picture, else the alternative text, else the
description of the file, which repeats what others wrote. Rows of one page share a group.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files

_NAME = "WIT"
_TEXTS = ("caption_reference_description", "caption_alt_text_description", "caption_attribution_description")
_NEEDED = ("language", "page_url", "image_url", _TEXTS[0])


class _Row(NamedTuple):
    number: int  # in its split
    picture: str
    text: str
    language: str
    page: str


class WIT:
    purposes = frozenset({"pretrain"})
    looks_for = "wit/SPLIT.tsv.gz or wit_v1.SPLIT.all-*.tsv.gz"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> WIT:
        tables = _tables(root)
        if not tables:
            raise UserError(f"{_NAME} needs wit/{split}.tsv.gz or wit_v1.{split}.all-*.tsv.gz in {root}")
        if split not in tables:
            raise files.no_split(_NAME, split, tables, root)
        return cls(root, split, tables[split], limit)

    def __init__(self, root: Path, split: str, tables: list[Path], limit: int | None):
        self._tables, self._settings, self._split = tables, (split, limit), split
        self._rows: list[_Row] = []
        for row in _read(tables):
            if limit is not None and len(self._rows) == limit:
                break
            self._rows.append(row)
        if not self._rows:
            raise UserError(f"{tables[0]}: no row with a caption in it")
        self._folder = files.picture_folder(_NAME, root, ("images", ""), self._rows[0].picture)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        return Sample(
            key=f"{self._split}/{row.number}",
            images=(self._folder / row.picture,),
            texts=(row.text,),
            language=row.language,
            group=row.page,
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._tables, *self._settings)


def _tables(root: Path) -> dict[str, list[Path]]:
    """Split -> its tables."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("wit/*.tsv.gz")):
        found.setdefault(path.name.removesuffix(".tsv.gz"), []).append(path)
    for path in sorted(root.glob("wit_v1.*.tsv.gz")):
        if match := re.match(r"wit_v1\.([a-z]+)\.", path.name):
            found.setdefault(match[1], []).append(path)
    return found


def _read(tables: list[Path]) -> Iterator[_Row]:
    """Rows that have a text, numbered through all tables of a split."""
    number = 0
    known: dict[str, str] = {}  # languages, pages and pictures return often: keep one string of each
    for table in tables:
        try:
            with gzip.open(table, "rt", encoding="utf-8", newline="") as text:
                rows = csv.reader(text, delimiter="\t")
                header = next(rows, [])
                if missing := [name for name in _NEEDED if name not in header]:
                    raise UserError(f"{table}:1: no column {', '.join(missing)}; WIT has {', '.join(_NEEDED)} and others")
                language, page, url = (header.index(name) for name in _NEEDED[:3])
                captions = [header.index(name) for name in _TEXTS if name in header]
                for fields in rows:
                    if len(fields) != len(header):
                        raise UserError(f"{table}:{rows.line_num}: {len(fields)} fields, the header has {len(header)}")
                    caption = next((fields[i].strip() for i in captions if fields[i].strip()), "")
                    if caption:
                        picture = fields[url] if "://" not in fields[url] else unquote(fields[url].rpartition("/")[2])
                        shared = (known.setdefault(value, value) for value in (picture, fields[language], fields[page]))
                        picture, code, group = shared
                        yield _Row(number, picture, caption, code, group)
                    number += 1
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table}: can't be read to its end ({error})") from None


def example(root: Path) -> None:
    """Four rows in the published layout."""
    names = ["Cat poster 1.jpg", "Chat_noir.jpg", "Katze.jpg", "Neko.jpg"]
    files.example_pictures(root / "images", names)
    header = [*_NEEDED[:3], "page_title", *_TEXTS]
    rows = [
        [language, f"https://{language}.wikipedia.org/wiki/{n}", f"https://upload.wikimedia.org/a/ab/{quoted}", "Cat", *texts]
        for n, (language, quoted, texts) in enumerate(
            [
                ("en", "Cat%20poster%201.jpg", ["A cat on a poster", "", "English: a cat"]),
                ("fr", "Chat_noir.jpg", ["", "un chat noir", ""]),
                ("de", "Katze.jpg", ["", "", 'Deutsch: "Katze"']),
                ("ja", "Neko.jpg", ["猫", "", ""]),
            ]
        )
    ]
    with gzip.open(root / "wit_v1.val.all-00000-of-00001.tsv.gz", "wt", encoding="utf-8", newline="") as text:
        csv.writer(text, delimiter="\t").writerows([header, *rows])
