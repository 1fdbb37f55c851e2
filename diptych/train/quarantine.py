"""Broken pictures of a run: each listed once in `quarantine.jsonl` (by the loop), and the run refused when they are too many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from diptych.config import UserError
from diptych.data.stream import Broken


class Quarantine:
    def __init__(self, directory: Path, max_broken: float, samples: int):
        self.file = directory / "quarantine.jsonl"
        self.max_broken = max_broken
        self.samples = samples  # in all sources together
        self.listed: dict[tuple[str, str], None] = {}  # (key, path), in the order of discovery
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.listed[entry["key"], entry["path"]] = None

    def add(self, broken: Iterable[Broken]) -> list[Broken]:
        """Those not known before."""
        new = []
        for entry in broken:
            if (entry.key, entry.path) not in self.listed:
                self.listed[entry.key, entry.path] = None
                new.append(entry)
        return new

    def check(self, drawn: int) -> None:
        """Refuse the run when more than `data.max_broken` of the samples seen are broken; a single one is never a reason.

        Until every sample has been seen the share is an estimate, so three standard deviations are granted.
        """
        seen = min(drawn, self.samples)
        allowed = self.max_broken * seen
        if drawn < self.samples:
            allowed += 3 * math.sqrt(allowed)
        if self.max_broken > 0:
            allowed = max(allowed, 1)
        if len(self.listed) > allowed:
            share = f"{len(self.listed)} of {seen} samples ({len(self.listed) / seen:.1%})"
            raise UserError(f"{share} have unreadable pictures, above data.max_broken={self.max_broken:g}: see {self.file}")
