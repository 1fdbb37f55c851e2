"""The bake-off's page: valid, shows what it was given, says what failed, and lets no text become markup."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report_page import HOSTILE, Reading

from diptych.report.charts import Line, Point, Score, scatter
from diptych.report.compare import Arm, BakeOff, Card, Control, Price, Row, Said, Seen, Table, compare_page


def full(text: str = "a red dog") -> BakeOff:
    """Every field filled; `text` stands wherever data or an error can bring a text."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    arms = {"scratch": Arm(Score(30.24, 28.1, 32.2)), "root_only": Arm(Score(41.13)), "pretrained": Arm(Score(69.71, 68.4, 71.2))}
    whole = Row("vilt", arms, {"root_only": Score(28.58, 26.1, 30.9), "scratch": Score(39.47, 37.2, 41.8)}, "0.001")
    rooted = Row("vinvl", {**arms, "scratch": Arm(Score(41.13), is_root=True)}, {"root_only": Score(-1.25, -2.5, -0.1)})
    broken = Row("soho", {**arms, "pretrained": Arm(None, text)}, {})
    said = (Said("vilt", text, True, text, False, (1, 2, 10, 20)), Said("vinvl", text, False))
    table = Table(
        "vqa",
        text,
        2345,
        [whole, rooted, broken],
        [Control("vilt", "picture", Arm(Score(36.6, 35.0, 38.0))), Control("soho", "text", Arm(None, text))],
        {"mural": "not computed yet"},
        [Line("vilt", [16, 32], [20, 60]), Line("vilt", [16, 32], [20, 30], broken=True)],
        [Line("vilt", [3.0, 4.0], [20, 60])],
        {"test": {"vilt": Score(69.71, 68.4, 71.2)}, "test-style": {"vilt": Score(60.01)}},
        [Price("vilt", {"scratch": 1.0, "pretrained": 9.5}, 3_210_000, 450_000, 0.42, 12.3), Price("vinvl", {})],
        [Card([picture, picture], text, text, said, text), Card([picture], text, "", said, "", (3, 4, 12, 22))],
    )
    return BakeOff(
        title=text,
        summary=text,
        systems=["vilt", "vinvl", "soho", "mural"],
        tables=[table, replace(table, task="rec", curves=(), clocks=(), cards=(), splits={}, controls=())],
        kicker=text,
        seen=[Seen("vilt", [text], [text]), Seen("soho", [], [])],
        labels={"vqa": [500, 2000]},
        split_notes={"test": text},
        failed={"soho, vqa, pretrained, seed 0": text},
        remarks=[text],
        commands={text: text},
        facts={text: text},
    )


def test_the_page_shows_its_numbers_its_failures_and_who_is_best():
    page = Reading(compare_page(full()))
    for told in (
        "69.7",
        "68.4–71.2",
        "+28.6",
        "+26.1 to +30.9",
        "−1.2",
        "as root only",
        "Controls: pre-trained, without the picture text",
        "36.6",
        "2,345",
    ):
        assert told in page.text, told
    for told in (
        "mural: not computed yet",
        "failed",
        "3.2 M",
        "+ 0.5 M detector",
        "12.3",
        "9.5 min",
        "500 or 2,000 samples",
        "60.0",
    ):
        assert told in page.text, told
    assert "largest of the table" in page.text and "vilt on vqa: pre-trained, against its root alone" in page.text
    marked = [attrs for tag, attrs in page.tags if tag == "b" and attrs.get("class") == "best"]
    assert len(marked) == 2, "of each task one"
    assert len([1 for tag, attrs in page.tags if tag == "rect" and attrs.get("class") == "true"]) == 1


def test_nothing_becomes_markup_and_nothing_is_loaded():
    html = compare_page(full(HOSTILE))
    page = Reading(html)
    assert not {"script", "object", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(address.startswith(("data:", "#")) for address in page.values("src") + page.values("href"))
    assert "<script>alert(1)</script>" in page.text
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_what_is_not_there_leaves_no_empty_section():
    empty = BakeOff("t", "s", ["vilt"], [])
    assert "<section" not in compare_page(empty).replace('<section id="scores"', "") or "Learning curves" not in compare_page(empty)
    one = replace(full(), seen=(), failed={}, remarks=(), commands={}, facts={})
    text = Reading(compare_page(one)).text
    assert "Cells that failed" not in text and "Do it again" not in text and "Which labels" not in text


def test_points_lie_where_their_axes_say():
    drawn = str(scatter([[Point("a, small", 0, 10), Point("a, large", 50, 20)], [Point("b", 100, 30, 1)]], "x", "y"))
    assert drawn.count("<circle") == 3 and drawn.count("broken") == 1
    reading = Reading(drawn)
    xs = [float(x) for x in reading.values("cx")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    ys = [float(y) for y in reading.values("cy")]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2) and ys[0] > ys[1]
    assert scatter([[]], "x", "y") == ""
