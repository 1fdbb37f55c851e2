"""Your own statements about pictures: a jsonl file, one a line (data/jsonl.py).

    {"image": "cats/tom.jpg", "text": "The cat is asleep.", "label": "entailment"}

The label is entailment, contradiction, or neutral where the picture leaves it open; null where it is to be found out. Further
fields: "id", "split", "group".
"""

from __future__ import annotations

from pathlib import Path

from diptych.data import files
from diptych.data.jsonl import Asked, Jsonl, Row, write_example
from diptych.data.snli_ve import LABELS


class VEJsonl(Jsonl):
    purposes = frozenset({"ve"})
    looks_for = "a .jsonl file of {image, text, label}"
    marks = frozenset({"image", "text", "label"})

    @staticmethod
    def line(row: Row) -> Asked:
        labels = {"label": row.choice("label", LABELS)} if "label" in row else {}
        return row.line([row.text("image")], row.text("text"), labels)


def example(root: Path) -> None:
    """Two statements about each of two pictures."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg"])
    said = {"A cat is asleep.": ("entailment", "contradiction"), "The cat is called Tom.": ("neutral", "neutral")}
    rows = [
        {"image": f"cats/{name}.jpg", "text": text, "label": labels[n]}
        for n, name in enumerate(("tom", "kit"))
        for text, labels in said.items()
    ]
    write_example(root / "statements.jsonl", rows)
