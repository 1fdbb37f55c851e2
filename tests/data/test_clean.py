"""Every rule takes the pair that was planted for it, and the command line counts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from diptych import cli
from diptych.contracts import Sample
from diptych.data import clean
from diptych.data.clean import Align, count

LAX = Align(short=10, texts=3, pictures=2, least_words=2, most_words=5)


class Pairs(list):
    fingerprint = ""


def drawn(folder: Path, name: str, size: tuple[int, int] = (20, 30)) -> Path:
    Image.new("RGB", size).save(folder / name)
    return folder / name


def test_each_rule_takes_its_pair(tmp_path: Path):
    plain = "a red dog"
    pairs = Pairs(
        [
            Sample("kept", (drawn(tmp_path, "a.png"),), (plain, "the red dog")),
            Sample("short", (drawn(tmp_path, "b.png", (10, 20)),), (plain,)),
            Sample("ratio", (drawn(tmp_path, "c.png", (20, 60)),), ("a red cat",)),
            Sample("texts", (drawn(tmp_path, "d.png"),), ("a b", "b a", "a a", "b b")),
            *(Sample(f"shared {n}", (drawn(tmp_path, f"e{n}.png"),), ("for sale",)) for n in range(3)),
            Sample("words", (drawn(tmp_path, "f.png"),), ("dog", "one two three four five six")),
            Sample("no picture", (), (plain,)),
            Sample("unreadable", (tmp_path / "none.png",), ("a dog",)),
        ]
    )
    found = count([pairs], LAX)
    assert found == {
        "pairs": 14,
        "short side": 1,
        "ratio of sides": 1,
        "texts beside the picture": 4,
        "pictures beside the text": 3,
        "words": 2,
        "rare words": 0,
        "kept": 3,
    }
    (tmp_path / "more").mkdir()
    common = Pairs(
        [Sample(str(n), (drawn(tmp_path / "more", f"{n}.png"),), (text,)) for n, text in enumerate(["a b", "a b", "a c"])]
    )
    assert count([common], LAX.model_copy(update={"grams": 3}))["rare words"] == 1, "a, b and 'a b' are the three commonest"
    assert clean.said(found, "align")[0] == "  cleaned by the rules of align: 3 of 14 pairs stay"


def test_thresholds_are_the_paper_s():
    assert Align().model_dump() == {
        "short": 200,
        "ratio": 3.0,
        "texts": 1000,
        "pictures": 10,
        "least_words": 3,
        "most_words": 20,
        "grams": 100_000_000,
    }


def test_the_command_counts_and_takes_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for n in range(4):
        drawn(tmp_path, f"{n}.png", (150, 150 + 100 * n))
    rows = [{"image": f"{n}.png", "caption": "a red dog here", "split": "train"} for n in range(4)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def cleaned(*settings: str) -> dict[str, int]:
        words = [word for setting in settings for word in ("--set", setting)]
        assert cli.call(["data", "check", str(tmp_path), "--clean", "align", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["data"][0]["cleaned"]

    assert (cleaned()["short side"], cleaned()["kept"]) == (4, 0)
    found = cleaned("clean.short=100", "clean.ratio=2.9")
    assert (found["short side"], found["ratio of sides"], found["kept"], found["thresholds"]["short"]) == (0, 1, 3, 100)
    for words, told in (
        (["--clean", "aling"], "no such rules; did you mean 'align'?"),
        (["--clean", "align", "--set", "clean.shrt=1"], "no threshold 'shrt'; did you mean 'clean.short'?"),
        (["--clean", "align", "--set", "clean.short=x"], "clean.short=x"),
        (["--set", "clean.short=1"], "a threshold of which rules?"),
    ):
        assert cli.call(["data", "check", str(tmp_path), *words]) == 2
        assert told in capsys.readouterr().err
