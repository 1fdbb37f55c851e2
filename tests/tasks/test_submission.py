"""Prediction files made elsewhere: scored as a run's own answers are, or refused with the id that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych import cli
from diptych.cli.verbs import _scores, _write_predictions
from diptych.config import UserError
from diptych.data import nlvr2, snli_ve, vqa_v2
from diptych.data.nlvr2 import NLVR2
from diptych.data.snli_ve import SNLIVE
from diptych.data.vqa_v2 import VQAv2
from diptych.tasks.nlvr2 import NLVR2 as NLVR2Task
from diptych.tasks.submission import judged, scored
from diptych.tasks.ve import VE
from diptych.tasks.vqa import VQA


def score_of(task, reader, entries, path: Path):
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    judge = judged(task)
    assert judge is not None
    return scored(judge, path, reader, "val")


def test_public_answers_have_the_score_that_the_annotators_give_them(tmp_path):
    vqa_v2.example(tmp_path)
    reader = VQAv2.open(tmp_path, "val")
    answers = {reader[n].labels["question_id"]: reader[n].labels["answer"] for n in range(4)}
    entries = [{"question_id": number, "answer": answer.upper()} for number, answer in reversed(answers.items())]
    found = score_of(VQA, reader, entries, tmp_path / "p.json")
    assert found.metrics["accuracy"] == pytest.approx(100) and found.metrics["pair"] == 100 and len(found.items) == 4
    entries[0]["answer"] = "maybe"  # what one of ten annotators said is worth .3
    assert score_of(VQA, reader, entries, tmp_path / "p.json").metrics["accuracy"] == pytest.approx(100 * 3.3 / 4)

    snli_ve.example(tmp_path / "ve")
    reader = SNLIVE.open(tmp_path / "ve", "val")
    entries = [{"pairID": reader[n].key, "gold_label": "neutral"} for n in range(4)]
    truths = [reader[n].labels["label"] for n in range(4)]
    assert score_of(VE, reader, entries, tmp_path / "p.json").metrics["accuracy"] == 100 * truths.count("neutral") / 4

    nlvr2.example(tmp_path / "two")
    reader = NLVR2.open(tmp_path / "two", "val")
    lines = "\n".join(f"{reader[n].key},{reader[n].labels['label']}" for n in range(4))
    for table in (lines, f"identifier,label\n{lines}"):
        assert score_of(NLVR2Task, reader, table, tmp_path / "p.csv").metrics == {"accuracy": 100, "consistency": 100}
    wrong = lines.replace("dev-850-0-0,True", "dev-850-0-0,False")
    assert score_of(NLVR2Task, reader, wrong, tmp_path / "p.csv").metrics["accuracy"] == 75


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: [*e, e[0]], "entry 5: question_id 42000 is answered a second time"),
        (lambda e: e[1:], r"no answer to question_id 42000 of split 'val'; 1 of 4 are not answered"),
        (lambda e: [*e, {"question_id": 7, "answer": "no"}], r"question_id 7 is not of these data; 1 of 5 are not of split 'val'"),
        (lambda e: [{"question": 42000, "answer": "no"}], "entry 1: no 'question_id' here; did you mean"),
        (lambda e: [{"question_id": 42000, "answer": 2}], "entry 1: 'answer' must be a text, not 2"),
        (lambda e: ["yes"], "entry 1: an object with question_id and answer is expected"),
        (lambda e: {"answers": e}, "a list of predictions is expected"),
        (lambda e: "[{", "broken JSON"),
        (lambda e: [], "no answer to question_id 42000 of split 'val'; 4 of 4 are not answered"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_id(change, said, tmp_path):
    vqa_v2.example(tmp_path)
    reader = VQAv2.open(tmp_path, "val")
    entries = [{"question_id": reader[n].labels["question_id"], "answer": "yes"} for n in range(4)]
    with pytest.raises(UserError, match=said) as refused:
        score_of(VQA, reader, change(entries), tmp_path / "p.json")
    assert str(refused.value).startswith(str(tmp_path / "p.json"))


def test_labels_that_there_are_not_are_refused(tmp_path):
    nlvr2.example(tmp_path)
    with pytest.raises(UserError, match="entry 1: 'label' is 'true', not False or True"):
        score_of(NLVR2Task, NLVR2.open(tmp_path, "val"), "dev-850-0-0,true", tmp_path / "p.csv")
    with pytest.raises(UserError, match="entry 1: 3 fields, not 2"):
        score_of(NLVR2Task, NLVR2.open(tmp_path, "val"), "a,b,c", tmp_path / "p.csv")


def test_the_verb_scores_what_evaluate_wrote_and_names_the_tasks_that_it_can(tmp_path, capsys):
    vqa_v2.example(tmp_path)
    reader = VQAv2.open(tmp_path, "val")
    file = tmp_path / "p.json"
    file.write_text(json.dumps([{"question_id": reader[n].labels["question_id"], "answer": "yes"} for n in range(4)]))
    assert cli.call(["score", "vqa", str(file), "--data", str(tmp_path), "--split", "val", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["n"], told["metrics"]["accuracy"]) == ("vqa", 4, 25.0) and told["ci95"]["accuracy"] == [0, 75]
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    document = json.loads(annotations.read_text())
    annotations.write_text(json.dumps({"annotations": [{**one, "group": "one"} for one in document["annotations"]]}))
    assert cli.call(["score", "vqa", str(file), "--data", str(tmp_path), "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ci95"] == {}, "of one group nothing can be drawn"
    assert cli.call(["score", "vcr", str(file), "--data", str(tmp_path)]) == 2
    assert "its predictions are not one answer a sample; these are: nlvr2, ve, vqa" in capsys.readouterr().err
    assert cli.call(["score", "vqa", str(tmp_path / "nowhere"), "--data", str(tmp_path)]) == 2
    assert "nowhere: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_what_a_run_wrote_is_read_back(tmp_path):
    nlvr2.example(tmp_path)
    reader = NLVR2.open(tmp_path, "val")
    rows = [{"identifier": reader[n].key, "label": str(reader[n].labels["label"])} for n in range(4)]
    for name in ("p.csv", "p.json"):
        _write_predictions(tmp_path / name, rows, NLVR2Task.has_header)
        judge = judged(NLVR2Task)
        assert judge is not None and scored(judge, tmp_path / name, reader, "val").metrics["accuracy"] == 100
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "dev-850-0-0,True", "the official scorer knows no header"


def test_a_table_tells_grey_pictures_and_hides_a_training_that_asked_nobody():
    broken = [{"key": "1", "path": "a.jpg", "reason": "truncated"}]
    result = {"task": "vqa", "split": "train", "n": 3, "metrics": {"accuracy": 50.0}, "ci95": {}, "broken": broken}
    heading, accuracy, grey = _scores(result)
    assert heading == "vqa, train: 3 questions" and accuracy.split() == ["accuracy", "50.00"]
    assert grey.startswith("1 with a picture that cannot be read") and grey.endswith("a.jpg: truncated")
    assert _scores({**result, "skipped": 0}) == []
