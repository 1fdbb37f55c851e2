"""The pre-flight: whatever is planted in a data set is found, counted and named; what is sound is called ready."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych import cli, find
from diptych.config import Recipe, UserError
from diptych.data import check, coco_captions, files, karpathy, snli_ve, visual_genome, vqa_v2, wit
from diptych.text import tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = tokenizer.wordpiece([*SPECIAL, "a", "red", "dog", "di", "##p", "##t", "##y", "##ch", "?"])
RECIPE = Recipe.model_validate({"system": {}, "train": {"steps": 1, "batch_size": 1, "lr": 1}, "text": {"max_tokens": 6}})


def checked(place: Path, **options) -> check.Report:
    return check.check(str(place), *find.recognised(str(place)), WORDS, RECIPE, **options)


def told(report: check.Report) -> dict[str, list[str]]:
    """Problems by kind, with the part that comes after the folder."""
    return {kind: [place.replace(f"{report.name}/", "") for place in places] for (kind, _), places in report.kinds.items()}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Six different pictures, each with a caption, in named splits."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
    for n in range(6):
        Image.fromarray(pixels[n]).save(tmp_path / f"{n}.png")
    rows = [{"image": f"{n}.png", "caption": "a red dog", "split": ("val" if n == 5 else "train")} for n in range(6)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_sound_data_set_is_ready(mine: Path):
    report = checked(mine)
    assert report.verdict == "ready for pretrain, retrieval"
    assert report.held == {"folder": {"train": check.Held(5, 5, 5), "val": check.Held(1, 1, 1)}}
    summary = report.as_json()
    assert summary["pictures"] == {"distinct": 6, "decoded": 6, "smallest": [30, 20], "median": [30, 20], "largest": [30, 20]}
    assert summary["captions"] == {"all": 6, "different": 1, "languages": {"en": 6}}
    assert (summary["tokens"]["longest"], summary["tokens"]["pieces_per_word"], summary["tokens"]["unknown"]) == (5, 1.0, 0.0)


def test_everything_amiss_is_told_at_once(mine: Path):
    (mine / "0.png").write_bytes((mine / "0.png").read_bytes()[:600])
    (mine / "1.png").write_bytes(b"")
    (mine / "5.png").write_bytes((mine / "2.png").read_bytes())
    (mine / "stray.png").write_bytes((mine / "2.png").read_bytes())
    with (mine / "captions.jsonl").open("a") as file:
        file.write('{"image": "7.png", "caption": "a dog", "split": "train"}\n{"image"}\n')
        file.write('{"image": "3.png", "caption": "a diptych ? quokka diptych", "split": "train"}\n')
    report = checked(mine)
    problems = told(report)
    truncated, empty = problems.pop("pictures that cannot be read")
    assert truncated.startswith("0.png: OSError: ") and empty == "1.png: an empty file"
    assert problems.pop("too many broken pictures")[0].startswith("2 of 6 pictures cannot be read")
    assert problems.pop("captions without a picture") == ["captions.jsonl:7: no picture 7.png"]
    assert problems.pop("broken lines")[0].startswith("captions.jsonl:8: broken JSON")
    assert problems.pop("pictures without caption") == ["stray.png: not in captions.jsonl"]
    assert problems.pop("pictures that are there twice") == ["5.png: the same as 2.png"]
    assert problems.pop("pictures in several splits") == ["2.png: in train and val"]
    assert problems.pop("texts that are cut")[0].startswith("14% of the texts at text.max_tokens=6; --set text.max_tokens=15")
    assert "'quokka'" in problems.pop("words that the vocabulary does not know")[0]
    assert "'diptych'" in problems.pop("words that the vocabulary breaks into pieces")[0]
    assert not problems
    assert not report.usable
    assert report.verdict == "not usable: broken lines, captions without a picture, too many broken pictures"
    shown = "\n".join(check.lines(report))
    assert shown.index("error: ") < shown.index("warning: ")


def test_one_broken_picture_is_no_reason_to_refuse(mine: Path):
    (mine / "3.png").write_bytes(b"GIF89a")
    assert checked(mine).verdict == "ready with warnings for pretrain, retrieval"


def test_a_split_alone(mine: Path):
    assert list(checked(mine, split="val").pictures) == [str(mine / "5.png")]
    with pytest.raises(UserError, match="no split 'vall'; did you mean 'val'"):
        checked(mine, split="vall")


def test_a_large_data_set_is_sampled_and_says_so(mine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "SAMPLE", 2)
    report = checked(mine)
    assert len(report.sizes) == 2
    assert "drawn 2 decoded" in "\n".join(check.lines(report))
    assert len(checked(mine, everything=True).sizes) == 6


def test_questions(mine: Path):
    rows = [{"image": f"{n}.png", "question": "a dog?", "answer": "yes" if n < 3 else "no"} for n in range(4)]
    (mine / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"image": "4.png", "question": "a red dog?"}])
    )
    report = checked(mine / "train.jsonl")
    assert report.answers == {"yes": 3, "no": 1}
    assert told(report)["questions without an answer"] == [f"{mine}/train.jsonl:5: no answer".replace(f"{report.name}/", "")]
    assert report.usable == ["vqa"]


def test_statements_are_questions_and_their_labels_answers(mine: Path):
    labels = (True, False, True, None)
    rows = [{"images": ["0.png", f"{n}.png"], "text": "a dog", "label": label} for n, label in enumerate(labels)]
    (mine / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = checked(mine / "pairs.jsonl")
    assert report.answers == {"True": 2, "False": 1}
    assert told(report)["questions without an answer"] == [f"{mine}/pairs.jsonl:4: no label"]
    assert report.usable == ["nlvr2"]
    assert any(line.split()[-1:] == ["questions"] for line in check.lines(report))


@pytest.mark.parametrize(
    "module", [coco_captions, karpathy, snli_ve, visual_genome, vqa_v2, wit], ids=lambda m: m.__name__.rpartition(".")[2]
)
def test_public_layouts_are_opened_split_by_split(module, tmp_path: Path):
    module.example(tmp_path)
    report = checked(tmp_path)
    (held,) = report.held.values()
    assert sum(numbers.samples for numbers in held.values()) == 4
    assert report.usable
    gone = next(path for path in sorted(tmp_path.rglob("*"), reverse=True) if path.suffix in files.PICTURES)
    gone.unlink()
    assert any(place.endswith(f"{gone.name}: no such file") for place in told(checked(tmp_path))["pictures that cannot be read"])


def test_one_broken_file_bars_one_purpose(tmp_path: Path):
    coco_captions.example(tmp_path)
    vqa_v2.example(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text('{"annotations": [{}]}')
    report = checked(tmp_path)
    assert report.usable == ["documents", "pretrain", "retrieval"]
    assert "; not for vqa: splits that cannot be read" in report.verdict
    assert "_annotations.json:1: no 'question_type' here" in told(report)["splits that cannot be read"][0]


def test_a_pipe_among_the_pictures_is_told_and_not_waited_for(mine: Path):
    (mine / "3.png").unlink()
    os.mkfifo(mine / "3.png")
    assert "3.png: not a file" in told(checked(mine))["pictures that cannot be read"]


def test_what_cannot_be_trained_on_is_not_recommended_for_it(mine: Path, capsys: pytest.CaptureFixture[str]):
    captions = mine / "captions.jsonl"
    captions.write_text(captions.read_text().replace('"train"', '"trian"'))
    assert cli.call(["data", "check", str(mine)]) == 0
    said = capsys.readouterr().out
    assert "ready with warnings to evaluate on, not to train on: pretrain, retrieval" in said and "next:" not in said
    assert "no split 'train', so nothing can be trained on it; did you mean 'trian'?" in said


def test_a_script_that_the_vocabulary_lacks_is_not_recommended_with_it(mine: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"image": f"{n}.png", "caption": text, "split": "train"} for n, text in enumerate(("红色的 狗", "蓝色的 猫", "绿色的 鸟"))
    ]
    (mine / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.call(["data", "check", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert "the vocabulary does not know 100% of the words" in shown and "text.vocab=bytes" in shown and "next:" not in shown
    assert cli.call(["data", "check", str(mine), "--set", "text.vocab=bytes"]) == 0
    assert f"next: diptych pretrain vilt:tiny --data {mine} --set text.vocab=bytes" in capsys.readouterr().out


LONE = {"text": "a dog", "box": [2, 2, 9, 9]}
ASKED = {"question": "a dog?"}
REFUSED = {  # what fine-tuning has nothing to learn from -> what it says
    "rec: one box a picture": ([LONE] * 3, "nothing to choose from; --set task.candidates=windows"),
    "rec: no box": ([{**LONE, "box": None}] * 3, "rec learns from phrases whose box is known"),
    "vcr: nothing right": ([{**ASKED, "answers": ["a", "b"], "right": None}] * 3, "vcr learns from questions whose right answer"),
    "vqa: no answer": ([ASKED] * 3, "none of the 3 training questions has an answer"),
    "vqa: no word": ([{**ASKED, "answer": "the"}] * 3, "all answers of the 3 training questions are articles or punctuation"),
}


@pytest.mark.parametrize(("rows", "said"), REFUSED.values(), ids=REFUSED)
def test_what_fine_tuning_refuses_is_not_recommended(rows: list[dict], said: str, mine: Path, capsys: pytest.CaptureFixture[str]):
    path = mine / "asked.jsonl"
    path.write_text("".join(json.dumps({"image": f"{n}.png", "split": "train", **row}) + "\n" for n, row in enumerate(rows)))
    assert cli.call(["data", "check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"warning: nothing to learn: {path}: " in shown and said in shown
    assert "to evaluate on, not to train on: " in shown and "next:" not in shown
    assert cli.call(["data", "check", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert "ready with warnings for pretrain; to evaluate on, not to train on: " in shown
    assert f"next: diptych pretrain vilt:tiny --data {mine}" in shown
