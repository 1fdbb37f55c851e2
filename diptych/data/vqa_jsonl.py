"""Your own questions about pictures: a jsonl file, one question a line (data/jsonl.py).

    {"image": "cats/tom.jpg", "question": "is the cat asleep?", "answer": "yes"}       or "answers": ["yes", "yes", "no"]

Further fields: "question_id", "question_type" (scores are broken down by it), "split", "group". Fewer than ten answers stand for
ten annotators, each in turn: one answer counts in full, and two are both right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.data import files
from diptych.data.jsonl import Asked, Jsonl, Row, write_example

_ANNOTATORS = 10


class VQAJsonl(Jsonl):
    purposes = frozenset({"vqa"})
    looks_for = "a .jsonl file of {image, question, answer}"
    marks = frozenset({"question"})
    unlike = frozenset({"right", "answer_choices"})  # a choice among its answers: not VQA
    answer, number = "answer", "question_id"

    @staticmethod
    def line(row: Row) -> Asked:
        image, question = row.text("image"), row.text("question")
        answers = row.texts("answers") if "answers" in row.fields else [row.text("answer")] if row.has("answer") else []
        labels: dict[str, Any] = {"question_type": str(row.fields.get("question_type") or "")}
        if answers:
            labels |= {"answer": Counter(answers).most_common(1)[0][0], "answers": _ten(answers)}
        return row.line([image], question, labels)


def _ten(answers: Sequence[str]) -> tuple[str, ...]:
    """Ten annotators out of few answers, each in turn; ten or more stay as they are."""
    return tuple(answers[n % len(answers)] for n in range(max(_ANNOTATORS, len(answers))))


def example(root: Path) -> None:
    """Four questions about two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    asked = [("tom", "is the cat asleep?", "yes"), ("tom", "what colour is it?", "grey"), ("kit", "is the cat asleep?", "no")]
    rows: list[dict[str, Any]] = [
        {"image": f"cats/{name}.jpg", "question": question, "answer": answer} for name, question, answer in asked
    ]
    rows.append({"image": "cats/kit.jpg", "question": "what is it?", "answers": ["kitten", "cat", "kitten"]})
    write_example(root / "questions.jsonl", rows)
