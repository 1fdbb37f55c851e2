"""The results page says what the table says."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diptych.report.compare import Card, Said
from diptych.study.compare_table import csv_of
from tools import bake_off


def cell(system: str, arm: str, value: float | None) -> dict:
    if value is None:
        return {"system": system, "task": "vqa", "arm": arm, "failed": "out of memory"}
    score = {"value": value, "ci95": [value - 2, value + 2]}
    return {
        **{"system": system, "task": "vqa", "arm": arm, "n": 100, "labels": 40, "seeds": [0], "rate": 1e-4, **score},
        "on_val": 100 - value,  # what is best on test is not best here
        "by_split": {"test": score, "test-style": {"value": value - 5, "ci95": [value - 8, value - 2]}},
        "details": {"macro": [value, value - 2, value + 2], "question_type/colour": [value / 2, 0, value]},
        "minutes": {"past": 1.0, "tuning": 2.0},
    }


@pytest.fixture
def table() -> dict:
    scores = {
        "vilt": {"scratch": 36.0, "root_only": 37.0, "pretrained": 52.0},
        "soho": {"scratch": 36.0, "root_only": None, "pretrained": 36.5},
    }
    gain = {"task": "vqa", "seeds": [0]}
    return {
        **{"budget": "small", "preset": "small", "seeds": 1, "systems": ["vilt", "soho"], "unfit": [], "equal_compute": [EQUAL]},
        "tasks": {"vqa": {"data": "scenes", "splits": ["test", "test-style"], "withheld": ["picture"]}},
        "cells": [cell(system, arm, value) for system, arms in scores.items() for arm, value in arms.items()]
        + [cell("vilt", "without_picture", 36.2)],
        "gains": [
            {"system": "vilt", "over": "root_only", "value": 15.0, "ci95": [12.0, 18.0], **gain},
            {"system": "vilt", "over": "scratch", "value": 16.0, "ci95": [13.0, 19.0], **gain},
            {"system": "soho", "over": "scratch", "value": 0.5, "ci95": [-1.0, 2.0], **gain},
        ],
        "failed": [{"cell": "soho, vqa, root only, seed 0", "why": "out of memory"}],
        "costs": [
            {
                "system": "vilt",
                "task": "vqa",
                "parameters": 2_000_000,
                "detector_parameters": 500_000,
                "flops": 3e8,
                "milliseconds": 12.4,
                "machine": "M",
            }
        ],
    }


EQUAL = {
    **{"system": "vilt", "task": "vqa", "root_only_equal_compute": {"value": 38.0, "ci95": [36.0, 40.0]}, "rate": 1e-4},
    **{"pretrained": {"value": 52.0, "ci95": [50.0, 54.0]}, "gain": {"value": 14.0, "ci95": [11.0, 17.0]}},
    "steps": {"root_only_equal_compute": 900, "pretrained": 100},
}
CARD = Card([np.zeros((96, 128, 3), np.uint8)] * 2, "is it red?", "yes", [Said("vilt", "yes", True), Said("soho", "no", False)])


def test_a_card_tells_who_was_wrong_and_points_with_the_truth_first():
    first, second = bake_off._tiles(CARD)
    assert first.said.splitlines() == ["is it red?", "[yes]", "vilt: yes", "soho: no (wrong)"] and not second.said
    pointed = replace(CARD, true_box=[0, 0, 64, 48], said=[Said("vilt", "the box drawn", False, box=[64, 48, 128, 96])], truth="")
    tile = bake_off._tiles(pointed)[0]
    assert tile.said.splitlines() == ["is it red?", "[the red box]", "vilt (blue): wrong"]
    drawn = np.asarray(tile.picture)
    assert drawn[0, 0].any() and drawn[-1, -1].any() and not np.array_equal(drawn[0, 0], drawn[-1, -1])


def rows_of(page: str, first: str) -> list[list[str]]:
    return [
        [field.strip() for field in line.strip("|").split("|")] for line in page.splitlines() if line.startswith(f"| {first} |")
    ]


def test_the_page_says_what_the_table_says(table):
    page = bake_off.page(table)
    best, line = rows_of(page, "vqa")[0], rows_of(page, "vilt")[0]
    assert best == ["vqa", "soho", "36.5 (34.5 to 38.5)", "31.5 (28.5 to 34.5)"]
    assert "40 labelled samples" in page and "the mean over types of questions" in page
    assert line[1:6] == [
        "36.0 (34.0 to 38.0)",
        "37.0 (35.0 to 39.0)",
        "52.0 (50.0 to 54.0)",
        "+15.0 (+12.0 to +18.0)",
        "+16.0 (+13.0 to +19.0)",
    ]
    assert rows_of(page, "soho")[0][2] == "failed" and "soho, vqa, root only, seed 0 (out of memory)" in page
    assert "the root alone: ahead in 1 of 1 cells, with an interval above zero in 1" in page
    assert "a start from scratch: ahead in 2 of 2 cells, with an interval above zero in 1" in page
    assert ["vilt", "26.0"] in rows_of(page, "vilt") and ["vilt", "36.2 (34.2 to 38.2)"] in rows_of(page, "vilt")
    assert ["vilt", "vqa", "2.50 M", "0.50 M", "300", "12"] in rows_of(page, "vilt")
    assert ["vilt", "vqa", "38.0 (36.0 to 40.0)", "52.0 (50.0 to 54.0)", "+14.0 (+11.0 to +17.0)", "900"] in rows_of(page, "vilt")
    assert "diptych compare --systems vilt,soho --tasks vqa --budget small --seeds 1 --kept" in page


def test_a_start_that_is_the_root_alone_is_not_counted_twice(table):
    for one in table["cells"]:
        one["keys"] = ["same" if one["arm"] in ("scratch", "root_only") else "own"]
    table["cells"] = [one for one in table["cells"] if one["system"] == "vilt"]
    table["gains"] = [gain for gain in table["gains"] if gain["system"] == "vilt"]
    page = bake_off.page(table)
    assert rows_of(page, "vilt")[0][1:6] == [
        "as root only",
        "37.0 (35.0 to 39.0)",
        "52.0 (50.0 to 54.0)",
        "+15.0 (+12.0 to +18.0)",
        "",
    ]
    assert "a start from scratch: ahead" not in page


def test_what_is_written_stays_between_its_marks(table, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/table.json").write_text(json.dumps(table))
    (tmp_path / "out/table.csv").write_text(csv_of(table))
    (tmp_path / "results.md").write_text("# before\n<!-- bake-off -->\nold\n<!-- end of bake-off -->\nafter\n")
    monkeypatch.setattr(bake_off, "DOCS", tmp_path)
    monkeypatch.setattr(bake_off, "galleries", lambda *_: [("vqa", [bake_off._tiles(CARD)])])
    monkeypatch.setattr("sys.argv", ["bake_off", str(tmp_path / "out"), "--write"])
    for _ in range(2):
        bake_off.main()
        text = (tmp_path / "results.md").read_text()
        assert text.startswith("# before\n") and text.endswith("<!-- end of bake-off -->\nafter\n") and "old" not in text
    with (tmp_path / "results/table.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == len(table["cells"])
    with Image.open(tmp_path / "images/tasks/vqa.png") as sheet:
        assert sheet.width > 300, "two pictures beside each other"
    drawn = (tmp_path / "results/gains.svg").read_bytes()
    bake_off.main()
    assert (tmp_path / "results/gains.svg").read_bytes() == drawn, "the same numbers draw the same file"
    (tmp_path / "results.md").write_text("no marks")
    with pytest.raises(SystemExit, match="needs a line"):
        bake_off.main()
