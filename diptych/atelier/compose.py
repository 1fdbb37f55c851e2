"""A scene: two to six things on a two-tone ground, and its 128 x 128 picture.

    Scene = ground + things (what, whose drawing, colour, size, where)   facts are read from this
      |  paint: trimmed sprite -> luminance -> colour ramp -> alpha over the ground
    a picture and, for each thing, the exact box of its visible pixels

A thing owns a square slot as wide as its longer side; slots never overlap, so that a thing can be exchanged for another in
place. An edit of a scene is therefore a change of one field: `thing._replace(colour=...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.atelier.artwork import FULL, load
from diptych.atelier.vocabulary import CATEGORIES, COLOURS, GROUNDS, LARGE, NATURAL, SMALL, Category, World

SIDE = 128
GAP = 2  # pixels kept free between slots, and at the rim
VISIBLE = 48  # alpha from which a pixel counts as part of a thing
MOST_AREA = 6800  # of all slots together; denser scenes are rarely found by throwing darts
_CURTAIN = (118, 96, 84)
_CURTAIN_FOLD = (98, 78, 68)

Box = tuple[int, int, int, int]  # x1 y1 x2 y2 in pixels, right and bottom exclusive


class Thing(NamedTuple):
    slug: str
    family: str
    category: int  # place in CATEGORIES; -1 for a person
    colour: int  # place in COLOURS, or NATURAL
    size: int  # side of the slot
    flip: bool
    cx: int = 0  # centre of the slot
    cy: int = 0

    @property
    def large(self) -> bool:
        return self.size >= LARGE[0]

    @property
    def kind(self) -> Category:
        return CATEGORIES[self.category]

    @property
    def box(self) -> Box:
        drawing = sprite(self.slug, self.family, self.size)
        x, y = self.cx - drawing.width // 2, self.cy - drawing.height // 2
        return x, y, x + drawing.width, y + drawing.height


class Scene(NamedTuple):
    things: tuple[Thing, ...]
    ground: int
    horizon: int  # first row of the lower tone
    curtain: int = -1  # quadrant that is covered: 0 top left, 1 top right, 2 bottom left, 3 bottom right

    def swap(self, index: int, **changes: object) -> Scene:
        """The same scene with one thing changed."""
        things = list(self.things)
        things[index] = things[index]._replace(**changes)
        return self._replace(things=tuple(things))


# --------------------------------------------------------------------------------------------------------- drawing


class Sprite(NamedTuple):
    """A drawing at one size. Every rim row and column of `alpha` has a pixel of at least VISIBLE."""

    level: Image.Image  # "L": where on a colour's ramp; the tone most of the drawing has is the middle, so the colour itself
    alpha: Image.Image  # "L"
    natural: Image.Image  # "RGB", the artist's own colours
    width: int
    height: int


@cache
def sprite(slug: str, family: str, size: int, flip: bool = False) -> Sprite:
    """A drawing with its longer side at `size` pixels, then trimmed to what is visible."""
    if flip:
        plain = sprite(slug, family, size)
        level, alpha, natural = (layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in plain[:3])
        return plain._replace(level=level, alpha=alpha, natural=natural)
    picture = _drawing(slug, family)
    scale = size / max(picture.size)
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BOX)
    rgba = _trimmed(np.asarray(small.convert("RGBA")))
    luminance = rgba[..., :3] @ np.array([0.299, 0.587, 0.114])
    ordered = np.sort(luminance[rgba[..., 3] >= 128])
    low, middle, high = np.interp(np.array([0.04, 0.5, 0.96]) * (len(ordered) - 1), np.arange(len(ordered)), ordered)
    # a flat drawing stays flat: the ends of the ramp are at least 60 grey levels from its middle
    level = np.interp(luminance - middle, [-max(middle - low, 60), 0, max(high - middle, 60)], [0, 0.5, 1])
    layers = [np.ascontiguousarray(layer, np.uint8) for layer in (level * 255, rgba[..., 3], rgba[..., :3])]
    return Sprite(*map(Image.fromarray, layers), width=rgba.shape[1], height=rgba.shape[0])


@cache
def _drawing(slug: str, family: str) -> Image.Image:
    """With premultiplied alpha, which is what pictures are scaled in."""
    return Image.fromarray(_trimmed(load().sprite(slug, family))).convert("RGBa")


def _trimmed(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (np.flatnonzero((rgba[..., 3] >= VISIBLE).any(axis)) for axis in (1, 0))
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _ramp(middle: tuple[int, int, int]) -> bytes:
    """256 colours: shade, the colour itself, tint. Pillow's palette."""
    at = np.linspace(0, 1, 256)
    return np.stack([np.interp(at, [0, 0.5, 1], [0.45 * c, c, c + 0.4 * (255 - c)]) for c in middle], 1).astype(np.uint8).tobytes()


_RAMPS = [_ramp(colour.rgb) for colour in COLOURS]


