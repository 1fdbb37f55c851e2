"""Every rule takes the pair that was planted for it, and the command line counts them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageEnhance

from diptych import cli
from diptych.atelier import compose
from diptych.atelier.vocabulary import World
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
        "near duplicates": 0,
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


def test_near_duplicates_are_known_however_they_are_stored(tmp_path: Path):
    rng, world = Random(0), World("train")
    first, second = (compose.paint(compose.stage(rng, compose.crowd(world, rng))) for _ in range(2))
    first.save(tmp_path / "tested.png")
    first.resize((100, 100), Image.Resampling.LANCZOS).save(tmp_path / "small.jpg", quality=80)
    ImageEnhance.Brightness(first).enhance(0.97).save(tmp_path / "darker.webp", quality=80)
    second.save(tmp_path / "another.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    names = ("small.jpg", "darker.webp", "another.png", "broken.png")
    pairs = Pairs([Sample(name, (tmp_path / name,), ("a red dog",)) for name in names])
    tested = Pairs([Sample("tested", (tmp_path / "tested.png",), ()), Sample("broken", (tmp_path / "broken.png",), ())])
    lax = LAX.model_copy(update={"pictures": 9})
    assert [count([pairs], lax, seen)["near duplicates"] for seen in ([], [tested])] == [0, 2]
    assert count([pairs], lax.model_copy(update={"near": 256}), [tested])["near duplicates"] == 3


def test_thresholds_are_the_paper_s():
    assert Align().model_dump() == {
        "short": 200,
        "ratio": 3.0,
        "texts": 1000,
        "near": 6,  # of this one it says nothing
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
        (["--against", str(tmp_path)], "with --clean align"),
        (["--clean", "align", "--against", str(tmp_path)], "no split beside train"),
    ):
        assert cli.call(["data", "check", str(tmp_path), *words]) == 2
        assert told in capsys.readouterr().err
