"""What is so in a scene: how many, which is alone of its kind, who is left of whom. Every text is derived from here.

Words that leave room for doubt are not used at all: a relation, an extreme or a quarter of the picture is stated only where it
holds by a margin, and where it does not, `None` means "say nothing", not "false".
"""

from __future__ import annotations

from functools import cached_property

from diptych.atelier.compose import SIDE, Scene

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost")
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
SIZES = ("small", "large")
STEP = 18  # pixels between centres from which a relation is plain
LEAD = 8  # by which an extreme thing leads
OFF_CENTRE = 8


class Facts:
    def __init__(self, scene: Scene):
        self.things = scene.things

    def count(self, category: int | None = None, colour: int | None = None, large: bool | None = None) -> int:
        return len(self.which(category, colour, large))

    def which(self, category: int | None = None, colour: int | None = None, large: bool | None = None) -> list[int]:
        return [
            i
            for i, t in enumerate(self.things)
            if (category is None or t.category == category)
            and (colour is None or t.colour == colour)
            and (large is None or t.large == large)
        ]

    @cached_property
    def categories(self) -> list[int]:
        return [t.category for t in self.things]

    @cached_property
    def colours(self) -> list[int]:
        return [t.colour for t in self.things]

    @cached_property
    def groups(self) -> list[str]:
        return [t.kind.group for t in self.things]

    @cached_property
    def sizes(self) -> list[bool]:
        return [t.large for t in self.things]

    def relation(self, i: int, j: int) -> str | None:
        """What i is to j; the other direction must be at most half as far."""
        a, b = self.things[i], self.things[j]
        right, down = a.cx - b.cx, a.cy - b.cy
        if abs(right) >= STEP and abs(right) >= 2 * abs(down):
            return "right of" if right > 0 else "left of"
        if abs(down) >= STEP and abs(down) >= 2 * abs(right):
            return "below" if down > 0 else "above"
        return None

    def extreme(self, which: str, among: list[int] | None = None) -> int | None:
        """The leftmost, rightmost, topmost or bottommost thing."""
        among = list(range(len(self.things))) if among is None else among
        sign = 1 if which in ("leftmost", "topmost") else -1
        along = sorted((sign * (self.things[i].cx if which in ("leftmost", "rightmost") else self.things[i].cy), i) for i in among)
        return along[0][1] if len(along) > 1 and along[1][0] - along[0][0] >= LEAD else None

    def quarter(self, i: int) -> str | None:
        right, down = self.things[i].cx - SIDE / 2, self.things[i].cy - SIDE / 2
        if min(abs(right), abs(down)) < OFF_CENTRE:
            return None
        return QUARTERS[(right > 0) + 2 * (down > 0)]
