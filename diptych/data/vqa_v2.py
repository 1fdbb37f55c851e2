"""VQA v2: questions about COCO pictures, ten answers each (Goyal et al., CVPR 2017).

Licence: annotations CC-BY 4.0. Get it at visualqa.org/download.html: questions, annotations and complementary pairs of v2, and
COCO's pictures of train2014, val2014, test2015. 443,757 train, 214,354 val, 447,793 test questions (107,394 of them test-dev); the
answers of the test questions are not public: a prediction file goes to the benchmark's server.

    published                                                 embedded scenes
    DIR/v2_OpenEnded_mscoco_train2014_questions.json          DIR/vqa/v2_OpenEnded_mscoco_train_questions.json
    DIR/v2_mscoco_train2014_annotations.json                  DIR/vqa/v2_mscoco_train_annotations.json
    DIR/v2_mscoco_train2014_complementary_pairs.json          DIR/vqa/v2_mscoco_train_complementary_pairs.json
    DIR/train2014/COCO_train2014_000000000009.jpg             DIR/images/train/00000009.jpg

Labels of a sample: question_id, question_type, answer_type, answer (the most frequent), answers (ten), pair (the same for two
questions of a complementary pair). Its group is the picture's, or what the embedded scenes name as "group". Questions about one
picture are correlated, so intervals resample groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files

_NAME = "VQA v2"
_YEAR = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
_PICTURES = {"test-dev": "test2015"}  # test-dev is a part of test


class _Question(NamedTuple):
    number: int
    image_id: int
    text: str


class _Truth(NamedTuple):
    question_type: str
    answer_type: str
    answer: str
    answers: tuple[str, ...]
    group: str


_ASKED = {"question_id": int, "image_id": int, "question": str}
_ANSWERED = {
    **dict.fromkeys(("question_type", "answer_type", "multiple_choice_answer"), str),
    **{"question_id": int, "answers": [{"answer": str}], "group?": int | str},
}


class VQAv2:
    purposes = frozenset({"vqa"})
    looks_for = "v2_OpenEnded_mscoco_SPLIT2014_questions.json, in DIR or DIR/vqa"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_splits(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> VQAv2:
        def lies(pattern: str) -> list[str]:
            names = [pattern.format(name) for name in dict.fromkeys((split, _YEAR.get(split, split)))]
            return [f"{folder}{name}" for name in reversed(names) for folder in ("", "vqa/")]

        splits = _splits(root)
        if splits and split not in splits and split not in _YEAR:
            raise files.no_split(_NAME, split, splits, root)
        questions = files.needed(_NAME, root, lies("v2_OpenEnded_mscoco_{}_questions.json"))
        annotations = lies("v2_mscoco_{}_annotations.json")
        truths = files.first_of(root, annotations)
        if truths is None and not split.startswith("test"):
            files.needed(_NAME, root, annotations)
        pairs = files.first_of(root, lies("v2_mscoco_{}_complementary_pairs.json"))
        return cls(root, split, questions, truths, pairs, limit)

    def __init__(self, root: Path, split: str, questions: Path, truths: Path | None, pairs: Path | None, limit: int | None):
        self._files, self._settings = [path for path in (questions, truths, pairs) if path], (split, limit)
        self._questions: list[_Question] = []
        for entry in files.elements(questions, "questions", of=_ASKED):
            self._questions.append(_Question(entry["question_id"], entry["image_id"], entry["question"]))
            if len(self._questions) == limit:
                break
        if not self._questions:
            raise UserError(f"{questions}: no question in it")
        files.refuse_repeated(questions, "question", [question.number for question in self._questions])
        wanted = {question.number for question in self._questions}
        self._truths: dict[int, _Truth] = {}
        for number, truth in _truths(truths) if truths else ():
            if number in wanted:
                if number in self._truths:
                    raise UserError(f"{truths}: the annotation of question {number} is there twice")
                self._truths[number] = truth
                if len(self._truths) == len(wanted):
                    break
        if truths and (unanswered := next((q for q in self._questions if q.number not in self._truths), None)):
            raise UserError(f"{truths}: no annotation of question {unanswered.number}, which {questions.name} asks")
        self._pair_of = {}
        for first, second in files.elements(pairs, of=(int, int)) if pairs else ():
            self._pair_of[first] = self._pair_of[second] = f"{first}-{second}"
        year = _PICTURES.get(split, _YEAR.get(split, split))
        self._names = (f"COCO_{year}_{{:012d}}.jpg", "{:08d}.jpg", "{:012d}.jpg")
        self._folder, self._name = self._find_pictures(root, (year, f"images/{year}", f"images/{split}", "images", ""))

    def _find_pictures(self, root: Path, places: tuple[str, ...]) -> tuple[Path, str]:
        first = self._questions[0].image_id
        for name in self._names:
            for place in places:
                if (root / place / name.format(first)).is_file():
                    return root / place, name
        raise files.missing_picture(_NAME, root, places, self._names[0].format(first))

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Sample:
        question = self._questions[index]
        labels: dict[str, Any] = {"question_id": question.number, "pair": self._pair_of.get(question.number, "")}
        truth = self._truths.get(question.number)
        if truth:
            labels |= {"question_type": truth.question_type, "answer_type": truth.answer_type}
            labels |= {"answer": truth.answer, "answers": truth.answers}
        return Sample(
            key=str(question.number),
            images=(self._folder / self._name.format(question.image_id),),
            texts=(question.text,),
            labels=labels,
            group=truth.group if truth and truth.group else str(question.image_id),
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._files, *self._settings)


def _splits(root: Path) -> list[str]:
    published = {year: split for split, year in _YEAR.items()}
    found = [path for folder in ("vqa", ".") for path in sorted((root / folder).glob("v2_OpenEnded_mscoco_*_questions.json"))]
    names = [path.stem.removeprefix("v2_OpenEnded_mscoco_").removesuffix("_questions") for path in found]
    return list(dict.fromkeys(published.get(name, name) for name in names))


def _truths(path: Path) -> Iterator[tuple[int, _Truth]]:
    """(question id, truth); equal strings are kept once, for ten answers to 400,000 questions are mostly "yes"."""
    for entry in files.elements(path, "annotations", of=_ANSWERED):
        if not entry["answers"]:
            raise UserError(f"{path}: the annotation of question {entry['question_id']} has no answers")
        yield (
            entry["question_id"],
            _Truth(
                intern(entry["question_type"]),
                intern(entry["answer_type"]),
                intern(entry["multiple_choice_answer"]),
                tuple(intern(answer["answer"]) for answer in entry["answers"]),
                str(entry.get("group") or ""),
            ),
        )


def example(root: Path) -> None:
    """Two complementary pairs of 2014's val in the published layout."""
    images = (42, 73, 74, 133)
    files.example_pictures(root / "val2014", [f"COCO_val2014_{n:012d}.jpg" for n in images])
    questions, annotations = [], []
    for n, (image_id, kind, answer) in enumerate(
        zip(images, ("is the", "is the", "what color is the", "what color is the"), ("yes", "no", "red", "blue"), strict=True)
    ):
        number = image_id * 1000 + n % 2
        questions.append({"image_id": image_id, "question_id": number, "question": f"{kind.capitalize()} dog left?"})
        answers = [{"answer": answer if k else "maybe", "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)]
        kinds = {"question_type": kind, "answer_type": "yes/no" if n < 2 else "other"}
        annotations.append(
            {"image_id": image_id, "question_id": number, "multiple_choice_answer": answer, "answers": answers, **kinds}
        )
    pairs = [[questions[n]["question_id"], questions[n + 1]["question_id"]] for n in (0, 2)]
    for name, content in (
        ("v2_OpenEnded_mscoco_val2014_questions", {"info": {}, "questions": questions}),
        ("v2_mscoco_val2014_annotations", {"info": {}, "annotations": annotations}),
        ("v2_mscoco_val2014_complementary_pairs", pairs),
    ):
        (root / f"{name}.json").write_text(json.dumps(content))
