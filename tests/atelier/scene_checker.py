"""Reads texts about scenes word by word and judges them against what is in the picture, sharing no code with what wrote them.

A thing is known by its word, its colour and its box. "the dog" holds only of a picture with exactly one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from diptych.atelier.compose import Scene
from diptych.atelier.vocabulary import CATEGORIES, COLOURS


class Seen(NamedTuple):
    word: str
    group: str
    colour: str
    size: str
    x: float
    y: float


_SINGULAR = {c.plural: c.word for c in CATEGORIES} | {c.word: c.word for c in CATEGORIES} | {"things": "thing", "thing": "thing"}
_GROUPS = {c.group for c in CATEGORIES}
_COLOURS = {c.word for c in COLOURS}
_RELATION = "left of|right of|above|below"


def look(scene: Scene) -> list[Seen]:
    found = []
    for t in scene.things:
        x1, y1, x2, y2 = t.box
        size = "large" if max(x2 - x1, y2 - y1) > 32 else "small"
        category = next(c for c in CATEGORIES if c.slug == t.slug)
        found.append(Seen(category.word, category.group, COLOURS[t.colour].word, size, (x1 + x2) / 2, (y1 + y2) / 2))
    return found


def matching(phrase: str, seen: list[Seen]) -> list[Seen]:
    """The things that "[small] [red] dog(s)" fits."""
    found = list(seen)
    for word in phrase.split():
        if word in ("a", "an", "the"):
            continue
        if word in ("large", "small"):
            found = [s for s in found if s.size == word]
        elif word in _COLOURS:
            found = [s for s in found if s.colour == word]
        elif word in ("leftmost", "rightmost", "topmost", "bottommost"):
            axis = 0 if word in ("leftmost", "rightmost") else 1
            place = lambda s, axis=axis: (s.x, s.y)[axis]  # noqa: E731
            pool = [s for s in found if s.word == _SINGULAR[phrase.split()[-1]]] if "thing" not in phrase else found
            found = [(min if word in ("leftmost", "topmost") else max)(pool, key=place)]
        elif word in _GROUPS:
            found = [s for s in found if s.group == word]
        else:
            noun = _SINGULAR[word]
            found = found if noun == "thing" else [s for s in found if s.word == noun]
    return found


def related(a: Seen, word: str, b: Seen) -> bool:
    right, down = a.x - b.x, a.y - b.y
    if word in ("left of", "right of"):
        return abs(right) > abs(down) and (right > 0) == (word == "right of")
    return abs(down) > abs(right) and (down > 0) == (word == "below")


def quarter(s: Seen) -> str:
    return f"{'bottom' if s.y > 64 else 'top'} {'right' if s.x > 64 else 'left'}"


def is_true(text: str, seen: list[Seen]) -> bool:
    """Of a one-fact phrase."""
    if m := re.fullmatch(r"there (?:is|are) (no|\d) (.+)", text):
        return len(matching(m[2], seen)) == (0 if m[1] == "no" else int(m[1]))
    if m := re.fullmatch(rf"the (\w+) is ({_RELATION}|larger than|smaller than) the (\w+)", text):
        a, b = matching(m[1], seen), matching(m[3], seen)
        if len(a) != 1 or len(b) != 1:
            return False
        if m[2].endswith("than"):
            return (a[0].size, b[0].size) == (("large", "small") if m[2] == "larger than" else ("small", "large"))
        return related(a[0], m[2], b[0])
    if m := re.fullmatch(r"the (.+) is in the (.+)", text):
        who = matching(m[1], seen)
        return len(who) == 1 and quarter(who[0]) == m[2]
    if m := re.fullmatch(r"the (.+) is (?:an? )?(\w+)", text):
        who = matching(m[1], seen)
        return len(who) == 1 and bool(matching(m[2], who))
    assert re.match(r"an? ", text), text
    return bool(matching(text, seen))


def caption_is_true(text: str, seen: list[Seen], complete: bool = True) -> bool:
    """Of a dense caption, which must also name everything."""
    named = 0
    text = re.sub(r"^(there (is|are)|a picture of) ", "", text)
    holds = True
    if m := re.match(rf"(an? .+?) ({_RELATION}) (an? [^,]+)(?:, with )?", text):
        pairs = [(a, b) for a in matching(m[1], seen) for b in matching(m[3], seen)]
        holds = any(related(a, m[2], b) for a, b in pairs)
        text, named = text[m.end() :], 2
    elif m := re.match(r"in the (\w+ \w+) (an? [^,]+)(?:, and also )?", text):
        holds = any(quarter(s) == m[1] for s in matching(m[2], seen))
        text, named = text[m.end() :], 1
    for phrase in filter(None, re.split(r", | and ", text)):
        if number := re.match(r"(\d) ", phrase):
            found = matching(phrase[2:], seen)
            holds &= len(found) == int(number[1])
            named += int(number[1])
        else:
            holds &= bool(matching(phrase, seen))
            named += 1
    return holds and (named == len(seen) or not complete)


def answer(question: str, seen: list[Seen]) -> str:
    """Of a VQA question."""
    if m := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if matching(m[1], seen) else "no"
    if m := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(matching(m[1], seen)))
    if m := re.fullmatch(r"what color is the (.+)\?", question):
        [s] = matching(m[1], seen)
        return s.colour
    if m := re.fullmatch(r"is the (\w+) larger or smaller than the (\w+)\?", question):
        [a], [b] = matching(m[1], seen), matching(m[2], seen)
        assert a.size != b.size
        return "larger" if a.size == "large" else "smaller"
    m = re.fullmatch(rf"is the (\w+) ({_RELATION}) the (\w+)\?", question)
    assert m, question
    [a], [b] = matching(m[1], seen), matching(m[3], seen)
    return "yes" if related(a, m[2], b) else "no"