def paint(scene: Scene) -> Image.Image:
    """128 x 128, RGB. Pillow pastes and looks colours up three times as fast as numpy on pieces so small."""
    ground = GROUNDS[scene.ground]
    canvas = Image.new("RGB", (SIDE, SIDE), ground.upper)
    canvas.paste(ground.lower, (0, scene.horizon, SIDE, SIDE))
    for t in scene.things:
        drawing = sprite(t.slug, t.family, t.size, t.flip)
        if t.colour == NATURAL:
            tinted = drawing.natural
        else:
            level = drawing.level.copy()
            level.putpalette(_RAMPS[t.colour])
            tinted = level.convert("RGB")
        canvas.paste(tinted, t.box[:2], drawing.alpha)
    if scene.curtain >= 0:
        x, y = quadrant_corner(scene.curtain)
        canvas.paste(_CURTAIN, (x, y, x + SIDE // 2, y + SIDE // 2))
        for fold in range(0, SIDE // 2, 8):
            canvas.paste(_CURTAIN_FOLD, (x + fold, y, x + fold + 2, y + SIDE // 2))
    return canvas


def silhouette(thing: Thing) -> tuple[list[int], int]:
    """COCO's polygon (x, y, x, y, ...) down one side and up the other, and the area in visible pixels."""
    points, area = _outline(thing.slug, thing.family, thing.size)
    x1, y1, x2, _ = thing.box
    return [p for x, y in points for p in ((x2 - x if thing.flip else x1 + x), y1 + y)], area


@cache
def _outline(slug: str, family: str, size: int) -> tuple[list[tuple[int, int]], int]:
    visible = np.asarray(sprite(slug, family, size).alpha) >= VISIBLE
    height = len(visible)
    rows = sorted({round(y) for y in np.linspace(0, height - 1, min(height, 7))})
    ends = [(np.flatnonzero(visible[y]), y + (y == height - 1)) for y in rows]
    left = [(int(x[0]), y) for x, y in ends if x.size]
    right = [(int(x[-1]) + 1, y) for x, y in ends if x.size]
    return left + right[::-1], int(visible.sum())


# ------------------------------------------------------------------------------------------------------- composing


@cache
def families(slug: str, allowed: tuple[str, ...]) -> list[str]:
    """The artists of a split that drew a concept."""
    drawings = load().concepts[slug].drawings
    return [family for family in allowed if family in drawings and drawings[family].coverage <= FULL]


def thing(
    rng: Random, world: World, category: Category | None = None, colour: int | None = None, large: bool | None = None
) -> Thing:
    """A thing without a place yet; what is not given is drawn evenly from what the world allows."""
    category = category or rng.choice(world.categories)
    if colour is None:
        colour = rng.choice(world.colours[category.number])
    size = rng.choice(LARGE if rng.random() < 0.5 else SMALL)
    family = rng.choice(families(category.slug, world.families))
    return Thing(category.slug, family, category.number, colour, size, rng.random() < 0.5)


def crowd(world: World, rng: Random, low: int = 2, high: int = 6) -> list[Thing]:
    """Things for a scene, without a place; now and then several of one category."""
    while True:
        things: list[Thing] = []
        for _ in range(rng.randint(low, high)):
            again = rng.choice(things).kind if things and rng.random() < 0.2 else None
            things.append(thing(rng, world, again))
        if fits([t.size for t in things]):
            return things


def turned_into(rng: Random, world: World, old: Thing, category: Category) -> Thing:
    """Another category in the same slot; the colour stays."""
    return old._replace(slug=category.slug, category=category.number, family=rng.choice(families(category.slug, world.families)))


def place(rng: Random, sides: Sequence[int]) -> list[tuple[int, int]]:
    """Centres of non-overlapping square slots, the widest placed first."""
    order = sorted(range(len(sides)), key=lambda i: -sides[i])
    while True:
        centres: list[tuple[int, int]] = [(0, 0)] * len(sides)
        placed: list[tuple[int, int, int]] = []
        for i in order:
            side = sides[i]
            low, span = side // 2 + GAP, SIDE - side - 2 * GAP
            for _ in range(40):
                x, y = low + int(rng.random() * span), low + int(rng.random() * span)
                for px, py, reach in placed:
                    apart = (reach + side + 1) // 2 + GAP
                    if -apart < x - px < apart and -apart < y - py < apart:
                        break
                else:
                    break
            else:
                break
            placed.append((x, y, side))
            centres[i] = (x, y)
        else:
            return centres


def stage(rng: Random, things: Sequence[Thing], sides: Sequence[int] | None = None) -> Scene:
    """A scene of these things at random places on a random ground. `sides` reserves wider slots, for edits that enlarge."""
    centres = place(rng, sides or [t.size for t in things])
    placed = tuple(t._replace(cx=x, cy=y) for t, (x, y) in zip(things, centres, strict=True))
    return Scene(placed, rng.randrange(len(GROUNDS)), rng.randrange(44, 100))


def fits(sides: Sequence[int]) -> bool:
    return sum(side * side for side in sides) <= MOST_AREA


def quadrant_corner(quadrant: int) -> tuple[int, int]:
    return (quadrant % 2) * SIDE // 2, (quadrant // 2) * SIDE // 2
