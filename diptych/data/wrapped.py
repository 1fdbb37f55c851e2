"""A reader around a reader: it changes samples, or which of them there are, and is asked like the one inside for all else."""

from __future__ import annotations

from typing import Any

from diptych.contracts import Reader, Sample


class Wrapped:
    """As it is, every sample of `reader`, and whatever else that tells: its fingerprint, the classes of a detector."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        return self.reader[index]

    @property
    def fingerprint(self) -> str:
        return self.reader.fingerprint

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "reader":
            raise AttributeError(name)  # while it is being unpickled there is no reader to ask yet
        return getattr(self.reader, name)
