"""Texts put together from pieces, so that the spans which the picture decides come with them.

[("a"), ("small", "size", 0), ("red", "colour", 0), ("dog", "object", 0)]
  -> "a small red dog", spans [[2, 7, "size", 0], [8, 11, "colour", 0], [12, 15, "object", 0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int, str, int | None]  # characters [start, end), kind, index of the thing (None: no single thing)


class Piece(NamedTuple):
    text: str
    kind: str = ""  # "object", "colour", "size", "count", "relation", "place"; empty: the picture does not decide it
    thing: int | None = None


class Line(NamedTuple):
    text: str
    false: str  # a word or a word group swapped, so that it is not true of the picture
    spans: list[Span]
    things: tuple[int, ...]  # what it is about


def line(true: Sequence[Piece], false: Sequence[Piece], things: Sequence[int]) -> Line:
    text, spans = write(true)
    return Line(text, write(false)[0], spans, tuple(things))


def swapped(pieces: Sequence[Piece], place: int, into: str) -> list[Piece]:
    return [*pieces[:place], pieces[place]._replace(text=into), *pieces[place + 1 :]]


def write(pieces: Sequence[Piece]) -> tuple[str, list[Span]]:
    """The text and the spans. "a" becomes "an" where the next piece asks for it; a piece that is a comma joins its left."""
    words: list[str] = []
    spans: list[Span] = []
    at = 0
    for n, (text, kind, thing) in enumerate(pieces):
        if text == "a" and pieces[n + 1].text[0] in "aeiou":
            text = "an"
        if words and text != ",":
            words.append(" ")
            at += 1
        if kind:
            spans.append((at, at + len(text), kind, thing))
        words.append(text)
        at += len(text)
    return "".join(words), spans
