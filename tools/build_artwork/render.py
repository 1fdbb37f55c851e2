"""One vector icon -> a trimmed sprite of at most 128 px, and its WebP bytes.

The icon is drawn at four times the size, cut to what is visible, and reduced; so that small objects in a wide canvas are not
blurred, and thin lines are averaged rather than dropped.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import resvg_py  # pyright: ignore[reportMissingImports]  # of the extra `artwork`, absent where only checks run
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels of the longer side
OVERSAMPLE = 4
VISIBLE = 8  # alpha below this (of 255) is trimmed: soft shadows' tails


def svg(icon: dict[str, Any], defaults: dict[str, Any]) -> str:
    left, top, width, height = (
        icon.get(key, defaults.get(key, default)) for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def sprite(markup: str) -> Image.Image:
    drawn = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=markup, width=SIDE * OVERSAMPLE, skip_system_fonts=True)))
    drawn = drawn.convert("RGBA")
    bounds = drawn.getchannel("A").point([0] * VISIBLE + [255] * (256 - VISIBLE)).getbbox()
    if bounds is None:
        raise ValueError("nothing visible")
    drawn = drawn.crop(bounds)
    scale = SIDE / max(drawn.size)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    return drawn.resize(size, Image.Resampling.BOX if scale <= 0.5 else Image.Resampling.LANCZOS)


def webp(picture: Image.Image) -> bytes:
    """Lossy colour, nearly lossless outline; `method=6` is slow and deterministic for one version of libwebp."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=75, alpha_quality=90, method=6)
    return out.getvalue()


def coverage(picture: Image.Image) -> float:
    """Share of the bounding box that is opaque: about 1 for signs and screens, .785 for a disc."""
    alpha: NDArray[np.uint8] = np.asarray(picture.getchannel("A"))
    return float((alpha >= 128).mean())
