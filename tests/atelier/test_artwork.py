"""The shipped pack is whole, says what it is, and what it says agrees with what is known from elsewhere."""

import hashlib
import json
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diptych.atelier.artwork import FULL, PACK, TRAIN_FAMILIES, UNSEEN_FAMILIES, load

ROOT = Path(__file__).parents[2]
artwork = load()
drawings = [(c.slug, family, d) for c in artwork.concepts.values() for family, d in c.drawings.items()]


def test_every_byte_of_the_pack_belongs_to_one_drawing():
    blob = (PACK / "sprites.bin").read_bytes()
    assert hashlib.sha256(blob).hexdigest() == artwork.sha256
    pieces = sorted((d.start, d.start + d.length) for _, _, d in drawings)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(blob)
    assert all(before[1] == after[0] for before, after in pairwise(pieces))


def test_no_drawing_stands_for_two_concepts_or_two_artists():
    content = [artwork.webp(slug, family) for slug, family, _ in drawings]
    assert len(set(content)) == len(content)
    icons = [(family, d.icon) for _, family, d in drawings]
    assert len(set(icons)) == len(icons)


def test_sprites_are_trimmed_and_as_described():
    for slug, family, drawing in drawings[::16]:
        sprite = artwork.sprite(slug, family)
        assert sprite.dtype == np.uint8
        assert max(sprite.shape[:2]) == 128
        assert sprite.shape[2] == 4
        alpha = sprite[:, :, 3]
        edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
        assert min(int(edge.max()) for edge in edges) > 0, (slug, family)
        assert (alpha >= 128).mean() == pytest.approx(drawing.coverage, abs=0.02), (slug, family)


def test_concepts_agree_with_the_unicode_tables_of_python():
    """CLDR and the Unicode character database name many emoji alike; a shifted or wrong join would show at once."""
    alike = [
        (c.name, unicodedata.name(c.character, ""))
        for c in artwork.concepts.values()
        if len(c.character) == 1 and c.name.isascii() and " " not in c.name
    ]
    words = [(ours.upper(), theirs) for ours, theirs in alike if theirs]
    assert len(words) > 350
    assert sum(ours in theirs for ours, theirs in words) / len(words) > 0.75


def test_concepts_are_as_many_as_promised():
    kinds = [c.kind for c in artwork.concepts.values()]
    assert kinds.count("object") >= 820
    assert kinds.count("role") >= 80
    assert sum(len(c.families) >= 5 for c in artwork.concepts.values()) >= 650
    assert all(slug == c.slug for slug, c in artwork.concepts.items())
    assert all(set(c.families) <= set(artwork.families) for c in artwork.concepts.values())
    assert set(TRAIN_FAMILIES) | set(UNSEEN_FAMILIES) == set(artwork.families)
    assert not any(slug.endswith("-oclock") or slug.startswith("globe-") for slug in artwork.concepts)


def test_twins_share_a_group():
    twin = {slug: c.twin for slug, c in artwork.concepts.items()}
    assert twin["dog"] == twin["dog-face"] == twin["guide-dog"]
    assert twin["cook"] == twin["man-cook"] == twin["woman-cook"]
    assert twin["new-moon"] == twin["full-moon-face"]
    assert twin["cat"] != twin["dog"]
    groups = set(twin.values())
    assert 650 < len(groups) < 750


def test_rectangles_are_known():
    assert artwork.concepts["sunset"].fills
    assert artwork.concepts["credit-card"].fills
    assert not artwork.concepts["cat"].fills
    assert artwork.coverage("sunset", "noto") > FULL > artwork.coverage("banana", "noto")


def test_scores_are_those_of_the_survey():
    scores = {c.slug: c.score for c in artwork.concepts.values()}
    assert scores["rainbow"] == 1
    assert scores["dog"] == 0
    assert sum(score is not None for score in scores.values()) > 820
    assert sum(score >= 0.75 for score in scores.values() if score is not None) > 280


def test_names_in_every_language():
    assert len(artwork.languages) == 96
    for language in artwork.languages:
        names = artwork.names(language)
        # 1,800 of the 1,923 emoji in CLDR; here that share of the pack's, less names with commas
        assert len(names) > 0.86 * len(artwork.concepts), language
        assert set(names) <= set(artwork.concepts), language
        assert all(name.strip() for name in names.values()), language
        assert not any(mark in name for name in names.values() for mark in ",،、，;↑\t\n"), language
    assert {slug: c.name for slug, c in artwork.concepts.items()} == artwork.names("en")


@pytest.mark.parametrize(
    ("language", "cat", "strawberry"),
    [
        ("de", "Katze", "Erdbeere"),
        ("fr", "chat", "fraise"),
        ("es", "gato", "fresa"),
        ("ru", "кошка", "клубника"),
        ("zh", "猫", "草莓"),
    ],
)
def test_names_are_translations(language: str, cat: str, strawberry: str):
    assert artwork.names(language)["cat"] == cat
    assert artwork.names(language)["strawberry"] == strawberry


def test_lists_are_joined_as_the_language_does():
    assert artwork.listed("en", ["a"]) == "a"
    assert artwork.listed("en", ["a", "b"]) == "a and b"
    assert artwork.listed("en", ["a", "b", "c", "d"]) == "a, b, c, and d"
    assert artwork.listed("fr", ["a", "b", "c"]) == "a, b et c"
    assert artwork.listed("ja", ["a", "b", "c"]) == "a、b、c"
    for language in artwork.languages:
        text = artwork.listed(language, ["α", "β", "γ", "δ"])
        assert [text.index(item) for item in "αβγδ"] == sorted(text.index(item) for item in "αβγδ"), language


def test_notice_credits_every_family_and_source():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    paragraphs = {part.split(":")[0].strip(): part for part in notice.split("\n\n")}
    for name, family in artwork.families.items():
        for fact in ("title", "licence", "credit", "home", "package"):
            assert family[fact] in paragraphs[name], (name, fact)
    assert "recoloured" in notice
    assert "composed" in notice
    assert "Unicode-3.0" in notice
    for text in ("MIT-fluent-emoji.txt", "MIT-emojibase.txt", "Unicode-3.0.txt"):
        assert text in notice
        assert '"AS IS", WITHOUT WARRANTY' in (ROOT / "licenses" / text).read_text(encoding="utf-8")
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "licenses/*" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # so that the wheel carries them


def test_index_is_one_line_a_concept():
    """So that a change of one icon is a change of one line."""
    lines = (PACK / "index.json").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"slug": ') and json.loads(line.rstrip(","))["slug"] in artwork.concepts for line in lines) == len(
        artwork.concepts
    )


def test_loading_needs_no_torch():
    code = "import sys, diptych.atelier.names; diptych.atelier.names.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
