"""Class-aware sampling (VinVL, section 2): in large detection sets pictures of rare things are shown again.

    from the rarest class on: its pictures, in their order and round again, until the class has at least `least` boxes
                              in one round of the set; what else a picture shows is counted with it

A reader like any other, so several balanced sets are mixed in as many copies as asked (`--data objects365@2x`: VinVL shows COCO and
Visual Genome eight times, Objects365 twice and Open Images once). Names are counted as the detector calls them, aliases merged.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cached_property

from diptych.contracts import Reader, Sample


class ClassAware:
    def __init__(self, reader: Reader, least: int, called: Callable[[str], str] = str):
        """called: what a name in the data is called by the detector."""
        self.reader, self.least = reader, least
        names = [Counter(called(box.name) for box in reader[i].boxes if box.name) for i in range(len(reader))]
        count = sum(names, Counter())
        of_name: dict[str, list[int]] = {}
        for i, own in enumerate(names):
            for name in own:
                of_name.setdefault(name, []).append(i)
        self.index = list(range(len(reader)))
        for name in sorted(count, key=lambda name: (count[name], name)):
            n = 0
            while count[name] < least:
                shown = of_name[name][n % len(of_name[name])]
                self.index.append(shown)
                count.update(names[shown])
                n += 1

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        return self.reader[self.index[index]]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.reader.fingerprint} {self.least} {self.index[len(self.reader) :]}".encode()).hexdigest()
