"""Every reader on its own example in the true layout, and what it says when something is missing or broken."""

import hashlib
import importlib
import json
import pickle
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diptych.data
from diptych.config import UserError
from diptych.contracts import Reader
from diptych.data import coco_captions, files, karpathy, nlvr2, refcoco, snli_ve, vcr, visual_genome, vqa_v2
from diptych.data.coco_captions import COCOCaptions
from diptych.data.coco_instances import COCOInstances
from diptych.data.concepts import Concepts
from diptych.data.languages import Languages
from diptych.data.nlvr2 import NLVR2
from diptych.data.picture import decode
from diptych.data.snli_ve import SNLIVE
from diptych.data.visual_genome import VisualGenome
from diptych.data.vqa_v2 import VQAv2
from diptych.data.wit import WIT

MODULES = [importlib.import_module(f"diptych.data.{m.name}") for m in pkgutil.iter_modules(diptych.data.__path__)]
READERS = {
    module: next(
        c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "recognises")
    )
    for module in MODULES
    if hasattr(module, "example")
}


PURPOSES = {"pretrain", "vqa", "ve", "nlvr2", "vcr", "rec", "retrieval", "documents", "probe", "translations", "boxes"}
SAME_FILES = {(Concepts, WIT), (Concepts, Languages), (Languages, WIT), (Languages, Concepts)}  # for another purpose


def open_any(cls, root, limit=None):
    """The example's samples, whatever its splits."""
    for split in ("all", "train", "val"):
        try:
            return cls.open(root, split, limit)
        except UserError:
            continue
    raise AssertionError(f"{cls.__name__} opens neither all, train nor val of its own example")


@pytest.mark.parametrize("module", READERS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_a_reader_reads_its_example(module, tmp_path):
    cls = READERS[module]
    assert not cls.recognises(tmp_path)
    assert not cls.recognises(tmp_path / "nowhere")
    module.example(tmp_path)
    assert cls.recognises(tmp_path)
    assert cls.purposes and cls.purposes <= PURPOSES
    assert cls.looks_for
    reader = open_any(cls, tmp_path)
    assert isinstance(reader, Reader)
    samples = [reader[i] for i in range(len(reader))]
    assert len(samples) == 4
    assert len({sample.key for sample in samples}) == 4
    for sample in samples:
        assert sample.texts or "label" in sample.labels or (sample.boxes and cls.purposes == {"boxes"})
        assert all(text == text.strip() != "" for text in sample.texts)
        if not cls.purposes <= {"documents", "translations"}:
            assert decode(sample.images[0]).shape == (32, 48, 3)
        if "vqa" in cls.purposes:
            assert len(sample.labels["answers"]) == 10
    assert len(open_any(cls, tmp_path, limit=2)) == 2
    assert reader.fingerprint == open_any(cls, tmp_path).fingerprint != open_any(cls, tmp_path, limit=2).fingerprint
    assert pickle.loads(pickle.dumps(reader))[3] == samples[3], "loader processes may be spawned"
    for other_module, other in READERS.items():
        recognised = other.recognises(tmp_path)
        if (cls, other) not in SAME_FILES:
            assert recognised == (other_module is module), f"{other.__name__} and this example"


def test_the_error_for_a_missing_file_names_it_and_what_is_there(tmp_path):
    vqa_v2.example(tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"VQA v2 needs v2_OpenEnded_mscoco_val2014_questions.json in .*elsewhere.json.*val2014/"):
        VQAv2.open(tmp_path, "val")
    (tmp_path / "elsewhere.json").rename(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json")
    with pytest.raises(UserError, match=r"no split 'vall'; did you mean 'val'"):
        VQAv2.open(tmp_path, "vall")
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match=r"v2_mscoco_val2014_annotations\.json"):
        VQAv2.open(tmp_path, "val")


def _twice(path, key=None):
    """The file with its first entry once more at its end."""
    if path.suffix == ".p":
        entries = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps([*entries, entries[0]], protocol=0))
    elif key:
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, key: [*document[key], document[key][0]]}))
    else:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[0]]))


