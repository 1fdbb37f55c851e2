"""Your own questions with answers to choose from: a jsonl file, one a line (data/jsonl.py).

    {"image": "cats/tom.jpg", "question": "What will it do next?", "answers": ["Sleep.", "Eat.", "Run away."], "right": 0}

"right" is the place of the right answer, counted from 0, or the answer itself; null where it is to be found out. Two answers at
least, as many as you like. Further fields: "id", "split", "group".
"""

from __future__ import annotations

from pathlib import Path

from diptych.config import UserError, nearest
from diptych.data import files
from diptych.data.jsonl import Asked, Jsonl, Row, write_example


class VCRJsonl(Jsonl):
    purposes = frozenset({"vcr"})
    looks_for = "a .jsonl file of {image, question, answers, right}"
    marks = frozenset({"image", "question", "answers", "right"})
    answer = "right"

    @staticmethod
    def line(row: Row) -> Asked:
        answers = row.texts("answers")
        if len(answers) < 2:
            raise UserError(f"{row.where}: 'answers' must be two or more to choose from, not {len(answers)}")
        if len(set(answers)) < len(answers):
            twice = next(answer for answer in answers if answers.count(answer) > 1)
            raise UserError(f"{row.where}: '{twice}' stands twice among the 'answers', so that none of the two is right alone")
        labels: dict[str, object] = {"choices": tuple(answers)}
        if "right" in row:
            right = _place(row, answers)
            labels |= {"right": right, "answer": answers[right]}
        return row.line([row.text("image")], row.text("question"), labels)


def _place(row: Row, answers: list[str]) -> int:
    said = row.given("right")
    if type(said) is int:
        if not 0 <= said < len(answers):
            raise UserError(f"{row.where}: 'right' must be 0 to {len(answers) - 1}, or one of the answers, not {said}")
        return said
    if (text := row.text("right")) not in answers:
        raise UserError(f"{row.where}: 'right' is '{text}', which is none of the answers{nearest(text, answers)}")
    return answers.index(text)


def example(root: Path) -> None:
    """Two questions about each of two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    answers = ["Sleep.", "Eat.", "Run away."]
    rows = [
        {"image": f"cats/{name}.jpg", "question": question, "answers": answers, "right": right}
        for name, right in (("tom", 0), ("kit", "Eat."))
        for question in ("What will it do?", "What would it like?")
    ]
    write_example(root / "choices.jsonl", rows)
