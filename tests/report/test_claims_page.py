"""The claims' page: valid, shows every verdict and interval it was given, and lets no text become markup."""

from __future__ import annotations

from test_report_page import HOSTILE, Reading

from diptych.report.charts import Score
from diptych.report.claims import ClaimsPage, Row, Tried, claims_page


def full(text: str = "a part helps") -> ClaimsPage:
    sides = (Tried("with", Score(41.2, 39.0, 43.1), 33.3, text), Tried("without", Score(38.1), 33.0))
    rows = [
        Row("one", text, text, text, sides, Score(3.1, 1.2, 4.9), "holds"),
        Row("two", text, text, text, sides, Score(-1.4, -3.0, 0.2), "does not hold here", worth=1.0),
        Row("three", text, text, text, sides, Score(0.4, -1.5, 2.2), "too small to tell", text),
        Row("four", text, text, text, (Tried("with", None, failed=text), sides[1]), None, "failed", text),
        Row(
            "five",
            text,
            text,
            text,
            (Tried("vilt", Score(8.31)), Tried("uniter", Score(26.0))),
            Score(3.13, 3.0, 3.3),
            "holds",
            is_time=True,
        ),
    ]
    return ClaimsPage(text, text, rows, text, [text], {text: text}, {text: text})


def test_the_page_shows_each_claim_with_its_verdict():
    page = Reading(claims_page(full()))
    for told in (
        "+3.1",
        "+1.2 to +4.9",
        "−1.4",
        "3.13",
        "3.00 to 3.30",
        "times sooner",
        "33.3",
        "failed",
        "Holds above 0 points, does not below 1",
    ):
        assert told in page.text, told
    assert page.text.count("does not hold here") >= 3 and page.text.count("too small to tell") >= 3
    lefts = [attrs["style"] for tag, attrs in page.tags if tag == "i" and attrs.get("class") == "dot"]
    assert lefts == ["left:81.0%", "left:36.0%", "left:54.0%"], "on a scale from -5 to 5 points; time has another unit"


def test_nothing_becomes_markup_and_nothing_is_loaded():
    page = Reading(claims_page(full(HOSTILE)))
    assert not {"script", "object", "iframe"} & {tag for tag, _ in page.tags}
    assert all(address.startswith(("data:", "#")) for address in page.values("src") + page.values("href"))
    assert "<script>alert(1)</script>" in page.text


def test_what_is_not_there_leaves_no_empty_section():
    text = Reading(claims_page(ClaimsPage("t", "s", []))).text
    assert "Claim by claim" not in text and "Effects" not in text
    only_time = [row for row in full().rows if row.is_time or row.effect is None]
    assert "Effects, with" not in Reading(claims_page(ClaimsPage("t", "s", only_time))).text
