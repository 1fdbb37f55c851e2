"""Prediction files, whoever made them: scored as a run's own answers are, or refused.

    VQA v2     [{"question_id": 42000, "answer": "yes"}, ...]
    SNLI-VE    [{"pairID": "36979.jpg#0r0e", "gold_label": "neutral"}, ...]
    NLVR2      identifier,True on each line of a .csv, or [{"identifier": "dev-850-0-0", "label": "True"}, ...]

A file must answer every question of its split once and nothing else, as VQA's own loader demands: a score over part of a split is
no score of it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from diptych.config import UserError, nearest
from diptych.contracts import Evaluation, Reader, Sample, Task


class Judged(Protocol):
    """A task whose prediction file has one answer for each sample."""

    predicts: ClassVar[tuple[str, str]]  # the fields of an entry: which sample, what is answered
    allowed: ClassVar[tuple[str, ...]]  # the answers there are; none: any text

    @classmethod
    def judge(cls, sample: Sample, answer: str) -> dict[str, Any] | None:
        """An item of `Evaluation`; None where the sample has no public answer."""
        ...

    @classmethod
    def concluded(cls, items: list[dict[str, Any]], predictions: list[Any]) -> Evaluation:
        """What is reported of all items."""
        ...


def judged(task: type[Task]) -> type[Judged] | None:
    return cast(type[Judged], task) if hasattr(task, "predicts") else None


def scored(task: type[Judged], path: Path, reader: Reader, split: str) -> Evaluation:
    """Every sample of a reader, judged by a file. Raises `UserError`, naming the file and the id, for one that does not fit."""
    which, what = task.predicts
    answers: dict[str, str] = {}
    for place, entry in _entries(path, task.predicts):
        where = f"{path}: entry {place}"
        for name in task.predicts:
            if name not in entry:
                raise UserError(f"{where}: no '{name}' here{nearest(name, entry).replace('valid:', 'found:')}")
        if not isinstance(entry[what], str):
            raise UserError(f"{where}: '{what}' must be a text, not {json.dumps(entry[what])[:40]}")
        if task.allowed and entry[what] not in task.allowed:
            raise UserError(f"{where}: '{what}' is '{entry[what]}', not {' or '.join(task.allowed)}")
        if (number := str(entry[which])) in answers:
            raise UserError(f"{where}: {which} {number} is answered a second time")
        answers[number] = entry[what]
    samples = {str(sample.labels.get("question_id", sample.key)): sample for sample in (reader[n] for n in range(len(reader)))}
    if strange := [number for number in answers if number not in samples]:
        of_all = f"{len(strange):,} of {len(answers):,} are not of split '{split}'"
        raise UserError(f"{path}: {which} {strange[0]} is not of these data; {of_all}")
    if missing := [number for number in samples if number not in answers]:
        of_all = f"{len(missing):,} of {len(samples):,} are not answered"
        raise UserError(f"{path}: no answer to {which} {missing[0]} of split '{split}'; {of_all}")
    items = [item for number, sample in samples.items() if (item := task.judge(sample, answers[number])) is not None]
    return task.concluded(items, [])


def _entries(path: Path, fields: tuple[str, str]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """(place counted from 1, entry) of a JSON list, or of a table with or without a header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if row]
        names = rows.pop(0) if rows and set(fields) <= set(rows[0]) else fields
        for place, row in enumerate(rows, 1):
            if len(row) != len(names):
                raise UserError(f"{path}: entry {place}: {len(row)} fields, not {len(names)} ({', '.join(names)})")
            yield place, dict(zip(names, row, strict=True))
        return
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: a list of predictions is expected")
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {place}: an object with {' and '.join(fields)} is expected")
        yield place, entry
