"""Every text is true of its picture and every false one false, by a checker that reads the words."""

import re

import pytest
import scene_checker as checker

from diptych.atelier.compose import SIDE, Scene
from diptych.atelier.make import Chunk, groups
from diptych.atelier.vocabulary import COLOURS, ROLES, SPLITS


def rows_of(kind: str, split: str, n: int, seed: int = 5) -> list[tuple[dict[int, Scene], dict]]:
    """Of n groups: scenes by picture id, and rows by table."""
    return [(dict(zip(ids, scenes, strict=True)), rows) for ids, scenes, rows in groups(Chunk(seed, split, kind, range(n), 1))]


@pytest.mark.parametrize("split", SPLITS)
def test_phrases_are_true_and_false_phrases_false(split):
    for scenes, rows in rows_of("regions", split, 150):
        [scene] = scenes.values()
        seen = checker.look(scene)
        for region in rows["region_descriptions"][0]["regions"]:
            assert checker.is_true(region["phrase"], seen), (region["phrase"], seen)
            assert not checker.is_true(region["false_phrase"], seen), (region["false_phrase"], seen)
            assert region["phrase"] != region["false_phrase"]
            assert 3 <= len(region["phrase"].split()) <= 10
            _check_spans(region["phrase"], region["spans"], rows["objects"][0]["objects"])


def _check_spans(text, spans, objects):
    of_id = {o["object_id"]: o for o in objects}
    for start, end, kind, thing in spans:
        said = text[start:end]
        assert (start == 0 or text[start - 1] == " ") and (end == len(text) or text[end] in " ,")
        if kind == "object" and thing is not None:
            assert said.split()[-1].startswith(of_id[thing]["names"][0][:3]) or said in {"animal", "fruit", "food", "vehicle"} | {
                "instrument", "tool", "clothing", "plant",
            }  # fmt: skip
        if kind == "colour":
            assert said in {c.word for c in COLOURS}
        if kind == "count":
            assert said.isdigit()


@pytest.mark.parametrize("split", ["train", "test-object"])
def test_captions_name_everything_and_are_true(split):
    for scenes, rows in rows_of("captions", split, 150):
        seen = checker.look(next(iter(scenes.values())))
        texts = [record["caption"] for record in rows["captions"]]
        assert len(texts) == 5
        for record in rows["captions"]:
            assert checker.caption_is_true(record["caption"], seen), (record["caption"], seen)
            assert not checker.caption_is_true(record["false_caption"], seen, complete=False), (record["false_caption"], seen)
            assert record["spans"]
            _check_spans(record["caption"], record["spans"], rows["objects"][0]["objects"])


@pytest.mark.parametrize("split", SPLITS)
def test_questions_have_their_answers_and_complements_differ(split):
    for scenes, rows in rows_of("vqa", split, 150):
        [pair] = rows["complementary_pairs"]
        answers = {}
        for question, annotation in zip(rows["questions"], rows["annotations"], strict=True):
            seen = checker.look(scenes[question["image_id"]])
            given = annotation["multiple_choice_answer"]
            assert checker.answer(question["question"], seen) == given, (question["question"], seen)
            assert {a["answer"] for a in annotation["answers"]} == {given}
            assert len(annotation["answers"]) == 10
            answers[question["question_id"]] = given
        assert len({q["question"] for q in rows["questions"]}) == 1
        assert len({answers[n] for n in pair}) == 2


def test_pairs_of_pictures_have_their_labels():
    for scenes, rows in rows_of("nlvr2", "train", 150):
        labels: dict[str, list[str]] = {}  # by sentence
        for row in rows["nlvr2"]:
            left, right = (checker.look(scenes[int(row[side][-12:-4])]) for side in ("left_url", "right_url"))
            assert str(_of_pair(row["sentence"].lower().rstrip("."), left, right)) == row["label"], (row["sentence"], left, right)
            labels.setdefault(row["sentence"], []).append(row["label"])
        first, second = labels.values()
        assert sorted(first) == ["False", "False", "True", "True"] and all(a != b for a, b in zip(first, second, strict=True))
        assert len({(row["left_url"], row["right_url"]) for row in rows["nlvr2"]}) == 4
        assert len({row["identifier"] for row in rows["nlvr2"]}) == 8


