"""WIT's rows, published and embedded."""

import csv
import gzip

import pytest

from diptych.atelier import names
from diptych.atelier.artwork import load
from diptych.config import UserError
from diptych.data import wit
from diptych.data.picture import decode


def test_the_caption_is_the_first_text_there_is(tmp_path):
    wit.example(tmp_path)
    reader = wit.WIT.open(tmp_path, "val")
    texts = [(reader[i].language, *reader[i].texts) for i in range(len(reader))]
    assert texts == [("en", "A cat on a poster"), ("fr", "un chat noir"), ("de", 'Deutsch: "Katze"'), ("ja", "猫")]
    assert reader[0].images[0].name == "Cat poster 1.jpg"


def test_the_embedded_names_are_read_as_wit(tmp_path):
    counts = names.make(tmp_path, small=True)["counts"]
    for split in names.FAMILIES:
        reader = wit.WIT.open(tmp_path, split)
        assert len(reader) == counts[f"{split} rows"]
        last = reader[len(reader) - 1]
        slugs = last.group.removeprefix("diptych:names/").split("+")
        known = load().names(last.language)
        assert last.texts == (load().listed(last.language, [known[slug] for slug in slugs]),)
        assert decode(last.images[0]).shape == (128, 128, 3)
    with pytest.raises(UserError, match="no split 'tets'; did you mean 'test'"):
        wit.WIT.open(tmp_path, "tets")


def test_a_broken_table_is_named_with_its_line(tmp_path):
    wit.example(tmp_path)
    table = tmp_path / "wit_v1.val.all-00000-of-00001.tsv.gz"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"all-00000-of-00001\.tsv\.gz: can't be read to its end"):
        wit.WIT.open(tmp_path, "val")
    with gzip.open(table, "wt", encoding="utf-8", newline="") as text:
        csv.writer(text, delimiter="\t").writerows([["language", "page_url", "image_url", wit._TEXTS[0]], ["en", "only two"]])
    with pytest.raises(UserError, match=r":2: 2 fields, the header has 4"):
        wit.WIT.open(tmp_path, "val")
    with gzip.open(table, "wt", encoding="utf-8", newline="") as text:
        csv.writer(text, delimiter="\t").writerows([["language", "page_url"]])
    with pytest.raises(UserError, match=r":1: no column image_url, caption_reference_description"):
        wit.WIT.open(tmp_path, "val")
