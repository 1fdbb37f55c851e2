"""Your own questions about pictures: a jsonl file, one question a line (data/jsonl.py).

    {"image": "cats/tom.jpg", "question": "is the cat asleep?", "answer": "yes"}       or "answers": ["yes", "yes", "no"]

Further fields: "question_id", "question_type" (scores are broken down by it), "split", "group". Fewer than ten answers stand for
ten annotators, each in turn: one answer counts in full, and two are both right. Answers are kept as the metric writes an answer
("Two dogs" is "2 dogs"): the official scorer does that to predictions alone, and an annotator's "Two" can then never be hit.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from diptych.data import files
from diptych.data.jsonl import Asked, Jsonl, Row, write_example
from diptych.metrics.vqa_accuracy import normalised, ten


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
        if answers := [normalised(answer) or answer for answer in answers]:
            labels |= {"answer": Counter(answers).most_common(1)[0][0], "answers": ten(answers)}
        return row.line([image], question, labels)


def example(root: Path) -> None:
    """Four questions about two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    asked = [("tom", "is the cat asleep?", "yes"), ("tom", "what colour is it?", "grey"), ("kit", "is the cat asleep?", "no")]
    rows: list[dict[str, Any]] = [
        {"image": f"cats/{name}.jpg", "question": question, "answer": answer} for name, question, answer in asked
    ]
    rows.append({"image": "cats/kit.jpg", "question": "what is it?", "answers": ["kitten", "cat", "kitten"]})
    write_example(root / "questions.jsonl", rows)
