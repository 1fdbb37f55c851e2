"""The user's own pictures, captions and questions: every layout says the same, and every mistake is told with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych import find
from diptych.config import UserError
from diptych.data import files, karpathy
from diptych.data.folder import Folder
from diptych.data.karpathy import Karpathy
from diptych.data.nlvr2_jsonl import NLVR2Jsonl
from diptych.data.ve_jsonl import VEJsonl
from diptych.data.vqa_jsonl import VQAJsonl
from diptych.metrics.vqa_accuracy import accuracy

CAPTIONS = {"a.jpg": ["a red, round dog", "ein „Hund“"], "cats/b.png": ["two boats"]}


def samples(reader) -> list:
    return [reader[i] for i in range(len(reader))]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pictures, nothing said of them yet."""
    files.example_pictures(tmp_path / "mine", ["a.jpg"])
    files.example_pictures(tmp_path / "mine/cats", ["b.png"])
    return tmp_path / "mine"


# ---------------------------------------------------------------------------------------------------------- captions


def in_jsonl(root: Path) -> None:
    jsonl(root / "captions.jsonl", *({"image": name, "captions": texts} for name, texts in CAPTIONS.items()), "")


def as_imagefolder(root: Path) -> None:
    jsonl(root / "metadata.jsonl", *({"file_name": name, "text": text} for name, texts in CAPTIONS.items() for text in texts))


def in_csv(root: Path) -> None:
    lines = ["\ufeffimage,caption", 'a.jpg,"a red, round dog"', "./a.jpg,ein „Hund“", "cats\\b.png,two boats"]
    (root / "captions.csv").write_text("\r\n".join(lines), encoding="utf-8")


def in_excel(root: Path) -> None:
    (root / "captions.csv").write_text("image;caption\na.jpg;a red, round dog\na.jpg;ein „Hund“\ncats/b.png;two boats\n")


def in_tsv(root: Path) -> None:
    (root / "captions.tsv").write_text("caption\timage\na red, round dog\ta.jpg\nein „Hund“\ta.jpg\ntwo boats\tcats/b.png\n")


def beside(root: Path) -> None:
    for name, texts in CAPTIONS.items():
        (root / name).with_suffix(".txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


@pytest.mark.parametrize("write", [in_jsonl, as_imagefolder, in_csv, in_excel, in_tsv, beside])
def test_every_layout_says_the_same(write, root: Path):
    write(root)
    assert Folder.recognises(root) and not VQAJsonl.recognises(root)
    read = samples(Folder.open(root, "all"))
    assert {sample.key: list(sample.texts) for sample in read} == CAPTIONS
    assert [sample.images for sample in read] == [(root / name,) for name in CAPTIONS]
    assert {sample.language for sample in read} == {"en"}
    assert len(Folder.open(root, "all", limit=1)) == 1


def test_a_table_of_any_name_is_a_data_set_itself(root: Path):
    table = jsonl(root / "mine.jsonl", {"image": "a.jpg", "caption": "a dog"})
    assert Folder.recognises(table) and not VQAJsonl.recognises(table)
    assert Folder.open(table, "all")[0].images == (root / "a.jpg",)


def test_languages_of_one_picture_are_samples_of_one_group(root: Path):
    jsonl(
        root / "captions.jsonl",
        {"image": "a.jpg", "caption": "a dog", "split": "train"},
        {"image": "a.jpg", "caption": "ein Hund", "language": "de", "split": "train"},
    )
    english, german = samples(Folder.open(root, "train"))
    assert (english.language, english.texts, english.key) == ("en", ("a dog",), "a.jpg")
    assert (german.language, german.texts, german.key) == ("de", ("ein Hund",), "a.jpg@de")
    assert english.group == german.group


def test_hashed_splits_share_nothing_lose_nothing_and_do_not_depend_on_the_place(tmp_path: Path):
    found = []
    for root in (tmp_path / "here", tmp_path / "there/else"):
        files.example_pictures(root, [f"{n:03d}.jpg" for n in range(60)])
        jsonl(root / "captions.jsonl", *({"image": f"{n:03d}.jpg", "caption": "a dog"} for n in range(60)))
        jsonl(root / "asked.jsonl", *({"image": f"{n:03d}.jpg", "question": "?", "answer": "yes"} for n in range(60)))
        for cls, place in ((Folder, root), (VQAJsonl, root / "asked.jsonl")):
            splits = {split: [sample.images[0].name for sample in samples(cls.open(place, split))] for split in files.HASHED}
            assert sorted(name for names in splits.values() for name in names) == [f"{n:03d}.jpg" for n in range(60)]
            found.append(splits)
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]["train"]) > 45


