"""Two views of a picture: cropped, mirrored, recoloured and blurred by chance (SimCLR, appendix A; MoCo v2).

    picture -> random crop, resized to size x size -> colour jitter -> grey -> blur -> mirror -> view

What happens to a view depends on (seed, sample, which view) alone and is decided in the loader, like every corruption. Operations
are those of torchvision's transforms on Pillow pictures, which the tests compare with; only blur is Pillow's own, three box filters
close to a Gaussian of the same width. The order is that of MoCo's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field, PositiveFloat, PositiveInt

from diptych import config
from diptych.contracts import ROWS_PER_SAMPLE, Batch, Images
from diptych.draw import Draw

Share = float
CROP_TRIES = 10


class Views(config.Config):
    size: PositiveInt = 224  # of a view, in pixels
    least_crop: float = Field(default=0.08, gt=0, le=1)  # share of the picture's area, up to all of it (MoCo: 0.2)
    ratio: PositiveFloat = 4 / 3  # a crop's sides are at most so unlike
    jitter: Share = Field(default=0.8, ge=0, le=1)  # of the views are recoloured
    strength: float = Field(default=1.0, ge=0, le=1)  # brightness, contrast and saturation by 0.8 of it, hue by 0.2 (MoCo v2: 0.5)
    grey: Share = Field(default=0.2, ge=0, le=1)
    blur: Share = Field(default=0.5, ge=0, le=1)
    flip: Share = Field(default=0.5, ge=0, le=1)


class Recipe(NamedTuple):
    """What is done to one view; None: left out."""

    crop: tuple[int, int, int, int]  # left, top, right, bottom, in pixels
    colours: tuple[tuple[str, float], ...]  # in order: brightness, contrast, saturation (factors), hue (turns of the circle)
    is_grey: bool
    blur: float | None  # standard deviation, in pixels
    is_flipped: bool


def two_views(batch: Batch, views: Views, draw: Draw) -> Batch:
    """One row for each picture, with two views in its slots; a picture's other rows, and rows without one, are left out."""
    assert batch.images is not None and batch.image_of_BN is not None
    first = {image: b for b, image in reversed(list(enumerate(batch.image_of_BN[:, 0].tolist()))) if image >= 0}
    rows = batch.rows(torch.tensor(sorted(first.values()), dtype=torch.int64))
    assert rows.image_of_BN is not None
    size_I2 = batch.images.size_I2.tolist()
    pixels = np.empty((2, len(rows), 3, views.size, views.size), dtype=np.uint8)
    for b, (image, row) in enumerate(zip(rows.image_of_BN[:, 0].tolist(), rows.row_B.tolist(), strict=True)):
        height, width = size_I2[image]
        picture = Image.fromarray(batch.images.pixel_I3HW[image, :, :height, :width].permute(1, 2, 0).contiguous().numpy())
        for side in range(2):
            rng = draw.generator(f"view/{side}", row // ROWS_PER_SAMPLE)
            pixels[side, b] = np.asarray(view(picture, drawn(views, width, height, rng), views.size)).transpose(2, 0, 1)
    pixel_I3HW = torch.from_numpy(pixels).flatten(0, 1)
    place_B = torch.arange(len(rows))
    rows.image_of_BN = torch.stack([place_B, place_B + len(rows)], 1)
    rows.images = Images(pixel_I3HW, torch.ones_like(pixel_I3HW[:, 0], dtype=torch.bool))
    rows.regions, rows.image_labels = None, {}
    return rows


def drawn(views: Views, width: int, height: int, rng: np.random.Generator) -> Recipe:
    """All numbers are drawn in any case, so a share that is set to 0 changes nothing else."""
    crop = _crop(views, width, height, rng)
    happens = rng.random(4)
    amount = 0.8 * views.strength
    factors = rng.uniform(max(0, 1 - amount), 1 + amount, 3).tolist()
    turn = float(rng.uniform(-0.2, 0.2)) * views.strength
    colours = [*zip(("brightness", "contrast", "saturation", "hue"), [*factors, turn], strict=True)]
    order = rng.permutation(4)
    sigma = float(rng.uniform(0.1, 2.0)) * views.size / 224  # of 224-pixel views; smaller ones show the same things smaller
    return Recipe(
        crop,
        tuple(colours[i] for i in order) if happens[0] < views.jitter else (),
        bool(happens[1] < views.grey),
        sigma if happens[2] < views.blur else None,
        bool(happens[3] < views.flip),
    )


def _crop(views: Views, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Area evenly, ratio evenly in its logarithm; where ten tries don't fit, the largest middle part of an allowed ratio."""
    tries = rng.random((CROP_TRIES, 4))
    for share, turn, across, down in tries.tolist():
        area = width * height * (views.least_crop + share * (1 - views.least_crop))
        ratio = views.ratio ** (2 * turn - 1)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * views.ratio))), min(height, max(1, round(width * views.ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def view(picture: Image.Image, recipe: Recipe, size: int) -> Image.Image:
    picture = picture.crop(recipe.crop).resize((size, size), Image.Resampling.BILINEAR)
    for name, amount in recipe.colours:
        picture = _COLOUR[name](picture, amount)
    if recipe.is_grey:
        picture = picture.convert("L").convert("RGB")
    if recipe.blur is not None:
        picture = picture.filter(ImageFilter.GaussianBlur(recipe.blur))
    return ImageOps.mirror(picture) if recipe.is_flipped else picture


def _hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + int(turn * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


_COLOUR: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "saturation": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "hue": _hue,
}
