"""The **names** data set: drawings and what they are called in 96 languages, for retrieval, zero-shot and multilingual learning.

    pictures  one sprite on a plain ground, 128 x 128 px: the concept's name in each language
              two or three sprites ("several"): their names joined as the language joins a list
    pairs     no picture: a name in English, the same name in another language

Three things are held out, so that three kinds of generalisation can be told apart:

    artists    pictures of `train` are drawn by four families, of `val` by a fifth, of `test` and `test-concept` by two more
    concepts   15 %, with their twins; their names and pictures are only in `test-concept`
    languages  twelve never meet a picture in `train`, only pairs: the test of MURAL (Jain et al., 2021)

Layout under the root. Tables have the columns of WIT (Srinivasan et al., 2021); `page_url` names the concepts, `image_url` is
relative to images/, and `is_main_image` marks the gallery: one picture a concept, one concept of twins.

    wit/{split}.tsv.gz         pairs/{train,test-concept}.tsv.gz         images/{family}/{slug}.jpg, images/several/{split}-{n}.jpg
    noise.tsv.gz               with a noise rate: which rows of train were spoilt, and how
    dataset.json               written last: version, seed, parameters, counts, sha256
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diptych.atelier.artwork import TRAIN_FAMILIES, Artwork, load
from diptych.config import UserError
from diptych.draw import Draw

VERSION = 1
SIDE = 128
HELD_OUT = 0.15  # of the concepts
HELD_OUT_LANGUAGES = ("am", "cy", "eu", "fil", "gu", "ka", "km", "lo", "sw", "th", "uk", "yue")
FAMILIES = {
    "train": TRAIN_FAMILIES,
    "val": ("noto-v1",),
    "test": ("fluent-emoji-flat", "streamline-emojis"),
    "test-concept": ("fluent-emoji-flat", "streamline-emojis"),
}
SEVERAL = {"train": 2000, "val": 200, "test": 400, "test-concept": 200}  # pictures of two or three things
SEVERAL_LANGUAGES = 8  # drawn for each of those
GROUNDS = ((214, 220, 226), (226, 219, 208), (205, 222, 214), (222, 212, 224), (228, 226, 206), (203, 214, 228))

WIT = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)
PAIR = ("concept", "language_a", "text_a", "language_b", "text_b")


class Shown(NamedTuple):
    """One picture of the data set."""

    path: str  # relative to images/
    sprites: tuple[tuple[str, str], ...]  # (concept, family), in reading order
    is_main: bool
    languages: tuple[str, ...]


class Row(NamedTuple):
    shown: Shown
    language: str
    caption: str


def make(root: Path, *, seed: int = 0, small: bool = False, noise: float = 0.0) -> dict[str, Any]:
    """Write the data set and return what dataset.json holds.

    `small` keeps a tenth of the concepts. `noise` is the share of `train` captions of single pictures that are spoilt, in equal
    parts: the name of another concept, boilerplate, a name cut short.
    """
    if not 0 <= noise <= 1:
        raise UserError(f"names: noise is a share between 0 and 1, not {noise}")
    (root / "dataset.json").unlink(missing_ok=True)  # its absence says that the rest is not whole
    artwork, draw = load(), Draw(seed)
    held_out, seen = _sides(artwork, draw, small)
    counts: dict[str, int] = {}
    sha256: dict[str, str] = {}
    spoilt: list[tuple[int, str]] = []
    for split in FAMILIES:
        concepts = held_out if split == "test-concept" else seen
        pictures = [*_singles(artwork, split, concepts), *_several(artwork, draw, split, concepts, small)]
        rows = list(_rows(artwork, pictures))
        if split == "train" and noise:
            spoilt = _spoil(artwork, draw, rows, concepts, noise)
        for picture in pictures:
            _write_picture(artwork, draw, root / "images" / picture.path, picture)
        sha256[f"wit/{split}.tsv"] = _write_table(root / f"wit/{split}.tsv.gz", WIT, (_wit(artwork, row) for row in rows))
        counts |= {f"{split} pictures": len(pictures), f"{split} rows": len(rows), f"{split} concepts": len(concepts)}
    for split, concepts in (("train", seen), ("test-concept", held_out)):
        pairs = list(_pairs(artwork, concepts))
        sha256[f"pairs/{split}.tsv"] = _write_table(root / f"pairs/{split}.tsv.gz", PAIR, pairs)
        counts[f"{split} pairs"] = len(pairs)
    if noise:
        sha256["noise.tsv"] = _write_table(root / "noise.tsv.gz", ("row", "kind"), spoilt)
        counts["train rows spoilt"] = len(spoilt)
    description = {
        "name": "names",
        "version": VERSION,
        "seed": seed,
        "small": small,
        "noise": noise,
        "families": FAMILIES,
        "held_out_languages": HELD_OUT_LANGUAGES,
        "held_out_concepts": held_out,
        "counts": counts,
        "artwork_sha256": artwork.sha256,
        "sha256": sha256,
    }
    (root / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return description


def _sides(artwork: Artwork, draw: Draw, small: bool) -> tuple[list[str], list[str]]:
    """Concepts held out and concepts seen; all twins on one side. Order of the pack within each."""
    twins = sorted({concept.twin for concept in artwork.concepts.values()})
    order = np.argsort(draw.bits("names/sides", np.arange(len(twins)))[:, 0], kind="stable")
    kept = [twins[i] for i in order[: len(twins) // 10 if small else None]]
    sizes = {twin: sum(concept.twin == twin for concept in artwork.concepts.values()) for twin in kept}
    wanted = HELD_OUT * sum(sizes.values())
    before = np.cumsum([0, *(sizes[twin] for twin in kept)])
    out = {twin for twin, filled in zip(kept, before, strict=False) if filled < wanted}
    concepts = [concept for concept in artwork.concepts.values() if concept.twin in sizes]
    return [c.slug for c in concepts if c.twin in out], [c.slug for c in concepts if c.twin not in out]


def languages_of(artwork: Artwork, split: str) -> tuple[str, ...]:
    """Languages whose names stand beside pictures in a split."""
    return tuple(code for code in artwork.languages if split != "train" or code not in HELD_OUT_LANGUAGES)


def _singles(artwork: Artwork, split: str, concepts: Iterable[str]) -> Iterator[Shown]:
    shown: set[str] = set()  # twins that have their picture in the gallery
    for slug in concepts:
        concept = artwork.concepts[slug]
        for family in FAMILIES[split]:
            if family in concept.drawings:
                yield Shown(f"{family}/{slug}.jpg", ((slug, family),), concept.twin not in shown, languages_of(artwork, split))
                shown.add(concept.twin)


def _several(artwork: Artwork, draw: Draw, split: str, concepts: list[str], small: bool) -> Iterator[Shown]:
    drawn = [(slug, family) for slug in concepts for family in FAMILIES[split] if family in artwork.concepts[slug].drawings]
    languages = languages_of(artwork, split)
    for n in range(SEVERAL[split] // 10 if small else SEVERAL[split]):
        rng = draw.generator(f"names/several/{split}", n)
        sprites: list[tuple[str, str]] = []
        while len(sprites) < 2 + n % 2:
            slug, family = drawn[rng.integers(len(drawn))]
            if all(artwork.concepts[slug].twin != artwork.concepts[other].twin for other, _ in sprites):
                sprites.append((slug, family))
        chosen = rng.choice(len(languages), SEVERAL_LANGUAGES, replace=False)
        yield Shown(f"several/{split}-{n:05}.jpg", tuple(sprites), False, tuple(languages[i] for i in sorted(chosen)))


def _rows(artwork: Artwork, pictures: Iterable[Shown]) -> Iterator[Row]:
    """One for each language that names all that is shown."""
    for shown in pictures:
        slugs = [slug for slug, _ in shown.sprites]
        for language in shown.languages:
            names = artwork.names(language)
            if all(slug in names for slug in slugs):
                yield Row(shown, language, artwork.listed(language, [names[slug] for slug in slugs]))


def _spoil(artwork: Artwork, draw: Draw, rows: list[Row], concepts: list[str], rate: float) -> list[tuple[int, str]]:
    """Spoil captions of single pictures in place; (row, how) of each."""
    from diptych.data.noise import boilerplate, cut  # only here: readers know torch, and composing pictures does without

    index = np.arange(len(rows))
    chance, kind, other = (draw.uniform(f"names/noise/{purpose}", index)[:, 0] for purpose in ("rate", "kind", "other"))
    spoilt = []
    for i in np.flatnonzero(chance < rate):
        shown, language, caption = rows[i]
        slugs = [slug for slug, _ in shown.sprites]
        if len(slugs) > 1:
            continue
        if kind[i] < 1 / 3:
            how, text = "wrong", _wrong(artwork, language, slugs[0], concepts, float(other[i]))
        elif kind[i] < 2 / 3:
            how, text = "boilerplate", boilerplate(float(other[i]))
        else:
            how, text = "truncated", cut(caption)
        rows[i] = Row(shown, language, text)
        spoilt.append((int(i), how))
    return spoilt


def _wrong(artwork: Artwork, language: str, slug: str, concepts: list[str], where: float) -> str:
    """The name of another concept, no twin and not called the same: the first such one after a place in the list."""
    names, twin = artwork.names(language), artwork.concepts[slug].twin
    start = int(where * len(concepts))
    return next(
        names[other]
        for other in (*concepts[start:], *concepts[:start])
        if other in names and artwork.concepts[other].twin != twin and names[other] != names[slug]
    )


def _pairs(artwork: Artwork, concepts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    english = artwork.names("en")
    for slug in concepts:
        for language in artwork.languages:
            if language != "en" and slug in english and slug in artwork.names(language):
                yield slug, "en", english[slug], language, artwork.names(language)[slug]


# ----------------------------------------------------------------------------------------------------------- writing


def _write_picture(artwork: Artwork, draw: Draw, path: Path, shown: Shown) -> None:
    """One sprite 104-120 px in the middle, or two or three of 56 px in corners of their own, in reading order."""
    rng = draw.generator(f"names/picture/{shown.path}", 0)
    canvas = Image.new("RGB", (SIDE, SIDE), GROUNDS[rng.integers(len(GROUNDS))])
    several = len(shown.sprites) > 1
    corners = sorted(rng.choice(4, len(shown.sprites), replace=False).tolist())
    for (slug, family), corner in zip(shown.sprites, corners, strict=True):
        sprite = Image.fromarray(artwork.sprite(slug, family))
        largest = 56 if several else int(rng.integers(104, 121))
        scale = largest / max(sprite.size)
        sprite = sprite.resize(
            (max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale))), Image.Resampling.BILINEAR
        )
        x, y = (SIDE // 4 + SIDE // 2 * (corner % 2), SIDE // 4 + SIDE // 2 * (corner // 2)) if several else (SIDE // 2, SIDE // 2)
        canvas.paste(sprite, (x - sprite.width // 2, y - sprite.height // 2), sprite)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, "JPEG", quality=90, subsampling=0)


def _wit(artwork: Artwork, row: Row) -> tuple[str, ...]:
    """The columns of WIT; texts that a page of Wikipedia has and a drawing has not stay empty."""
    credits = [artwork.families[family] for family in dict.fromkeys(family for _, family in row.shown.sprites)]
    known = {
        "language": row.language,
        "page_url": f"diptych:names/{'+'.join(slug for slug, _ in row.shown.sprites)}",
        "image_url": row.shown.path,
        "caption_reference_description": row.caption,
        "caption_attribution_description": "; ".join(f"{credit['title']}, {credit['licence']}" for credit in credits),
        "mime_type": "image/jpeg",
        "original_height": str(SIDE),
        "original_width": str(SIDE),
        "is_main_image": str(row.shown.is_main).lower(),
        "attribution_passes_lang_id": "true",
        "page_changed_recently": "false",
    }
    return tuple(known.get(column, "") for column in WIT)


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    """Write a gzipped tsv; the sha256 of its text (compressed bytes may differ between versions of zlib)."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
    return hashlib.sha256(content).hexdigest()