def test_a_group_is_never_torn_apart(tmp_path: Path):
    files.example_pictures(tmp_path, [f"{n}.jpg" for n in range(40)])
    jsonl(tmp_path / "captions.jsonl", *({"image": f"{n}.jpg", "caption": "a dog", "group": f"g{n % 2}"} for n in range(40)))
    splits, problems = Folder.survey(tmp_path)
    assert not problems
    assert sum(len({sample.group for sample in samples(reader)}) for reader in splits.values()) == 2


def test_an_empty_hashed_split_says_what_to_do(root: Path):
    in_jsonl(root)
    jsonl(root / "asked.jsonl", {"image": "a.jpg", "question": "what?", "answer": "dog"})
    for cls, place, pictures in ((Folder, root, 2), (VQAJsonl, root / "asked.jsonl", 1)):
        with pytest.raises(
            UserError, match=rf"nothing in split 'val': a hash gives it 5 % .* there are {pictures}; .*'split'.*'all'"
        ):
            cls.open(place, "val")
        with pytest.raises(UserError, match="no split 'vall'; did you mean 'all'"):
            cls.open(place, "vall")


BROKEN = [
    ("captions.jsonl", '{"image": "a.jpg", "caption" "x"}', r"captions.jsonl:2: broken JSON .*column 30"),
    ("captions.jsonl", '["a.jpg", "x"]', r'captions.jsonl:2: an object .* found \["a.jpg", "x"\]'),
    ("captions.jsonl", '{"imag": "a.jpg", "caption": "x"}', r"captions.jsonl:2: no 'image' here; did you mean 'imag'"),
    ("captions.jsonl", '{"image": "a.jpg", "title": "x"}', r"captions.jsonl:2: no 'caption' here; found: image, title"),
    ("captions.jsonl", '{"image": 7, "caption": "x"}', r"captions.jsonl:2: 'image' must be the path of a picture, not 7"),
    ("captions.jsonl", '{"image": "a.jpg", "captions": [3]}', r"captions.jsonl:2: the caption of a.jpg must be .* not \[3\]"),
    ("captions.jsonl", '{"image": "a.jpg", "caption": " "}', r"captions.jsonl:2: no caption for a.jpg"),
    ("captions.jsonl", '{"image": "c.jpg", "caption": "x"}', r"captions.jsonl:2: no picture .*c.jpg"),
    ("captions.jsonl", '{"image": "a.jpg", "caption": "x", "split": "val"}', r"captions.jsonl:1: no split for a.jpg, while other"),
    ("captions.csv", "a.jpg,x,y", r"captions.csv:3: 3 fields, the header has 2 \(image, caption\)"),
    ("captions.csv", 'a.jpg,"x', r"captions.csv:3: unexpected end of data; the rest of the file was not read"),
    ("captions.csv", b"a.jpg,\xe4", r"captions.csv:3: not a text in UTF-8"),
]