@pytest.mark.parametrize(
    ("module", "file", "key", "said"),
    [
        (vqa_v2, "v2_OpenEnded_mscoco_val2014_questions.json", "questions", "question 42000 is there twice (1 repeated in all)"),
        (vqa_v2, "v2_mscoco_val2014_annotations.json", "annotations", ""),  # all are found before it comes
        (snli_ve, "snli_ve_dev.jsonl", None, "pair 36979.jpg#0r0e is there twice"),
        (nlvr2, "dev.json", None, "identifier dev-850-0-0 is there twice"),
        (vcr, "val.jsonl", None, "question val-0 is there twice"),
        (refcoco, "refs(unc).p", None, "ref 0 is there twice"),
        (karpathy, "dataset_coco.json", "images", "picture 0 is there twice"),
    ],
)
def test_what_stands_in_a_file_twice_is_not_scored_twice(module, file, key, said, tmp_path):
    module.example(tmp_path)
    split = "train" if module is karpathy else "val"
    _twice(tmp_path / file, key)
    if said:
        with pytest.raises(UserError) as refused:
            READERS[module].open(tmp_path, split)
        assert f"{tmp_path / file}: {said}" in str(refused.value)
    else:
        assert len(READERS[module].open(tmp_path, split)) == 4


def test_vqa_refuses_an_annotation_that_answers_nothing_and_one_that_answers_again(tmp_path):
    vqa_v2.example(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    first, *others = json.loads(path.read_text())["annotations"]
    for annotations, said in (
        ([{**first, "answers": []}, *others], "the annotation of question 42000 has no answers"),
        ([first, first, *others], "the annotation of question 42000 is there twice"),
    ):
        path.write_text(json.dumps({"annotations": annotations}))
        with pytest.raises(UserError, match=said):
            VQAv2.open(tmp_path, "val")


def test_missing_pictures_are_reported_at_once(tmp_path):
    coco_captions.example(tmp_path)
    (tmp_path / "val2014").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"COCO_val2014_000000000009.jpg is in none of .*/val2014.*pictures/"):
        COCOCaptions.open(tmp_path, "val")


def test_published_test_questions_have_no_answers(tmp_path):
    vqa_v2.example(tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").rename(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json")
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    (tmp_path / "val2014").rename(tmp_path / "test2015")
    for picture in (tmp_path / "test2015").iterdir():
        picture.rename(picture.with_name(picture.name.replace("val2014", "test2015")))
    sample = VQAv2.open(tmp_path, "test-dev")[0]
    assert sample.labels["question_id"] == 42000
    assert "answers" not in sample.labels


def test_vqa_labels(tmp_path):
    vqa_v2.example(tmp_path)
    reader = VQAv2.open(tmp_path, "val")
    first, second = reader[0], reader[1]
    assert first.labels["answers"] == ("maybe", *["yes"] * 9)
    assert first.labels["pair"] == second.labels["pair"] != reader[2].labels["pair"]
    assert (first.labels["question_type"], first.labels["answer_type"]) == ("is the", "yes/no")
    assert first.group == "42"


def test_snli_ve_leaves_out_what_nobody_agreed_on(tmp_path):
    snli_ve.example(tmp_path)
    reader = SNLIVE.open(tmp_path, "val")
    assert [reader[i].labels["label"] for i in range(4)] == ["entailment", "neutral", "contradiction", "neutral"]
    assert (reader[1].key, reader[1].group) == ("36979.jpg#0r2e", "36979")
    path = tmp_path / "snli_ve_dev.jsonl"
    path.write_text(path.read_text().replace("Flikr30kID", "Flickr30K_ID"))
    assert SNLIVE.open(tmp_path, "dev")[3].images == (tmp_path / "flickr30k-images" / "65567.jpg",)
    with pytest.raises(UserError, match=r"SNLI-VE in .* has no split 'train'; valid: dev"):
        SNLIVE.open(tmp_path, "train")
    path.write_text(
        path.read_text().replace('"neutral", "sentence1"', '"sentence1"').replace('"gold_label": "-"', '"gold_label": "?"')
    )
    with pytest.raises(UserError, match=r"snli_ve_dev.jsonl:2: 'gold_label' is '\?', not entailment, neutral, contradiction or -"):
        SNLIVE.open(tmp_path, "dev")
    path.write_text('{"gold_label": "neutral", "sentence2": "x", "pairID": "1", "FlickrID": "36979"}')
    with pytest.raises(UserError, match=r"snli_ve_dev.jsonl:1: no 'Flickr30K_ID' here; found: FlickrID, gold_label"):
        SNLIVE.open(tmp_path, "dev")


