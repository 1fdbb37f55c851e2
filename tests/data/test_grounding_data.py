"""VCR's lines and REFER's pickles: their peculiarities, and what is said when something is wrong with them."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest

from diptych.config import UserError
from diptych.data import rec_jsonl, refcoco, vcr, vcr_jsonl
from diptych.data.rec_jsonl import RECJsonl
from diptych.data.refcoco import RefCOCO
from diptych.data.vcr import VCR, told
from diptych.data.vcr_jsonl import VCRJsonl


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    vcr.example(tmp_path)
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_references_are_names_and_numbers():
    objects = ["person", "turtle", *["person"] * 14]
    assert told([[0], "and", [1], "."], objects) == "Casey 1 and turtle 2 ."
    assert told([[2, 0, 2], "'s", "dog"], objects) == "Jessie 3 and Casey 1 's dog", "places may repeat"
    assert told([[15]], objects) == "Casey 16", "the fifteen names begin anew"


def test_vcr_sample(stills):
    reader = VCR.open(stills, "val")
    sample = reader[3]
    assert sample.texts == ("What will Riley 2 drink ?",)
    assert [box.name for box in sample.boxes] == ["person", "person", "cup"]
    assert sample.boxes[1].xyxy == (20, 4, 32, 30)
    assert sample.labels["choices"][1] == "Riley 2 will drink milk ."
    assert sample.labels["rationales"][0] == "Riley 2 and Casey 1 hold cup 3 ."
    assert (sample.labels["right"], sample.labels["right_rationale"]) == (1, 2)
    assert sample.group == "lsmdc_1"


def test_test_questions_have_no_labels_and_lines_may_be_empty(stills):
    rows = [{k: v for k, v in row.items() if not k.endswith("label")} for row in lines(stills / "val.jsonl")]
    text = "\n".join(["", json.dumps(rows[0], ensure_ascii=False), "", json.dumps(rows[2])])
    (stills / "test.jsonl").write_text(text)  # without a last newline
    reader = VCR.open(stills, "test")
    assert [reader[i].key for i in range(len(reader))] == ["val-0", "val-2"]
    assert "right" not in reader[0].labels


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": ["What", [3], "?"]}, r"\[3\] must be places of the 3 objects"),
        ({"question": ["What", [], "?"]}, r"\[\] must be places"),
        ({"question": ["What", 1, "?"]}, "1 is no word and no list of places"),
        ({"answer_label": 4}, "'answer_label' must be 0 to 3, not 4"),
        ({"rationale_choices": [["a"]] * 3}, "'rationale_choices' must be 4 texts, not 3"),
        ({"answer_choices": None}, "'answer_choices' must be a list"),
    ],
)
def test_a_broken_line_is_named(stills, change, said):
    rows = lines(stills / "val.jsonl")
    rows[2] |= change
    write(stills / "val.jsonl", rows)
    with pytest.raises(UserError, match=rf"val\.jsonl:3: {said}"):
        VCR.open(stills, "val")
    assert len(VCR.open(stills, "val", limit=2)) == 2


def test_boxes_that_do_not_fit_the_objects(stills):
    path = stills / "vcr1images/lsmdc_1/a.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"boxes": about["boxes"][:2]}))
    with pytest.raises(UserError, match=r"a\.json: 2 boxes, but question val-0 has 3 objects"):
        VCR.open(stills, "val")[0]
    path.unlink()
    with pytest.raises(UserError, match=r"a\.json: cannot be read .* boxes of question val-0"):
        VCR.open(stills, "val")[0]


# ------------------------------------------------------------------------------------------------------- RefCOCO


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    refcoco.example(tmp_path)
    return tmp_path


def test_a_thing_its_phrases_and_all_boxes_of_the_picture(phrases):
    sample = RefCOCO.open(phrases, "val")[3]
    assert sample.texts == ("right dog", "the dog")
    assert sample.images[0].name == "COCO_train2014_000000000025.jpg", "the pickle's own name ends in the box's number"
    assert [box.xyxy for box in sample.boxes] == [(4, 6, 24, 16), (26, 6, 44, 26)]
    assert sample.labels["right"] == 1 and sample.labels["sent_ids"] == (6, 7)


def with_refs(root: Path, change) -> None:
    path = root / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    change(refs)
    path.write_bytes(pickle.dumps(refs, protocol=2))


def test_test_is_both_of_its_parts(phrases):
    with_refs(
        phrases, lambda refs: [ref.update(split=split) for ref, split in zip(refs, ("testA", "testA", "testB", "val"), strict=True)]
    )
    sizes = {split: len(RefCOCO.open(phrases, split)) for split in ("testA", "testB", "test", "val")}
    assert sizes == {"testA": 2, "testB": 1, "test": 3, "val": 1}
    with pytest.raises(UserError, match="no split 'tets'; did you mean 'test'"):
        RefCOCO.open(phrases, "tets")


def test_the_split_that_papers_use_comes_first(phrases):
    shutil.copy(phrases / "refs(unc).p", phrases / "refs(umd).p")
    with_refs(phrases, lambda refs: [ref.update(split="train") for ref in refs])
    (phrases / "refs(unc).p").rename(phrases / "refs(google).p")
    assert len(RefCOCO.open(phrases, "val")) == 4


def test_text_of_python_2(phrases):
    """As Python 2 pickled it: byte strings in protocol 0, one of them not ASCII."""
    path = phrases / "refs(unc).p"
    written = path.read_bytes()
    assert b"Vright dog\n" in written
    path.write_bytes(re.sub(rb"Vright dog\n", rb"S'caf\\xe9 dog'\n", written))
    assert RefCOCO.open(phrases, "val")[1].texts == ("café dog", "the dog")


def test_a_pickle_with_code_in_it_is_refused_and_does_nothing(phrases):
    mark = phrases / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    path = phrases / "refs(unc).p"
    path.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: not read as a pickle: it asks for .*mkdir") as error:
        RefCOCO.open(phrases, "val")
    assert "\n" not in str(error.value) and not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "it would have left a mark"


@pytest.mark.parametrize("content", [b"", b"no pickle", b"(lp0\n", b"\x80\x02]q\x00(K", b"I1\n.", b"}b.", b"cos\nsystem\n."])
def test_what_is_no_pickle_of_refs(phrases, content):
    (phrases / "refs(unc).p").write_bytes(content)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: "):
        RefCOCO.open(phrases, "val")


def test_refs_that_do_not_fit(phrases):
    with_refs(phrases, lambda refs: refs[1].pop("sentences"))
    with pytest.raises(UserError, match=r"ref 1: no 'sentences'"):
        RefCOCO.open(phrases, "val")
    refcoco.example(phrases)
    with_refs(phrases, lambda refs: refs[1].update(ann_id=7))
    with pytest.raises(UserError, match=r"instances\.json: no box 7 in picture 9, which ref 1 means"):
        RefCOCO.open(phrases, "val")


@pytest.mark.parametrize(
    ("bbox", "is_right"),
    [
        ([40, 6, 9, 27], True),
        ([-2, -1, 9, 9], True),
        ([4, 6, 0, 9], False),
        ([4, 6, 9, -9], False),
        ([48, 6, 9, 9], False),
        ([4, -9, 9, 9], False),
    ],
)
def test_a_meant_box_must_lie_in_the_picture_if_not_wholly(phrases, bbox, is_right):
    path = phrases / "instances.json"
    told = json.loads(path.read_text())
    told["annotations"][1]["bbox"] = bbox
    path.write_text(json.dumps(told))
    if is_right:
        RefCOCO.open(phrases, "val")
    else:
        with pytest.raises(
            UserError, match=r"instances\.json: 'bbox' of annotation 91, which ref 1 means, must be x y width height"
        ):
            RefCOCO.open(phrases, "val")
    with_refs(phrases, lambda refs: refs.pop(1))
    RefCOCO.open(phrases, "val")  # which no phrase means


# ------------------------------------------------------------------------------------------------------ own data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"right": 3}, "'right' must be 0 to 2, or one of the answers, not 3"),
        ({"right": "eat."}, "'right' is 'eat.', which is none of the answers; did you mean 'Eat.'"),
        ({"right": True}, "'right' must be a text"),
        ({"answers": ["Eat."]}, "'answers' must be two or more"),
        ({"answers": ["Run.", "Eat.", "Eat. "], "right": 0}, "'Eat.' stands twice among the 'answers'"),
    ],
)
def test_own_choices(tmp_path, change, said):
    vcr_jsonl.example(tmp_path)
    assert VCRJsonl.open(tmp_path, "all")[2].labels["right"] == 1, "said by its text"
    rows = lines(tmp_path / "choices.jsonl")
    rows[1] |= change
    write(tmp_path / "choices.jsonl", rows)
    with pytest.raises(UserError, match=rf"choices\.jsonl:2: {re.escape(said)}"):
        VCRJsonl.open(tmp_path, "all")


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([4, 4, 4, 9], "'box' must be x1 y1 x2 y2 in pixels"),
        ([-1, 4, 4, 9], "'box' must be x1 y1 x2 y2 in pixels"),
        ([4, 4, 9], "'box' must be a list of 4"),
        (["4", 4, 5, 9], "'box' must be a number"),
        ([0.1, 0.1, 0.5, 0.5], r"'box' must be x1 y1 x2 y2 in pixels \(no fractions of the picture\)"),
        ([4, 4, 9, 4.5], "'box' must be x1 y1 x2 y2 in pixels"),
        ([48, 4, 49, 9], r"the box 48, 4, 49, 9 reaches out of the picture, which has 48 x 32 pixels"),
        ([2, 2, 6000, 9], r"the box 2, 2, 6000, 9 reaches out of the picture"),
        ([2, 2, 9, 33.5], r"the box 2, 2, 9, 33.5 reaches out of the picture"),
    ],
)
def test_own_boxes(tmp_path, box, said):
    rec_jsonl.example(tmp_path)
    sample = RECJsonl.open(tmp_path, "all")[1]
    assert len(sample.boxes) == 2 and sample.labels["right"] == 1, "what is meant on the picture's other lines is there, too"
    rows = lines(tmp_path / "phrases.jsonl")
    rows[1]["box"] = box
    write(tmp_path / "phrases.jsonl", rows)
    with pytest.raises(UserError, match=rf"phrases\.jsonl:2: {said}"):
        RECJsonl.open(tmp_path, "all")


def test_all_boxes_outside_are_told_at_once_and_rounding_is_none(tmp_path):
    rec_jsonl.example(tmp_path)
    rows = lines(tmp_path / "phrases.jsonl")
    rows[0]["box"] = [0, 0, 48.6, 33]
    rows[1]["box"], rows[3]["box"] = [2, 2, 60, 9], [2, 2, 9, 60]
    write(tmp_path / "phrases.jsonl", rows)
    problems = RECJsonl.survey(tmp_path)[1]
    assert [problem.said.removeprefix(f"{tmp_path}/").partition(": ")[0] for problem in problems] == [
        "phrases.jsonl:2",
        "phrases.jsonl:4",
    ]
    with pytest.raises(UserError, match=r"phrases\.jsonl:2: .* \(and 1 more; `diptych data check` lists them\)"):
        RECJsonl.open(tmp_path, "train")
    (tmp_path / "cats/kit.jpg").write_bytes(b"")
    assert len(RECJsonl.survey(tmp_path)[1]) == 1, "what is broken is told elsewhere"


def test_a_phrase_without_a_box_can_be_asked(tmp_path):
    rec_jsonl.example(tmp_path)
    rows = lines(tmp_path / "phrases.jsonl")
    rows[1]["box"] = None
    write(tmp_path / "phrases.jsonl", rows)
    sample = RECJsonl.open(tmp_path, "all")[1]
    assert "right" not in sample.labels and len(sample.boxes) == 1
    assert [problem.said[-6:] for problem in RECJsonl.survey(tmp_path)[1]] == [" right"]
