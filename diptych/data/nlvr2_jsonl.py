"""Your own statements about two pictures: a jsonl file, one pair a line (data/jsonl.py).

    {"images": ["cats/tom.jpg", "cats/kit.jpg"], "text": "One cat is asleep.", "label": true}

The first picture is the left one. The label is true or false, or null where it is to be found out. Lines of one text (and one
group) are one statement, which is told consistently if it is told rightly of all its pairs. Further fields: "id", "split",
"group". Without splits a hash of the first picture's path decides: pairs that share another picture may be torn apart, unless
their "group" is one.
"""

from __future__ import annotations

from pathlib import Path

from diptych.data import files
from diptych.data.jsonl import Asked, Jsonl, Row, write_example


class NLVR2Jsonl(Jsonl):
    purposes = frozenset({"nlvr2"})
    looks_for = "a .jsonl file of {images, text, label}"
    marks = frozenset({"images", "text", "label"})

    @staticmethod
    def line(row: Row) -> Asked:
        images, text = row.texts("images", count=2), row.text("text")
        truth = {"label": row.truth("label")} if "label" in row else {}
        return row.line(images, text, {"sentence": (str(row.fields.get("group") or ""), text), **truth})


def example(root: Path) -> None:
    """Two statements about two pairs."""
    files.example_pictures(root / "cats", ["tom.jpg", "kit.jpg", "pip.jpg"])
    rows = [
        {"images": ["cats/tom.jpg", f"cats/{other}.jpg"], "text": text, "label": label}
        for text, labels in {"One cat is asleep.": (True, False), "Both cats are asleep.": (False, True)}.items()
        for other, label in zip(("kit", "pip"), labels, strict=True)
    ]
    write_example(root / "pairs.jsonl", rows)
