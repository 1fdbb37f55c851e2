"""The shipped artwork: about 900 concepts, each drawn by up to seven artists and named in 96 languages.

    load() -> Artwork: .concepts[slug] -> Concept      .sprite(slug, family) -> RGBA [h, w, 4], trimmed, long side 128 px
                       .names(language)[slug] -> str   .coverage(slug, family) -> share of the sprite's box that is opaque

The pack is three files made by tools/build_artwork: `index.json` (one line a concept), `sprites.bin` (WebP pictures one after
the other) and `names.json.xz`. Pictures are read and decoded when asked for. Licences and credits: NOTICE.
"""

from __future__ import annotations

import functools
import io
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACK = Path(__file__).with_name("pack")

TRAIN_FAMILIES = ("twemoji", "emojione", "fxemoji", "noto")
UNSEEN_FAMILIES = ("noto-v1", "fluent-emoji-flat", "streamline-emojis")  # artists kept out of all training
FULL = 0.93  # a sprite that covers more of its box than this is a sign or a screen: its outline says nothing


class Drawing(NamedTuple):
    """One artist's picture of a concept, as it lies in the pack."""

    icon: str  # the artist's own name of it
    start: int  # bytes
    length: int
    coverage: float


@dataclass(frozen=True)
class Concept:
    slug: str
    name: str  # English
    character: str  # the Unicode emoji
    group: str  # Unicode's, as "animals-nature"
    subgroup: str  # as "animal-mammal"
    kind: Literal["object", "role"]  # role: a person in a profession or part
    twin: str  # concepts with the same twin differ by a detail or by name only: never on two sides of a split
    score: float | None  # recall@1 of ImageNet features across artists, among 857 concepts; None: not measured
    drawings: Mapping[str, Drawing]

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.drawings)

    @property
    def fills(self) -> bool:
        """Most artists draw it as a full rectangle (a sign, a screen, a night sky): not for scenes."""
        return 2 * sum(drawing.coverage > FULL for drawing in self.drawings.values()) > len(self.drawings)


class Artwork:
    def __init__(self, pack: Path = PACK):
        index = json.loads((pack / "index.json").read_text(encoding="utf-8"))
        self.families: dict[str, dict[str, str]] = index["families"]
        self.sha256: str = index["sha256"]  # of sprites.bin
        self.concepts: dict[str, Concept] = {entry["slug"]: _concept(entry) for entry in index["concepts"]}
        self._pack = pack

    def sprite(self, slug: str, family: str) -> NDArray[np.uint8]:
        """[h, w, 4] RGBA, straight alpha, cut to what is visible; the longer side is 128 px."""
        with Image.open(io.BytesIO(self.webp(slug, family))) as picture:
            return np.asarray(picture.convert("RGBA"))

    def webp(self, slug: str, family: str) -> bytes:
        """The sprite as it is stored."""
        drawing = self.concepts[slug].drawings[family]
        return self._blob[drawing.start : drawing.start + drawing.length]

    def coverage(self, slug: str, family: str) -> float:
        return self.concepts[slug].drawings[family].coverage

    def names(self, language: str) -> dict[str, str]:
        """slug -> name, of the concepts that have one in this language."""
        return self._texts["names"][language]

    def listed(self, language: str, names: Sequence[str]) -> str:
        """The names as one text, joined as the language joins a list: "a, b, and c"."""
        two, start, middle, end = self._texts["lists"][language]
        if len(names) < 2:
            return "".join(names)
        if len(names) == 2:
            return two.format(*names)
        text = start.format(*names[:2])
        for name in names[2:-1]:
            text = middle.format(text, name)
        return end.format(text, names[-1])

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639 codes, sorted."""
        return tuple(self._texts["names"])

    @functools.cached_property
    def _blob(self) -> bytes:
        return (self._pack / "sprites.bin").read_bytes()

    @functools.cached_property
    def _texts(self) -> dict[str, dict[str, Any]]:
        return json.loads(lzma.decompress((self._pack / "names.json.xz").read_bytes()))


def _concept(entry: dict[str, Any]) -> Concept:
    drawings = {family: Drawing(*fields) for family, fields in entry.pop("sprites").items()}
    return Concept(**entry, drawings=drawings)


@functools.cache
def load() -> Artwork:
    """The artwork that is shipped with the package, read once a process."""
    return Artwork()
