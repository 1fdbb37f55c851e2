"""Where a model looked: weights of visual tokens (patches, cells or regions) shown on the picture they cover.

    light(p) = sum over tokens v whose box covers pixel p of  weight_v / area_v        (weight per area, then scaled to 1)

A picture under a look lies in fog, which lifts where light falls: colours stay true there, so a look at "the red one" shows red,
and mid-grey fog stands out from a white ground as well as from a black one. Also the transport plan of word-patch alignment, word
by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from diptych.report.page import fill
from diptych.report.picture import img

FOG = 112.0  # its grey, 0..255
THICKNESS = 0.78  # share of fog where no light falls; the rest lets a reader find his way
SIDE = 256  # a lit picture is at least this large: an 8 x 8 grid on 128 px would show as steps


@dataclass(frozen=True)
class Look:
    """Non-negative weights of visual tokens, on any scale, and the box each covers (`Visual.box_IV4`: xyxy in [0, 1])."""

    weight_V: NDArray[np.floating]
    box_V4: NDArray[np.floating]


@dataclass(frozen=True)
class Transport:
    """How the words of one caption distribute over one picture (the IPOT plan of word-patch alignment)."""

    picture: NDArray[np.uint8]
    words: Sequence[str]  # T whole words, in order
    weight_TV: NDArray[np.floating]  # one row a word: its row of the plan (pieces of a word summed)
    box_V4: NDArray[np.floating]
    chosen: int = 0  # the word shown first
    true_boxes: Sequence[tuple[float, float, float, float]] = ()  # of what the chosen word names, xyxy in [0, 1]


def light(look: Look, height: int, width: int) -> NDArray[np.float64]:
    """[H, W] in [0, 1]: weight per area, smoothed by a fraction of a token's size so that cells do not read as edges."""
    light_HW = np.zeros((height, width))
    corner_V4 = np.clip(look.box_V4, 0, 1) * [width, height, width, height]
    for weight, (x1, y1, x2, y2) in zip(look.weight_V, corner_V4, strict=True):
        column = slice(int(np.floor(x1)), max(int(np.ceil(x2)), int(np.floor(x1)) + 1))
        row = slice(int(np.floor(y1)), max(int(np.ceil(y2)), int(np.floor(y1)) + 1))
        light_HW[row, column] += max(float(weight), 0.0) / max((x2 - x1) * (y2 - y1), 1.0)
    side = (
        float(np.median(np.minimum(corner_V4[:, 2] - corner_V4[:, 0], corner_V4[:, 3] - corner_V4[:, 1])))
        if len(corner_V4)
        else 0.0
    )
    light_HW = _smear(height, side / 4) @ light_HW @ _smear(width, side / 4).T
    return light_HW / max(light_HW.max(), 1e-12)


def _smear(size: int, sigma: float) -> NDArray[np.float64]:
    """[size, size] Gaussian blur of one axis; rows sum to 1, so edges are not darkened."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    blur = np.exp(-0.5 * (distance / max(sigma, 1e-3)) ** 2)
    blur[blur < 1e-9] = 0  # subnormal numbers make the product ten times slower
    return blur / blur.sum(1, keepdims=True)


def lit(picture: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """The picture in fog that lifts where the look's light falls."""
    scale = max(1, -(-SIDE // max(picture.shape[:2])))
    image = Image.fromarray(np.ascontiguousarray(picture))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    colour_HW3 = np.asarray(image, dtype=np.float64)
    grey_HW1 = colour_HW3 @ np.array([[0.299], [0.587], [0.114]])
    light_HW1 = light(look, image.height, image.width)[..., None]
    fog_HW1 = THICKNESS * FOG + (1 - THICKNESS) * grey_HW1
    return np.clip(colour_HW3 * light_HW1 + fog_HW1 * (1 - light_HW1), 0, 255).round().astype(np.uint8)


def transport_map(transport: Transport, name: str) -> Markup:
    """Words to choose from, and the picture clear where the chosen word's row falls. `name` must be unique on the page."""
    views = [
        img(lit(transport.picture, Look(weight_V, transport.box_V4)), f"the picture in fog, clear where “{word}” is transported to")
        for word, weight_V in zip(transport.words, transport.weight_TV, strict=True)
    ]
    return fill(
        "transport.html",
        name=name,
        transport=transport,
        plain=img(transport.picture, " ".join(transport.words)),
        views=views,
    )
