"""Pairs of texts that say one thing in two languages, for text-text contrast: the embedded names, or tables of one's own.

    DIR/pairs/SPLIT.tsv.gz        written by `diptych data make names`, with their columns:
    concept   language_a   text_a   language_b   text_b

One's own tables need language_a, text_a, language_b and text_b; `concept`, where it is given, tells which pairs say the same thing,
so that they are not held against each other. Parallel corpora (OPUS, CCMatrix, Tatoeba) come as two aligned files: `paste` makes
such a table of them. A sample is a pair: two texts and no picture.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files

_NAME = "translations"
_NEEDED = ("language_a", "text_a", "language_b", "text_b")


class _Pair(NamedTuple):
    texts: tuple[str, str]
    languages: tuple[str, str]
    concept: str


class Translations:
    purposes = frozenset({"translations"})
    looks_for = "pairs/SPLIT.tsv.gz"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Translations:
        tables = _tables(root)
        if not tables:
            raise UserError(f"{_NAME} need pairs/{split}.tsv.gz in {root}")
        if split not in tables:
            raise files.no_split(_NAME, split, tables, root)
        return cls(tables[split], split, limit)

    def __init__(self, table: Path, split: str, limit: int | None):
        self._table, self._settings = table, (split, limit)
        self._pairs = _read(table, limit)
        if not self._pairs:
            raise UserError(f"{table}: no pair in it")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self._pairs[index]
        key = f"{self._settings[0]}/pair/{index}"
        return Sample(key=key, texts=pair.texts, language="-".join(pair.languages), group=pair.concept)

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._table], *self._settings)


def _tables(root: Path) -> dict[str, Path]:
    return {path.name.removesuffix(".tsv.gz"): path for path in sorted(root.glob("pairs/*.tsv.gz"))}


def _read(table: Path, limit: int | None) -> list[_Pair]:
    """Rows with a text on both sides."""
    pairs: list[_Pair] = []
    known: dict[str, str] = {}  # concepts, languages and English names return often: keep one string of each
    try:
        with gzip.open(table, "rt", encoding="utf-8", newline="") as text:
            rows = csv.reader(text, delimiter="\t")
            header = next(rows, [])
            if missing := [name for name in _NEEDED if name not in header]:
                raise UserError(f"{table}:1: no column {', '.join(missing)}; needed are {', '.join(_NEEDED)}")
            first, a, second, b = (header.index(name) for name in _NEEDED)
            concept = header.index("concept") if "concept" in header else None
            for fields in rows:
                if len(fields) != len(header):
                    raise UserError(f"{table}:{rows.line_num}: {len(fields)} fields, the header has {len(header)}")
                if limit is not None and len(pairs) == limit:
                    break
                one, other, *rest = (
                    known.setdefault(field, field)
                    for field in (fields[a].strip(), fields[b].strip(), fields[first], fields[second])
                )
                if one and other:
                    group = "" if concept is None else known.setdefault(fields[concept], fields[concept])
                    pairs.append(_Pair((one, other), (rest[0], rest[1]), group))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: can't be read to its end ({error})") from None
    return pairs


def example(root: Path) -> None:
    """Four pairs in the layout of the embedded names."""
    rows = [
        ("cat", "en", "cat", "de", "Katze"),
        ("cat", "en", "cat", "ja", "猫"),
        ("boat", "en", "boat", "fr", "bateau"),
        ("boat", "en", "boat", "sw", "mashua"),
    ]
    (root / "pairs").mkdir(parents=True)
    with gzip.open(root / "pairs/train.tsv.gz", "wt", encoding="utf-8", newline="") as text:
        csv.writer(text, delimiter="\t", lineterminator="\n").writerows([("concept", *_NEEDED), *rows])