def _of_pair(text, left, right):
    m = re.search(r"(?:contains? |least \d |than \d |number of |numbers of )(?:more |at least as many |no |an? )?((?:\w+ )?\w+?)"
                  r"(?: than the| as the| in total|$)", text)  # fmt: skip
    assert m, text
    a, b = len(checker.matching(m[1], left)), len(checker.matching(m[1], right))
    if text.startswith("the right image"):
        a, b = b, a
    for words, holds in {
        "both images": a and b, "at most one": not (a and b), "at least one image": a or b, "neither": not a and not b,
        "contains more": a > b, "at least as many": a >= b, "same number": a == b, "different numbers": a != b,
        "contains no": not a, "contains a": a,
    }.items():  # fmt: skip
        if words in text:
            return bool(holds)
    m = re.match(r"there are (at least|fewer than) (\d)", text)
    assert m, text
    return a + b >= int(m[2]) if m[1] == "at least" else a + b < int(m[2])


def test_entailment_follows_from_the_quarter_that_is_seen():
    for scenes, rows in rows_of("snli_ve", "train", 150):
        by_picture: dict[str, list[str]] = {}
        by_sentence: dict[str, list[str]] = {}
        for row in rows["snli_ve"]:
            scene = scenes[int(row["Flickr30K_ID"][-8:])]
            where = re.search(r"(top|bottom) (left|right)", row["sentence2"])
            assert where
            covered = ("top left", "top right", "bottom left", "bottom right")[scene.curtain]
            there = [s for s in checker.look(scene) if checker.quarter(s) == where[0]]
            claim = re.sub(
                r"^there is (.*) in the .*$|^the thing in the .* is (.*)$", r"\1\2", row["sentence2"].lower().rstrip(".")
            )
            label = "neutral" if where[0] == covered else "entailment" if checker.matching(claim, there) else "contradiction"
            assert row["gold_label"] == label, (row, there)
            assert not any(checker.quarter(s) == covered for s in checker.look(scene))
            by_picture.setdefault(row["Flickr30K_ID"], []).append(label)
            by_sentence.setdefault(row["sentence2"], []).append(label)
        assert all(sorted(labels) == ["contradiction", "entailment", "neutral"] for labels in by_picture.values())
        assert all(len(labels) % 3 == 0 for labels in by_sentence.values())


@pytest.mark.parametrize("split", ["train", "test-style"])
def test_one_answer_and_one_rationale_are_right(split):
    for scenes, rows in rows_of("vcr", split, 100):
        [scene] = scenes.values()
        places = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in (t.box for t in scene.things)]
        for row in rows["vcr"]:
            [person] = row["question"][2]
            right = [role for role in ROLES if row["answer_choices"][row["answer_label"]][2:-1] == role.deed.split()]
            assert scene.things[person].slug in right[0].slugs
            assert row["objects"][:2] == ["person", "person"]
            holds = []
            for tokens in row["rationale_choices"]:
                assert tokens[0] == [person]
                assert right[0].word in " ".join(str(t) for t in tokens)
                [other] = next(t for t in tokens[1:] if isinstance(t, list))
                words = " ".join(t for t in tokens[:-1] if isinstance(t, str))
                relation = re.search(r"left of|right of|above|below", words)
                assert relation
                a, b = (checker.Seen("", "", "", "", *places[i]) for i in (person, other))
                colour = COLOURS[scene.things[other].colour].word
                holds.append(checker.related(a, relation[0], b) and words.endswith(colour))
            assert holds == [n == row["rationale_label"] for n in range(4)]


def test_expressions_mean_one_thing():
    kinds: dict[str, int] = {}
    for scenes, rows in rows_of("refcoco", "train", 400):
        [scene] = scenes.values()
        seen = checker.look(scene)
        assert len(rows["refs"]) == len(scene.things)
        for ref, target in zip(rows["refs"], seen, strict=True):
            words = ref["sentences"][0]["sent"]
            kinds[ref["kind"]] = kinds.get(ref["kind"], 0) + 1
            if m := re.fullmatch(r"the (\w+) (left of|right of|above|below) the (.+)", words):
                [anchor] = checker.matching(m[3], seen)
                found = [s for s in checker.matching(m[1], seen) if checker.related(s, m[2], anchor)]
            else:
                found = checker.matching(words.removeprefix("the "), seen)
            assert found == [target], (words, seen)
    shares = {kind: n / sum(kinds.values()) for kind, n in kinds.items()}
    assert all(0.27 < share < 0.4 for share in shares.values()), shares


def test_boxes_lie_in_the_picture():
    for kind in ("captions", "vqa", "snli_ve", "vcr", "refcoco"):
        for scenes, _ in rows_of(kind, "train", 60):
            for scene in scenes.values():
                boxes = [t.box for t in scene.things]
                assert all(0 <= x1 < x2 <= SIDE and 0 <= y1 < y2 <= SIDE for x1, y1, x2, y2 in boxes)
                for n, a in enumerate(boxes):
                    assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[:n])
