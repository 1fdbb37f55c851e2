"""Your own questions about pictures: a jsonl file, one question a line.

    {"image": "cats/tom.jpg", "question": "is the cat asleep?", "answer": "yes"}       or "answers": ["yes", "yes", "no"]

    DIR/questions.jsonl     any name; or train.jsonl, val.jsonl, test.jsonl, one for each split; or give the file itself
    DIR/cats/tom.jpg        paths are relative to the file's folder

Further fields: "question_id" (default: file name and line), "question_type" (scores are broken down by it), "split" (then on every line), "group".
Fewer than ten answers stand for ten annotators, each in turn: one answer counts in full, and two are both right. Without answers the
question can be asked, not learnt from or scored.

Without splits, a hash of the picture's path puts 90 % of the pictures into train, 5 % into val and 5 % into test, with all their
questions; split "all" is everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.config import UserError, nearest
from diptych.contracts import Sample
from diptych.data import files
from diptych.metrics import vqa_accuracy

_NAME = "The questions"
_SPLITS = ("train", "val", "test")


class VQAJsonl:
    purposes = frozenset({"vqa"})
    looks_for = "a .jsonl file of {image, question, answer}"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> VQAJsonl:
        tables = _tables(root)
        if not tables:
            raise UserError(f"{root}: no .jsonl file of {{image, question, answer}} there")
        return cls(root, split, tables, limit)

    def __init__(self, root: Path, split: str, tables: list[Path], limit: int | None):
        named = {table.stem: table for table in tables if table.stem in _SPLITS}
        if root.is_dir() and named:
            if split not in (*named, "all"):
                raise files.no_split(_NAME, split, named, root)
            tables = list(named.values()) if split == "all" else [named[split]]
        self._tables, self._settings = tables, (split, limit)
        found = [(line_split, sample) for table in tables for line_split, sample in _samples(table)]
        if not found:
            raise UserError(f"{tables[0]} is empty: one question a line is expected")
        splits = {line_split for line_split, _ in found}
        if "" in splits and len(splits) > 1:
            raise UserError(f"{tables[0]}: some lines have a split and some have not")

        def belongs(line_split: str, sample: Sample) -> bool:
            if split == "all" or (named and root.is_dir()):
                return True
            return split == (line_split or files.hashed_split(str(sample.images[0])))

        self._samples = [sample for line_split, sample in found if belongs(line_split, sample)][:limit]
        if not self._samples:
            if splits == {""} and split in _SPLITS:
                raise UserError(
                    f"split '{split}' of {root} is empty: it takes a hashed 5 % of the pictures; add a 'split' to each line, or use 'all'"
                )
            raise files.no_split(_NAME, split, sorted(splits if splits != {""} else {*_SPLITS, "all"}), root)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._tables, *self._settings)
