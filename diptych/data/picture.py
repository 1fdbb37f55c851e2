"""A stored picture to pixels: decoding, resizing, augmenting, all deterministic.

    bytes --decode--> [H, W, 3] uint8 --resize--> short side s, long side at most l, both multiples of m --augment--> same size

Decoding turns the picture upright (EXIF), lays transparency on white and refuses pictures above a pixel cap before a single
pixel is decoded (a "decompression bomb"). Whatever is wrong with a file becomes `BrokenPicture`, so the loader can substitute it.

Augmentation: `flip` mirrors half of the pictures; `randaugment` is RandAugment (Cubuk et al., 2020) with N = 2 and M = 9 of 30 and
ViLT's list of operations, without colour inversion and cutout, which destroy what a text says of colours and objects (ViLT,
section 3.4). Two things differ from the published code: it runs after resizing (cheaper; shifts are relative to the side), and
posterising keeps 8 bits at M = 0 and 4 at M = 30 where the published code keeps 1 bit at M = 9.
Both change what a text may say. A mirrored picture makes "left of" false: `collate` never mirrors a picture one of whose texts
speaks of left or right, in English; use "none" for other languages. Solarising and desaturating change colours, so data that asks
for colours by name is trained with "none".
"""

from __future__ import annotations

import io
import math
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageEnhance, ImageOps, UnidentifiedImageError

from diptych.config import ImageConfig
from diptych.contracts import Sample

Pixels = NDArray[np.uint8]  # [H, W, 3]
PIXEL_CAP = 80_000_000  # below the size at which Pillow itself starts to warn
# What pictures are stored as. Pillow knows more: PostScript, which it hands to Ghostscript, and formats that few have tried.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
LYING = (5, 6, 7, 8)  # EXIF orientations that swap width and height
FILL = (128, 128, 128)  # what an augmentation shifts into view; 0 after the usual normalisation


class BrokenPicture(Exception):
    """A picture that can't be decoded, and why."""


def decode(source: Path | bytes, shrink: ImageConfig | None = None) -> Pixels:
    """[H, W, 3] uint8, upright, RGB.

    With `shrink`, a JPEG may come at 1/2, 1/4 or 1/8 of its size, never smaller than the resize rule will ask for, in a fraction of
    the time. Leave it out where pixels of the stored picture matter (boxes).
    """
    with _opened(source) as picture:
        if shrink is not None:
            height, width = resized(picture.height, picture.width, shrink)
            picture.draft("RGB", (max(width, height), max(width, height)))
        return np.asarray(_rgb(ImageOps.exif_transpose(picture)))