def test_nlvr2_pictures_labels_and_what_is_one_sentence(tmp_path):
    nlvr2.example(tmp_path)
    reader = NLVR2.open(tmp_path, "val")
    first, second, third, _ = (reader[i] for i in range(4))
    assert first.images == (tmp_path / "dev" / "dev-850-0-img0.png", tmp_path / "dev" / "dev-850-0-img1.png")
    assert [first.labels["label"], second.labels["label"]] == [True, False]
    assert first.labels["sentence"] == second.labels["sentence"] == "dev-850--0" != third.labels["sentence"]
    assert (first.group, third.group) == ("dev-850", "dev-851")
    (tmp_path / "dev" / "dev-851-0-img1.png").rename(tmp_path / "dev" / "elsewhere.png")
    with pytest.raises(UserError, match=r"dev.json:3: no picture .*dev-851-0-img1.png, and a sentence is about two$"):
        NLVR2.open(tmp_path, "dev")
    assert len(NLVR2.open(tmp_path, "dev", limit=2)) == 2


def test_nlvr2_trains_on_pictures_in_folders(tmp_path):
    nlvr2.example(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "dev.json").read_text().splitlines()]
    for n, row in enumerate(rows):
        row |= {"directory": 63 + n % 2, "identifier": row["identifier"].replace("dev", "train")}
        files.example_pictures(
            tmp_path / "images/train" / str(63 + n % 2), [f"{row['identifier'][:-2]}-img{k}.png" for k in (0, 1)]
        )
    (tmp_path / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert NLVR2.open(tmp_path, "train")[1].images[1] == tmp_path / "images/train/64/train-850-1-img1.png"
    (tmp_path / "test1.json").write_text(json.dumps({**rows[0], "label": "Yes"}))
    with pytest.raises(UserError, match=r"""test1.json:1: 'label' must be "True" or "False", not "Yes"$"""):
        NLVR2.open(tmp_path, "test")
    (tmp_path / "test1.json").write_text(json.dumps({**rows[0], "identifier": "test1-7"}))
    with pytest.raises(UserError, match=r"test1.json:1: 'identifier' must be split-set-pair-sentence, not test1-7"):
        NLVR2.open(tmp_path, "test")


def test_visual_genome_boxes_names_and_attributes(tmp_path):
    visual_genome.example(tmp_path)
    reader = VisualGenome.open(tmp_path, "all")
    sample = reader[2]
    assert sample.images[0].parent.name == "VG_100K_2"
    assert sample.texts == ("a red dog number 3", "the dog is left of the pear")
    assert [(box.name, box.attributes) for box in sample.boxes] == [("dog", ("red",)), ("pear", ())]
    assert sample.boxes[0].xyxy == (4, 6, 24, 16)
    parts = []
    for split in ("train", "val", "test"):
        try:
            part = VisualGenome.open(tmp_path, split)
        except UserError:
            continue
        parts += [part[i].key for i in range(len(part))]
    assert sorted(parts) == ["1", "2", "3", "4"], "the hashed splits share nothing and lose nothing"


def test_visual_genome_spans_point_at_boxes(tmp_path):
    visual_genome.example(tmp_path)
    path = tmp_path / "region_descriptions.json"
    pictures = json.loads(path.read_text())
    region = pictures[0]["regions"][0]
    region |= {"phrase": "a red dog", "false_phrase": "a red pear", "spans": [[2, 5, "colour", 100], [6, 9, "object", 100]]}
    path.write_text(json.dumps(pictures))
    sample = VisualGenome.open(tmp_path, "all")[0]
    assert sample.false_texts == ("a red pear", "")
    assert [(p.kind, sample.texts[0][p.start : p.end], sample.boxes[p.box].name) for p in sample.phrases[0]] == [
        ("colour", "red", "dog"),
        ("object", "dog", "dog"),
    ]
    assert sample.phrases[1] == ()


def test_coco_boxes(tmp_path):
    coco_captions.example(tmp_path)
    sample = COCOCaptions.open(tmp_path, "val")[1]
    assert sample.boxes[0].xyxy == (4.0, 6.0, 24.0, 16.0)
    assert sample.boxes[0].name == "dog"
    assert sample.labels == {"category_ids": {"dog": 18}}
    assert len(sample.texts) == 5


@pytest.mark.parametrize("reader", [COCOCaptions, COCOInstances])
def test_a_crowd_is_no_box(reader, tmp_path):
    coco_captions.example(tmp_path)
    path = tmp_path / "annotations" / "instances_val2014.json"
    whole = json.loads(path.read_text())
    whole["annotations"][0]["iscrowd"] = 0
    whole["annotations"].insert(0, {**whole["annotations"][0], "id": 900, "iscrowd": 1, "bbox": [0, 0, 48, 32]})
    path.write_text(json.dumps(whole))
    opened = reader.open(tmp_path, "val")
    assert [[box.xyxy for box in opened[i].boxes] for i in range(4)] == [[(4, 6, 24, 16)]] * 4


@pytest.mark.parametrize("reader", [COCOCaptions, COCOInstances])
@pytest.mark.parametrize("bbox", [[60, 6, 20, 10], [4, -11, 20, 10], [4, 6, -3, 10], [40, 6, 20, 10], [4, 6, 0, 10]])
def test_a_box_reaches_out_of_its_picture_or_is_flat_but_is_not_nowhere(reader, bbox, tmp_path):
    coco_captions.example(tmp_path)
    path = tmp_path / "annotations" / "instances_val2014.json"
    whole = json.loads(path.read_text())
    whole["annotations"][1]["bbox"] = bbox
    path.write_text(json.dumps(whole))
    if bbox in ([40, 6, 20, 10], [4, 6, 0, 10]):  # the published data has such
        assert len(reader.open(tmp_path, "val")[1].boxes) == 1
        return
    with pytest.raises(UserError, match=rf"instances_val2014\.json: instance 25 has the box {bbox[0]}, .*48 x 32 pixels"):
        reader.open(tmp_path, "val")


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_elements_equals_json_load_whatever_the_window(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", chunk)
    content = [{"a": [1, 2.5, {"b": 'x]},"\\ä'}], "c": None}, 12345, "tail", [], {}]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content, indent=2))
    assert list(files.elements(path)) == content
    path.write_text(json.dumps({"info": {"list": [0]}, "n": 7, "list": content, "after": [1]}))
    assert list(files.elements(path, "list")) == content
    assert list(files.elements(path, "after")) == [1]
    with pytest.raises(UserError, match="no list 'absent'"):
        list(files.elements(path, "absent"))
    path.write_text("[]")
    assert list(files.elements(path)) == []


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_broken_json_is_located(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", chunk)
    path = tmp_path / "list.json"
    path.write_text('[\n{"a": 1},\n{"a": 2},\n{"a" 3}\n]')
    with pytest.raises(UserError, match=r"list.json:4: broken JSON"):
        list(files.elements(path))
    path.write_text('[\n{"a": 1},\n{"a": 2}')
    with pytest.raises(UserError, match=r"list.json:3: broken JSON"):
        list(files.elements(path))
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(UserError, match="not a text in UTF-8"):
        list(files.elements(path))


_LEAVES = st.sampled_from([str, int, files.NUMBER, int | str, int | None, object])
_SHAPES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=1)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["a", "a?", "b", "b?"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_NUMBERS = st.sampled_from([0, 1, -(2**63), 2**63 - 1, 2**63, 1.5, float("nan"), float("inf")])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.just("text"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(_SHAPES, _VALUES)
def test_what_does_not_fit_is_named_and_nothing_else(shape, value):
    assert files.fits(shape)(value) == (not files.amiss(value, shape))


def test_hashed_split_is_stable_and_of_the_promised_size():
    splits = [files.hashed_split(f"picture {n}.jpg") for n in range(4000)]
    assert abs(splits.count("train") / 4000 - 0.9) < 0.02
    assert abs(splits.count("val") / 4000 - 0.05) < 0.015
    assert hashlib.sha256("".join(s[1] for s in splits).encode()).hexdigest()[:16] == "dd5bf715428aa9a9"
