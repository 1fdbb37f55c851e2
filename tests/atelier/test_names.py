"""What is held out of the names data set stays out, and what a row says is true unless it is listed as spoilt."""

import csv
import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from diptych.atelier import names
from diptych.atelier.artwork import load
from diptych.config import UserError
from diptych.draw import Draw

artwork = load()
NOISE = 0.3


def table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text, delimiter="\t"))


def concepts_of(row: dict[str, str]) -> list[str]:
    return row["page_url"].removeprefix("diptych:names/").split("+")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names")
    names.make(root, small=True, noise=NOISE)
    return root


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[str, list[dict[str, str]]]:
    return {split: table(root / f"wit/{split}.tsv.gz") for split in names.FAMILIES}


@pytest.fixture(scope="module")
def pairs(root: Path) -> dict[str, list[dict[str, str]]]:
    return {split: table(root / f"pairs/{split}.tsv.gz") for split in ("train", "test-concept")}


def test_no_picture_crosses_splits(root, rows):
    content = {}
    for split, table_ in rows.items():
        paths = {row["image_url"] for row in table_}
        content[split] = {hashlib.sha256((root / "images" / path).read_bytes()).digest() for path in paths}
        assert len(content[split]) == len(paths)  # nor is it there twice
    assert len(set().union(*content.values())) == sum(map(len, content.values()))


def test_no_concept_or_twin_crosses_to_the_held_out_side(rows, pairs):
    def twins(split_rows, of):
        return {artwork.concepts[slug].twin for row in split_rows for slug in of(row)}

    seen = set().union(*(twins(rows[split], concepts_of) for split in ("train", "val", "test")))
    seen |= twins(pairs["train"], lambda row: [row["concept"]])
    held_out = twins(rows["test-concept"], concepts_of) | twins(pairs["test-concept"], lambda row: [row["concept"]])
    assert held_out
    assert not seen & held_out


def test_artists_of_each_split_are_its_own(rows):
    for split, table_ in rows.items():
        titles = {artwork.families[family]["title"] for family in names.FAMILIES[split]}
        shown = {credit.rsplit(", ", 1)[0] for row in table_ for credit in row["caption_attribution_description"].split("; ")}
        assert shown == titles
    assert not set(names.FAMILIES["train"]) & {*names.FAMILIES["val"], *names.FAMILIES["test"]}


def test_held_out_languages_meet_pictures_only_when_tested(rows, pairs):
    languages = {split: {row["language"] for row in table_} for split, table_ in rows.items()}
    assert languages["train"] == set(artwork.languages) - set(names.HELD_OUT_LANGUAGES)
    assert languages["val"] == languages["test"] == set(artwork.languages)
    assert {row["language_b"] for row in pairs["train"]} == set(artwork.languages) - {"en"}


def test_a_caption_names_what_is_shown_unless_listed_as_spoilt(root, rows):
    spoilt = {int(row["row"]): row["kind"] for row in table(root / "noise.tsv.gz")}
    for split, table_ in rows.items():
        for i, row in enumerate(table_):
            known = artwork.names(row["language"])
            caption = row["caption_reference_description"]
            true = artwork.listed(row["language"], [known[slug] for slug in concepts_of(row)])
            if split == "train" and i in spoilt:
                assert caption != true or spoilt[i] == "truncated"  # a name of one letter can't be cut
                if spoilt[i] == "truncated":
                    assert true.startswith(caption[:1])
                    assert caption
                elif spoilt[i] == "wrong":
                    assert caption in known.values()
            else:
                assert caption == true


def test_noise_has_the_asked_rate_and_equal_kinds(root, rows):
    kinds = Counter(row["kind"] for row in table(root / "noise.tsv.gz"))
    singles = sum(len(concepts_of(row)) == 1 for row in rows["train"])
    assert sum(kinds.values()) / singles == pytest.approx(NOISE, abs=0.02)
    assert all(count / sum(kinds.values()) == pytest.approx(1 / 3, abs=0.03) for count in kinds.values())
    assert set(kinds) == {"wrong", "boilerplate", "truncated"}


def test_pairs_are_names_of_one_concept(pairs):
    for row in pairs["train"] + pairs["test-concept"]:
        assert row["text_a"] == artwork.concepts[row["concept"]].name
        assert row["text_b"] == artwork.names(row["language_b"])[row["concept"]]


def test_gallery_has_one_picture_a_concept_and_no_twins(rows):
    for split in ("val", "test", "test-concept"):
        pictures = {(row["image_url"], *concepts_of(row)) for row in rows[split] if row["is_main_image"] == "true"}
        twins = [artwork.concepts[slug].twin for _, slug in pictures]
        assert len(twins) == len(set(twins)) > 5
        shown = {slug for row in rows[split] for slug in concepts_of(row)}
        assert set(twins) == {artwork.concepts[slug].twin for slug in shown}


def test_rows_have_the_columns_of_wit_and_point_to_pictures(root, rows):
    published = "language page_url image_url page_title section_title hierarchical_section_title caption_reference_description"
    assert list(rows["val"][0])[:7] == published.split()
    assert len(rows["val"][0]) == 17
    for row in rows["val"][::50] + rows["train"][::500]:
        with Image.open(root / "images" / row["image_url"]) as picture:
            assert picture.size == (int(row["original_width"]), int(row["original_height"]))


def test_the_same_seed_gives_the_same_data_and_another_seed_other_sides(root, tmp_path):
    again = names.make(tmp_path, small=True, noise=NOISE)
    assert json.loads((root / "dataset.json").read_text()) == json.loads(json.dumps(again))
    for path in sorted(root.rglob("*.*"))[::20]:
        assert path.read_bytes() == (tmp_path / path.relative_to(root)).read_bytes(), path
    sides = {tuple(names._sides(artwork, Draw(seed), small=False)[0]) for seed in range(3)}
    assert len(sides) == 3


def test_held_out_concepts_are_the_published_share():
    held_out, seen = names._sides(artwork, Draw(0), small=False)
    assert len(held_out) + len(seen) == len(artwork.concepts)
    assert len(held_out) / len(artwork.concepts) == pytest.approx(names.HELD_OUT, abs=0.015)


def test_a_senseless_noise_rate_is_refused(tmp_path):
    with pytest.raises(UserError, match="between 0 and 1"):
        names.make(tmp_path, small=True, noise=30)
    assert not list(tmp_path.iterdir())