@pytest.mark.parametrize(("name", "line", "said"), BROKEN, ids=lambda value: value if isinstance(value, str) else None)
def test_a_mistake_is_told_with_its_line(name: str, line: str | bytes, said: str, root: Path):
    first = '{"image": "a.jpg", "caption": "a dog"}\n' if name.endswith("jsonl") else "image,caption\na.jpg,a dog\n"
    (root / name).write_bytes(first.encode() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(UserError, match=said):
        Folder.open(root, "all")
    splits, problems = Folder.survey(root)
    assert sum(len(reader) for reader in splits.values()) >= 1, "what can be read is still looked at"
    assert sum(problem.is_fatal for problem in problems) == 1


def test_open_names_the_first_mistake_and_survey_all(root: Path):
    said = {"image": "a.jpg", "caption": "x"}
    jsonl(root / "captions.jsonl", said, "{", {**said, "image": "1.jpg"}, {**said, "image": "2.jpg"}, {**said, "caption": ""})
    with pytest.raises(UserError, match=r"captions.jsonl:2: broken JSON .* \(and 3 more; `diptych data check` lists them\)"):
        Folder.open(root, "all")
    _, problems = Folder.survey(root)
    places = [problem.said.removeprefix(f"{root}/").partition(": ")[0] for problem in problems]
    assert sorted(places) == ["captions.jsonl:2", "captions.jsonl:3", "captions.jsonl:4", "captions.jsonl:5", "cats/b.png"]
    assert [problem.kind for problem in problems if not problem.is_fatal] == ["pictures without caption"]


def test_pictures_and_texts_must_pair(root: Path):
    with pytest.raises(UserError, match=r"found 2 pictures but no captions; add captions.jsonl .*a.txt"):
        Folder.open(root, "all")
    (root / "a.txt").write_text("a dog\n")
    (root / "c.txt").write_text("a stray text\n")
    with pytest.raises(UserError, match=r"cats/b.png: no b.txt beside it$"):
        Folder.open(root, "all")
    _, problems = Folder.survey(root)
    assert [(problem.kind, problem.is_fatal) for problem in problems] == [
        ("pictures without caption", True),
        ("captions without a picture", False),
    ]


def test_what_is_no_folder_of_pictures(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello\n")
    assert not Folder.recognises(tmp_path) and not Folder.recognises(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither pictures nor captions"):
        Folder.open(tmp_path, "all")
    (tmp_path / "captions.csv").write_text("")
    with pytest.raises(UserError, match=r"captions.csv is empty: one line for each picture"):
        Folder.open(tmp_path, "all")


@pytest.mark.parametrize("below", ["", "b.jpg,a cat\n"])
def test_a_table_without_header_is_told_what_its_first_line_is_taken_for(tmp_path: Path, below: str):
    (tmp_path / "captions.csv").write_text(f"a.jpg,a dog\n{below}")
    said = r"captions.csv:1: the first line is taken for the header, and it has no 'image'; found: a dog, a.jpg$"
    with pytest.raises(UserError, match=said):
        Folder.open(tmp_path, "all")


# --------------------------------------------------------------------------------------------------------- questions


def test_few_answers_stand_for_ten_annotators(root: Path):
    about = {"image": "a.jpg", "question": "how many?"}
    path = jsonl(root / "q.jsonl", {**about, "answer": 2}, {**about, "answers": ["two", "2", "two"], "question_id": 9}, about)
    one, three, none = samples(VQAJsonl.open(path, "all"))
    assert (one.key, one.labels["answer"], one.labels["answers"]) == ("q:1", "2", ("2",) * 10)
    assert (three.key, three.labels["question_id"], three.labels["answer"]) == ("9", 9, "2")
    assert three.labels["answers"] == ("2",) * 10
    assert "answers" not in none.labels
    assert [problem.said for problem in VQAJsonl.survey(path)[1]] == [f"{path}:3: no answer"]


@pytest.mark.parametrize("answer", ["Red", "Two", "the dog", "dont know"])
def test_whoever_says_an_answer_of_ones_own_is_right(answer: str, root: Path):
    path = root / "spelt.jsonl"
    path.write_text(json.dumps({"image": "a.jpg", "question": "what?", "answer": answer}) + "\n")
    (sample,) = samples(VQAJsonl.open(path, "all"))
    assert accuracy(answer, sample.labels["answers"]) == 1


def test_an_empty_id_is_none_and_a_folder_no_picture(root: Path):
    about = {"image": "a.jpg", "question": "?", "answer": "yes", "question_id": None}
    assert [s.key for s in samples(VQAJsonl.open(jsonl(root / "q.jsonl", about, about), "all"))] == ["q:1", "q:2"]
    with pytest.raises(UserError, match=r"q.jsonl:2: no picture .*/cats$"):
        VQAJsonl.open(jsonl(root / "q.jsonl", about, {**about, "image": "cats"}), "all")


def test_files_named_like_splits(root: Path):
    for split in ("train", "val"):
        jsonl(root / f"{split}.jsonl", {"image": "a.jpg", "question": split, "answer": "yes"})
    jsonl(root / "captions.jsonl", {"image": "a.jpg", "caption": "a dog"})
    assert [sample.texts for sample in samples(VQAJsonl.open(root, "val"))] == [("val",)]
    assert len(VQAJsonl.open(root, "all")) == 2
    with pytest.raises(UserError, match="no split 'test'; valid: all, train, val"):
        VQAJsonl.open(root, "test")
    assert samples(Folder.open(root, "all"))[0].texts == ("a dog",), "captions may lie beside questions"
    jsonl(root / "validation.jsonl", {"image": "a.jpg", "question": "?", "answer": "yes"})
    said = f"{root}/validation.jsonl: train.jsonl is named like a split, so only such are read"
    assert [(problem.said, problem.is_fatal) for problem in VQAJsonl.survey(root)[1]] == [(said, False)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"q.jsonl:2: broken JSON"),
        ('{"image": "a.jpg", "questoin": "what?"}', r"q.jsonl:2: no 'question' here; did you mean 'questoin'"),
        ('{"image": "a.jpg", "question": "what?", "answer": null}', r"q.jsonl:2: 'answer' must be a text, not null"),
        ('{"image": "a.jpg", "question": "what?", "answers": "dog"}', r"q.jsonl:2: 'answers' must be a list of texts, not \"dog\""),
        ('{"image": "a.jpg", "question": "what?", "anwser": "dog"}', r"q.jsonl:2: no 'answer' here; did you mean 'anwser'"),
        ('{"image": "z.jpg", "question": "what?"}', r"q.jsonl:2: no picture .*z.jpg"),
        ('{"image": "a.jpg", "question": "what?", "question_id": "q:1"}', r"q.jsonl:2: q:1 is the question_id of .*q.jsonl:1, too"),
    ],
)
def test_a_question_amiss_is_told_with_its_line(line: str, said: str, root: Path):
    path = jsonl(root / "q.jsonl", {"image": "a.jpg", "question": "what?", "answer": "dog"}, line)
    with pytest.raises(UserError, match=said):
        VQAJsonl.open(path, "all")


# ------------------------------------------------------------------------------------------------------- statements

ABOUT = {"image": "a.jpg", "text": "It sleeps."}
PAIR = {"images": ["a.jpg", "./cats/b.png"], "text": "One sleeps."}
LAYOUTS = {  # first line -> who reads the file
    '{"image": "a.jpg", "question": "who?", "answer": "tom"}': VQAJsonl,
    '{"image": "a.jpg", "text": "It sleeps.", "label": null}': VEJsonl,
    '{"images": ["a.jpg", "a.jpg"], "text": "Both sleep.", "label": true}': NLVR2Jsonl,
    '{"image": "a.jpg", "text": "the label"}': Folder,
    '{"image": "a.jpg", "caption": "a cat", "label": "cat"}': Folder,
    '{"file_name": "a.jpg", "text": "a cat", "label": 3}': Folder,
    '{"image": "a.jpg" "text": "broken", "label": "neutral"}': VEJsonl,
}


@pytest.mark.parametrize("first", LAYOUTS)
def test_the_keys_of_the_first_line_tell_the_layout(first: str, root: Path):
    path = jsonl(root / "mine.jsonl", first)
    assert [cls for cls in (Folder, VQAJsonl, VEJsonl, NLVR2Jsonl) if cls.recognises(path)] == [LAYOUTS[first]]


@pytest.mark.parametrize(
    ("purpose", "line", "said"),
    [
        ("rec", {"image": "a.jpg", "text": "the dog", "bbox": [1, 1, 9, 9]}, "no 'box' in its first line; did you mean 'bbox'"),
        (
            "vcr",
            {"image": "a.jpg", "question": "?", "answers": ["a", "b"], "label": 0},
            "no 'right' .*; found: answers, image, label",
        ),
        ("vqa", {"image": "a.jpg", "questoin": "?", "answer": "a"}, "no 'question' in its first line; did you mean 'questoin'"),
        ("nlvr2", {"image": ["a.jpg", "a.jpg"], "text": "?", "label": True}, "no 'images' in its first line; did you mean 'image'"),
    ],
)
def test_the_field_that_a_task_lacks_is_named(purpose: str, line: dict, said: str, root: Path):
    path = jsonl(root / "mine.jsonl", line)
    for place in (path, root):
        with pytest.raises(UserError, match=rf"nothing for {purpose} in it .*; {path}: {said}"):
            find.readers([str(place)], "train", purpose)


def test_a_misspelt_label_is_not_taken_for_none(root: Path):
    first = {**ABOUT, "label": "neutral"}
    with pytest.raises(UserError, match=r"q.jsonl:2: no 'label' here; did you mean 'lable'"):
        VEJsonl.open(jsonl(root / "q.jsonl", first, {**ABOUT, "lable": "neutral"}), "all")
    assert "label" not in VEJsonl.open(jsonl(root / "q.jsonl", first, ABOUT), "all")[1].labels
    typed = {"image": "a.jpg", "question": "what?", "answer_type": "other"}
    assert "answer" not in VQAJsonl.open(jsonl(root / "typed.jsonl", typed), "all")[0].labels


def test_statements_and_their_labels(root: Path):
    jsonl(root / "val.jsonl", {**ABOUT, "label": "Neutral", "group": "g"}, {**ABOUT, "label": None, "id": 7})
    jsonl(root / "train.jsonl", {**ABOUT, "label": "entailment"})
    one, silent = samples(VEJsonl.open(root, "val"))
    assert (one.key, one.images, one.texts, one.group) == ("val:1", (root / "a.jpg",), ("It sleeps.",), "g")
    assert (one.labels["label"], silent.labels) == ("neutral", {"question_id": 7})
    assert len(VEJsonl.open(root, "all")) == 3
    assert [problem.said for problem in VEJsonl.survey(root)[1]] == [f"{root}/val.jsonl:2: no label"]


def test_pairs_of_one_text_and_group_are_one_statement(root: Path):
    rows = [{**PAIR, "label": label, "group": group} for label, group in ((True, "g"), ("False", "g"), ("true", "h"), (None, "h"))]
    read = samples(NLVR2Jsonl.open(jsonl(root / "pairs.jsonl", *rows), "all"))
    assert {sample.images for sample in read} == {(root / "a.jpg", root / "cats/b.png")}
    assert [sample.labels.get("label") for sample in read] == [True, False, True, None]
    first, second, third, fourth = (sample.labels["sentence"] for sample in read)
    assert first == second != third == fourth
    lone = samples(NLVR2Jsonl.open(jsonl(root / "lone.jsonl", {**PAIR, "label": True}), "all"))[0]
    assert lone.group == "a.jpg", "without a group the first picture decides"


@pytest.mark.parametrize(
    ("cls", "line", "said"),
    [
        (VEJsonl, {**ABOUT, "label": "entailed"}, r"q.jsonl:2: 'label' is 'entailed'; did you mean 'entailment'"),
        (VEJsonl, {**ABOUT, "label": True}, r"q.jsonl:2: 'label' must be a text, not true"),
        (VEJsonl, {**ABOUT, "image": ["a.jpg"], "label": "neutral"}, r"q.jsonl:2: 'image' must be a text, not \[\"a.jpg\"\]"),
        (NLVR2Jsonl, {**PAIR, "images": ["a.jpg"], "label": True}, r"q.jsonl:2: 'images' must be a list of 2 texts, not \[\"a.jpg"),
        (NLVR2Jsonl, {**PAIR, "images": "a.jpg", "label": True}, r"q.jsonl:2: 'images' must be a list of 2 texts, not \"a.jpg\""),
        (NLVR2Jsonl, {**PAIR, "images": ["a.jpg", "z.jpg"], "label": True}, r"q.jsonl:2: no picture .*/z.jpg$"),
        (NLVR2Jsonl, {**PAIR, "label": 1}, r"q.jsonl:2: 'label' must be true or false, not 1"),
        (NLVR2Jsonl, {"images": PAIR["images"], "label": True}, r"q.jsonl:2: no 'text' here; found: images, label"),
        (NLVR2Jsonl, {**PAIR, "label": True, "id": "q:1"}, r"q.jsonl:2: q:1 is the id of .*q.jsonl:1, too"),
        (NLVR2Jsonl, {**PAIR, "label": True, "split": "val"}, r"q.jsonl:1: no split for a.jpg, while other lines have one"),
    ],
)
def test_a_statement_amiss_is_told_with_its_line(cls, line: dict, said: str, root: Path):
    first = {VEJsonl: {**ABOUT, "label": "neutral"}, NLVR2Jsonl: {**PAIR, "label": True}}[cls]
    with pytest.raises(UserError, match=said):
        cls.open(jsonl(root / "q.jsonl", first, line), "all")


# ---------------------------------------------------------------------------------------------------------- Karpathy


def test_karpathy_joins_restval_and_scores_five_captions(tmp_path: Path):
    karpathy.example(tmp_path)
    assert [len(sample.texts) for sample in samples(Karpathy.open(tmp_path, "train"))] == [6, 6, 6, 6]
    path = tmp_path / "dataset_coco.json"
    told = json.loads(path.read_text())
    told["images"][0]["split"] = "test"
    path.write_text(json.dumps(told))
    (test,) = samples(Karpathy.open(tmp_path, "test"))
    assert test.texts == tuple(f"A red dog number {k}." for k in range(5))
    with pytest.raises(UserError, match="no split 'val'; valid: test, train"):
        Karpathy.open(tmp_path, "val")
    path.write_text('{"images": [{"filename": "a.jpg"}]}')
    with pytest.raises(UserError, match=r"dataset_coco\.json:1: no 'split' here; found: filename"):
        Karpathy.open(tmp_path, "train")