def upright_size(source: Path | bytes) -> tuple[int, int] | None:
    """(width, height) of the picture that `decode` gives, from the file's head; nothing of one that it would refuse by that."""
    try:
        with _opened(source) as picture:
            width, height = picture.size
            return (height, width) if picture.getexif().get(ExifTags.Base.Orientation) in LYING else (width, height)
    except BrokenPicture:
        return None


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """A picture whose head has been read. Whatever is wrong with it, found here or inside, is a `BrokenPicture`."""
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise BrokenPicture("not a file")  # of a pipe, no one knows when it ends
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as picture:
            if picture.width * picture.height > PIXEL_CAP:
                raise BrokenPicture(f"{picture.width} x {picture.height} pixels, above the cap of {PIXEL_CAP:,}")
            yield picture
    except BrokenPicture:
        raise
    except FileNotFoundError:
        raise BrokenPicture("no such file") from None
    except UnidentifiedImageError:
        raise BrokenPicture("not a picture, or of a kind that Pillow does not read") from None
    except MemoryError:
        raise
    except Exception as error:
        # a damaged file makes Pillow's decoders raise anything: OSError, SyntaxError, struct.error, IndexError
        raise BrokenPicture(f"{type(error).__name__}: {error}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_sample(sample: Sample, image: ImageConfig) -> tuple[Pixels, ...]:
    """All pictures of a sample; shrunk while decoding where no box refers to the stored pixels."""
    return tuple(decode(source, None if sample.boxes else image) for source in sample.images)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


# --------------------------------------------------------------------------------------------------------- resizing


def resized(height: int, width: int, image: ImageConfig) -> tuple[int, int]:
    """(height, width) by ViLT's rule: the short side becomes `short`, or less where the long side would pass `long`; then both are
    floored to a multiple of `multiple`, at least one."""
    scale = min(image.short / min(height, width), image.long / max(height, width))

    def floor(side: int) -> int:
        return max(int(side * scale + 0.5) // image.multiple, 1) * image.multiple

    return floor(height), floor(width)


def resize(pixel_HW3: Pixels, image: ImageConfig) -> Pixels:
    """Bicubic, with Pillow's antialiasing, to the size of the rule."""
    height, width = pixel_HW3.shape[:2]
    new_height, new_width = resized(height, width, image)
    if (new_height, new_width) == (height, width):
        return pixel_HW3
    return np.asarray(Image.fromarray(pixel_HW3).resize((new_width, new_height), Image.Resampling.BICUBIC))


# ----------------------------------------------------------------------------------------------------- augmentation

Box = tuple[float, float, float, float]  # xyxy in [0, 1]


def flip(pixel_HW3: Pixels, boxes: Sequence[Box]) -> tuple[Pixels, list[Box]]:
    """Mirrored left to right, boxes too."""
    return pixel_HW3[:, ::-1].copy(), [(1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in boxes]


def randaugment(
    pixel_HW3: Pixels, boxes: Sequence[Box], generator: np.random.Generator, n: int = 2, m: int = 9
) -> tuple[Pixels, list[Box]]:
    """`n` operations drawn with replacement, each at strength `m` of 30; boxes follow shears, shifts and turns.

    A box that leaves the picture comes back with no area.
    """
    picture = Image.fromarray(pixel_HW3)
    moved = list(boxes)
    for choice in generator.integers(len(_COLOUR) + len(_GEOMETRY), size=n):
        sign = 1 if generator.random() < 0.5 else -1
        if choice < len(_COLOUR):
            picture = _COLOUR[choice](picture, m / 30)
        else:
            matrix_23 = _GEOMETRY[choice - len(_COLOUR)](sign * m / 30)
            picture = _warp(picture, matrix_23)
            moved = [_warp_box(box, matrix_23, picture.size) for box in moved]
    return np.asarray(picture), moved


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda picture, strength: kind(picture).enhance(0.1 + 1.8 * strength)


def _solarize_add(picture: Image.Image, strength: float) -> Image.Image:
    shift = int(110 * strength)
    return picture.point([min(v + shift, 255) if v < 128 else v for v in range(256)] * 3)


_COLOUR: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda picture, _: ImageOps.autocontrast(picture),
    lambda picture, _: ImageOps.equalize(picture),
    lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * strength)),
    lambda picture, strength: ImageOps.solarize(picture, 256 - int(256 * strength)),
    _solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
)

# Strength in [-1, 1] to the forward map of positions in pixels about the centre: (x, y) -> (a x + b y + c W, d x + e y + f H).
_GEOMETRY: tuple[Callable[[float], tuple[float, float, float, float, float, float]], ...] = (
    lambda s: (1, 0.3 * s, 0, 0, 1, 0),  # shear x
    lambda s: (1, 0, 0, 0.3 * s, 1, 0),  # shear y
    lambda s: (1, 0, 0.3 * s, 0, 1, 0),  # shift x
    lambda s: (1, 0, 0, 0, 1, 0.3 * s),  # shift y
    lambda s: (math.cos(s * math.pi / 6), -math.sin(s * math.pi / 6), 0, math.sin(s * math.pi / 6), math.cos(s * math.pi / 6), 0),
)


def _warp(picture: Image.Image, forward: tuple[float, float, float, float, float, float]) -> Image.Image:
    a, b, c, d, e, f = forward
    width, height = picture.size
    det = a * e - b * d
    # Pillow asks for the map from output to input, about the top left corner
    xx, xy, yx, yy = e / det, -b / det, -d / det, a / det
    cx, cy = width / 2, height / 2
    tx, ty = cx + c * width, cy + f * height
    inverse = (xx, xy, cx - xx * tx - xy * ty, yx, yy, cy - yx * tx - yy * ty)
    return picture.transform(picture.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=FILL)


def _warp_box(box: Box, forward: tuple[float, float, float, float, float, float], size: tuple[int, int]) -> Box:
    a, b, c, d, e, f = forward
    width, height = size
    x1, y1, x2, y2 = box
    xs, ys = [], []
    for x, y in ((x1, y1), (x2, y1), (x1, y2), (x2, y2)):
        px, py = (x - 0.5) * width, (y - 0.5) * height
        xs.append(min(max((a * px + b * py) / width + 0.5 + c, 0.0), 1.0))
        ys.append(min(max((d * px + e * py) / height + 0.5 + f, 0.0), 1.0))
    return min(xs), min(ys), max(xs), max(ys)
