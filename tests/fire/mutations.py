"""Files as they should not be, out of files as they should: a picture or a data set, and a seeded `Random` that breaks it."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

SIDE = 30_000  # a header's claim: 900 million pixels


def _stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def sound() -> dict[str, bytes]:
    """Pictures of every kind that people have; all can be read."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    turned = rgb.getexif()
    turned[0x0112] = 6
    frames = [Image.fromarray(np.roll(pixels, n, 0)) for n in range(3)]
    deep = Image.fromarray(np.arange(37 * 52, dtype=np.uint16).reshape(37, 52) * 34)
    return {
        "plain.jpg": _stored(rgb, "JPEG"),
        "progressive.jpg": _stored(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _stored(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": _stored(rgb.convert("L"), "JPEG"),
        "turned.jpg": _stored(rgb, "JPEG", exif=turned),
        "plain.png": _stored(rgb, "PNG"),
        "turned.png": _stored(rgb, "PNG", exif=turned),
        "palette.png": _stored(rgb.quantize(8), "PNG", transparency=b"\x00\x80\xff"),
        "deep.png": _stored(deep, "PNG"),
        "clear.png": _stored(rgb.convert("RGBA"), "PNG"),
        "bits.png": _stored(rgb.convert("1"), "PNG"),
        "one.png": _stored(rgb.crop((0, 0, 1, 1)), "PNG"),
        "animated.gif": _stored(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.png": _stored(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated.webp": _stored(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "plain.webp": _stored(rgb, "WEBP"),
        "plain.bmp": _stored(rgb, "BMP"),
        "cmyk.tif": _stored(rgb.convert("CMYK"), "TIFF"),
        "deep.tif": _stored(deep, "TIFF"),
        "packed.tif": _stored(rgb, "TIFF", compression="tiff_lzw"),
        "float.tif": _stored(Image.fromarray(np.linspace(0, 1, 37 * 52, dtype=np.float32).reshape(37, 52)), "TIFF"),
    }


STRANGE = {  # not of ours, whatever the name says
    "empty": b"",
    "words": b"not a picture",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "zeros": bytes(5000),
}


def picture(rng: Random) -> tuple[str, bytes]:
    """What was done to what, and the bytes."""
    name, content = rng.choice(sorted(sound().items()))
    how = rng.choice(["cut", "flip", "flip", "flip", "huge", "splice", "hole", "longer", "strange"])
    place = rng.randrange(len(content))
    if how == "cut":
        content = content[:place]
    elif how == "flip":
        many = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            many[rng.randrange(min(len(many), rng.choice([40, 400, 10**9])))] = rng.randrange(256)  # headers more than pixels
        content = bytes(many)
    elif how == "huge":
        content = _huge(content, rng)
    elif how == "splice":
        content = content[:place] + rng.choice(list(sound().values()))[place:]
    elif how == "hole":
        content = content[:place] + bytes(rng.randrange(1, 200)) + content[place:]
    elif how == "longer":
        content += rng.randbytes(100)
    else:
        how, content = rng.choice(sorted(STRANGE.items()))
    return f"{how} {name}", content


def _huge(content: bytes, rng: Random) -> bytes:
    """The same picture with its sides claimed to be SIDE, wherever its format keeps them."""
    for width, height in ((52, 37), (1, 1)):
        for form in (">II", ">HH", "<II", "<HH", ">HH"):
            for sides in ((width, height), (height, width)):
                if (at := content.find(struct.pack(form, *sides))) >= 0:
                    return content[:at] + struct.pack(form, SIDE, SIDE) + content[at + struct.calcsize(form) :]
    return content[: rng.randrange(len(content))]


NAMES = (
    "plain",
    "two words",
    "line\nbreak",
    "🦒 emoji",
    "ünï",
    "-dash",
    "quo'te\"",
    "a" * 200,
    "%s {x}",
    os.fsdecode(b"latin-\xe4"),
)

_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "x",
    "\ud83d",
    [],
    [[]],
    {},
    {"x": 1},
    10**30,
    "a\x00b",
    "y" * 5000,
)


def data_set(root: Path, rng: Random) -> str:
    """Break one file of a data set; what was done."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    told = [path for path in files if path.suffix in (".json", ".jsonl", ".csv", ".tsv", ".txt", ".p")]
    path = rng.choice(told) if told and rng.random() < 0.9 else rng.choice(files)
    how = rng.choice(["value", "value", "value", "value", "bytes", "cut", "gone", "empty", "folder", "loop", "deep", "digits"])
    content = path.read_bytes()
    if how == "value" and path.suffix in (".json", ".jsonl"):
        path.write_bytes(
            _with_another_value(content, path.suffix == ".jsonl" or b"}\n{" in content, rng)
        )  # NLVR2's .json has lines
    elif how in ("bytes", "value"):
        many = bytearray(content or b" ")
        for _ in range(rng.choice([1, 3, 10])):
            many[rng.randrange(len(many))] = rng.choice(b'\x00\xff"\n\t,;{}[]\\x')
        path.write_bytes(bytes(many))
    elif how == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif how == "deep":
        path.write_bytes(content + b"[" * 50_000)
    elif how == "digits":
        path.write_bytes(content.replace(b"1", b"1" * 5000, 1))
    else:
        path.unlink()
        if how == "empty":
            path.touch()
        elif how == "folder":
            path.mkdir()
        elif how == "loop":
            path.symlink_to(path.name)
    return f"{how} {path.relative_to(root)}"


def _with_another_value(content: bytes, has_lines: bool, rng: Random) -> bytes:
    """One value anywhere in the JSON replaced, or one key taken away or given twice."""
    texts = content.decode().splitlines() if has_lines else [content.decode()]
    n = rng.randrange(len(texts))
    holder = {"": json.loads(texts[n])}
    places = [(holder, "")]
    for node, key in places:  # grows while it is walked
        below = node[key]
        if isinstance(below, dict | list):
            places += [(below, k) for k in (below if isinstance(below, dict) else range(len(below)))]
    node, key = rng.choice(places[-400:] if rng.random() < 0.5 else places)
    if isinstance(node, dict) and node is not holder and rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice(_VALUES)
    texts[n] = json.dumps(holder[""])
    return "\n".join(texts).encode()


def fresh(source: Path, root: Path) -> Path:
    """`root` as a copy of `source`, whatever was there."""
    shutil.rmtree(root, ignore_errors=True)
    return shutil.copytree(source, root)
