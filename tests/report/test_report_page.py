"""The report is one valid file that loads nothing, shows the numbers it was given and lets no caption become markup."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from diptych.report.charts import Curve, Score, curves, short, ticks
from diptych.report.charts import Line as ChartLine
from diptych.report.demo import (
    Arm,
    Comparison,
    Control,
    DemoResult,
    Difference,
    Retrieval,
    Stage,
    Step,
    demo_page,
)
from diptych.report.gallery import Guess, ImageQuery, MaskedWord, Question, TextQuery
from diptych.report.overlay import Look, Transport
from diptych.report.page import duration, number, ordinal, signed
from diptych.report.sheet import Scene

HOSTILE = """</style></td><script>alert(1)</script><img src=x onerror='a()'> "quoted" & 'single' <b>"""
PICTURED = ("text_queries", "image_queries", "questions", "masked_words", "transports", "scenes")
VOID = {"meta", "link", "img", "input"}


class Reading(HTMLParser):
    """Tags that open and close in order, every attribute, every visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open  # elsewhere HTML ignores the slash and leaves the element open
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def full(text: str = "a small red dog") -> DemoResult:
    """Every field filled; `text` stands wherever data can bring a text."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    look = Look(rng.random(4), np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0, 0, 1, 1]]))
    curve = Curve([0, 10, 20], [1.0, 1.5, 2.0], [30.1, 50, 61], [29, 48, 60], [31, 52, 62])
    scores = {"colour": Score(91.27, 90.13, 92.48), text: Score(51.6)}
    arms = (
        Arm(
            "pretrained",
            text,
            Score(78.24, 76.91, 79.46, 4000),
            start=text,
            stages=(Stage(text, 5.4), Stage("fine-tuning", 0.72)),
            labels={text: "2,000"},
            by_type=scores,
            by_split={"test": Score(78.24), "test-style": Score(72.03)},
            lr=7e-4,
            curve=curve,
            note=text,
        ),
        Arm("scratch", "From scratch", Score(38.37), stages=(Stage("fine-tuning", 0.72),), by_type=scores, curve=curve),
    )
    return DemoResult(
        title=text,
        arms=arms,
        chance=36.52,
        n_labels=2000,
        n_test=4321,
        differences=(Difference("scratch", Score(39.87, 37.72, 41.98)),),
        chance_by_type={"colour": 12.5},
        split_notes={"test-style": text},
        system=text,
        data=text,
        machine=text,
        steps=(Step(text, text, 0.75, text, {text: text}), Step("b", "", 90)),
        seconds={text: 12},
        pretraining={text: curve},
        retrieval=(Retrieval(text, 200, 1000, {"R@1": Score(71.31, 66.12, 76.43)}, {"R@1": Score(55.5)}, {"R@1": 0.53}, text),),
        text_queries=(TextQuery(text, [picture, picture], [3.25, -1.5], 1), TextQuery(text, [picture], [3.0], 7, picture)),
        image_queries=(ImageQuery(picture, [text, "other"], [2.0, 1.0], frozenset({text}), 1),),
        questions=(Question(picture, text, text, {"pretrained": Guess(text, 0.934)}, look, "pretrained", text, text),),
        masked_words=(MaskedWord(picture, [text, "red"], 0, [Guess(text, 0.91)], [Guess("dog", 0.2)], look),),
        transports=(Transport(picture, [text, "dog"], np.ones((2, 4)), look.box_V4, 1, [(0, 0, 0.5, 0.5)]),) * 2,
        scenes=(Scene(picture, [text], [(1, 2, 10, 12, text)], [(text, text)], text),),
        controls=(Control(text, "picture", Score(50.91, 49.32, 52.54), 50.0), Control(text, "question", Score(48.2), 50.0)),
        comparisons=(Comparison(text, text, ((text, Score(84.96, 83.1, 86.2)),), 36.52, {text: 9.1}),),
        remarks=(text,),
        commands=(text,),
        configs={text: text},
        seeds={text: 17},
        hashes={text: "9f2c" * 16},
        versions={text: text},
        date="2026-01-02",
    )


def test_one_file_that_loads_nothing():
    html = demo_page(full())
    page = Reading(html)
    for source in page.values("src") + [value for value in page.values("href") if not value.startswith("#")]:
        assert source.startswith("data:")
    assert not re.search(r"url\(|@import|https?:|//\w", re.sub(r"data:image/webp;base64,[\w+/=]+", "", html))
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    assert "default-src 'none'" in html


def test_names_are_unique_and_pointed_at():
    page = Reading(demo_page(full()))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    pointed = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert {*page.values("for"), *page.values("aria-labelledby"), *pointed} <= set(ids)
    assert len(pointed) == 14


def test_every_picture_and_chart_is_described():
    page = Reading(demo_page(full()))
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes.get("alt")
            assert attributes.get("width")
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_the_numbers_shown_are_the_numbers_given():
    text = Reading(demo_page(full())).text
    shown = ["78.2", "76.9–79.5", "38.4", "+39.9", "+37.7 to +42.0", "36.5", "2,000", "4,321", "91.3", "90.1–92.5", "12.5", "72.0"]
    shown += ["71.3", "66.1–76.4", "55.5", "0.5", "3.25", "−1.50", "93 %", "91 %", "50.9", "49.3–52.5", "85.0", "6.1 min", "43 s"]
    shown += ["1 h 30 min", "0.0007", "17", "9f2c" * 16, "found 7th", "200 pictures, 1,000 texts"]
    assert [figure for figure in shown if figure not in text] == []


def test_bars_and_dots_stand_where_their_numbers_say():
    html = demo_page(full())
    assert 'class="fill" style="width:78.24%"' in html
    assert 'class="whisker" style="left:76.91%;width:2.55%"' in html
    assert 'class="dot" style="left:91.27%"' in html
    assert 'class="chance" style="left:36.52%"' in html


def test_hostile_texts_stay_texts():
    page = Reading(demo_page(full(HOSTILE)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in page.tags if "src" in attributes)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 30


@pytest.mark.parametrize("name", [field.name for field in fields(DemoResult) if field.name not in ("title", "arms")])
def test_any_field_may_be_missing_or_alone(name: str):
    bare = DemoResult("Bare", (Arm("a", "A", Score(50.0)),))
    without_pictures = replace(full(), **dict.fromkeys(PICTURED, ()))
    Reading(demo_page(replace(without_pictures, **{name: getattr(bare, name)})))
    Reading(demo_page(replace(bare, **{name: getattr(full(), name)})))


def test_bare_page_has_only_its_headline():
    page = Reading(demo_page(DemoResult("Bare", (Arm("a", "Only arm", Score(50.0)),))))
    assert "Only arm: 50.0 % answered right" in page.text
    assert "section" not in {tag for tag, _ in page.tags}


def test_numbers_as_people_write_them():
    assert (number(-1.25), signed(0.04), signed(-3), ordinal(1), ordinal(12), ordinal(23)) == (
        "−1.2",
        "+0.0",
        "−3.0",
        "1st",
        "12th",
        "23rd",
    )
    assert (duration(0.5), duration(59.94), duration(95)) == ("30 s", "59.9 min", "1 h 35 min")
    assert (short(1500), short(2e6), short(0.25), short(0)) == ("1.5k", "2M", "0.25", "0")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 7.35), (28.4, 81.2), (-3, 2), (0, 1e6), (0.0, 1e-3)])
def test_ticks_are_round_and_inside(low: float, high: float):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    step = found[1] - found[0]
    assert np.allclose(np.diff(found), step)
    assert f"{step:e}"[0] in "125"


def test_curves_leave_out_what_is_not_finite_or_beyond():
    broken = ChartLine("a", [0, 1, 2, 3], [1.0, float("nan"), 2.0, 9.0])
    drawn = str(curves([broken], "x", "y", x_most=2))
    assert "nan" not in drawn
    assert drawn.count('class="line"') == 1
    assert re.search(r'class="line" d="M[\d.]+ [\d.]+L[\d.]+ [\d.]+"', drawn)  # two points are left
    assert curves([ChartLine("a", [], [])], "x", "y") == ""
