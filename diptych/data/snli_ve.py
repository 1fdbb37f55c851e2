"""SNLI-VE: does a picture entail a sentence, contradict it, or leave it open (Xie et al., "Visual Entailment", 2019)?

Licence: SNLI's CC-BY-SA 4.0 for the sentences; the pictures are Flickr30k's, for research only. Get it at
github.com/necla-ml/SNLI-VE and shannon.cs.illinois.edu/DenotationGraph. 529,527 train, 17,858 dev, 17,901 test sentences.
Flickr30k's pictures must not have been pre-trained on.

    published                                         embedded scenes
    DIR/snli_ve_dev.jsonl                             DIR/snli_ve/snli_ve_val.jsonl
    DIR/flickr30k-images/4705552913.jpg               DIR/images/val/00055442.jpg

The sentence is `sentence2`; `sentence1`, the caption that SNLI's annotators judged by, is not read: the picture is the premise. A
line whose gold label is "-" had no majority among its annotators: it is left out, of training and of scores, as is done with
SNLI. `val` is another name for `dev`. About 9 % of the published labels are wrong, above all neutral ones, which SNLI-VE 2.0
corrects.

Labels of a sample: question_id (the pair's id), label. Its group is the picture's, or what the embedded scenes name as "group".
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files
from diptych.data.files import Problem

LABELS = ("entailment", "neutral", "contradiction")
_NAME = "SNLI-VE"
_NO_MAJORITY = "-"
_IMAGE = ("Flickr30K_ID", "Flikr30kID")  # the second is how earlier releases spell it
_LINE = {"gold_label": str, "sentence2": str, "pairID": str, "group?": str}
_PICTURES = ("flickr30k-images", "flickr30k_images", "images", "../flickr30k-images")


class _Line(NamedTuple):
    pair: str
    image: str
    text: str
    label: str
    group: str


class SNLIVE:
    purposes = frozenset({"ve"})
    looks_for = "snli_ve_train.jsonl, in DIR or DIR/snli_ve"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_files(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> SNLIVE:
        found = _files(root)
        name = "dev" if split == "val" and "dev" in found else split
        if name not in found:
            raise files.no_split(_NAME, split, found, root)
        return cls(root, split, found[name], limit)

    def __init__(self, root: Path, split: str, path: Path, limit: int | None):
        self._path, self._settings = path, (split, limit)
        self._lines: list[_Line] = []
        problems: list[Problem] = []
        for number, row in files.json_lines(path, problems):
            files.refuse(problems)
            image = next((row[key] for key in _IMAGE if key in row), None)
            said = files.amiss(row, _LINE) or (
                "" if isinstance(image, str | int) else f"no '{_IMAGE[0]}' here; found: {', '.join(sorted(row))}"
            )
            if not said and row["gold_label"] not in (*LABELS, _NO_MAJORITY):
                said = f"'gold_label' is '{row['gold_label']}', not {', '.join(LABELS)} or {_NO_MAJORITY}"
            if said:
                raise UserError(f"{path}:{number}: {said}")
            if row["gold_label"] == _NO_MAJORITY:
                continue
            image = str(image).removesuffix(".jpg")
            self._lines.append(_Line(row["pairID"], image, row["sentence2"].strip(), row["gold_label"], row.get("group") or image))
            if len(self._lines) == limit:
                break
        files.refuse(problems)
        if not self._lines:
            raise UserError(f"{path}: no sentence in it")
        files.refuse_repeated(path, "pair", [line.pair for line in self._lines])
        self._folder = files.picture_folder(_NAME, root, _PICTURES, f"{self._lines[0].image}.jpg")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Sample:
        line = self._lines[index]
        labels = {"question_id": line.pair, "label": line.label}
        return Sample(line.pair, (self._folder / f"{line.image}.jpg",), (line.text,), labels=labels, group=line.group)

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._path], *self._settings)


def _files(root: Path) -> dict[str, Path]:
    """The file of each split."""
    found = [path for folder in ("snli_ve", ".") for path in sorted((root / folder).glob("snli_ve_*.jsonl"))]
    return {path.stem.removeprefix("snli_ve_"): path for path in found}


def example(root: Path) -> None:
    """Four sentences about two pictures in the published layout, and one that nobody agreed on."""
    files.example_pictures(root / "flickr30k-images", ["36979.jpg", "65567.jpg"])
    told = [("36979", "entailment"), ("36979", "-"), ("36979", "neutral"), ("65567", "contradiction"), ("65567", "neutral")]
    rows = [
        {
            "annotator_labels": [label] * 5 if label != "-" else ["neutral", "neutral", "entailment", "entailment"],
            "captionID": f"{image}.jpg#0",
            "gold_label": label,
            "pairID": f"{image}.jpg#0r{n}e",
            "sentence1": "A dog in the snow.",
            "sentence2": f"An animal is outside, number {n}.",
            "Flikr30kID": image,
        }
        for n, (image, label) in enumerate(told)
    ]
    (root / "snli_ve_dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
