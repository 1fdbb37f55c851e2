"""Documents of your own, for systems that read text alone: a sentence a line, an empty line between documents.

    DIR/train.txt, DIR/val.txt ...      a file for each split (val and others may be missing), or
    DIR/NAME.txt ..., or one FILE.txt   without splits: documents are dealt out by a hash

It is what google-research/bert's create_pretraining_data takes. Splitting text into sentences is yours to do. A document of more
than `PASSAGE` sentences is several samples of one group, so that long ones are drawn more often.

Without files for splits, a hash of a document's first sentence puts 90 % of them into train, 5 % into val and 5 % into test, the
same ones on every machine; adding documents moves none. Split "all" is everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files
from diptych.data.files import Problem

_NAME = "The text"
_SPLITS = ("train", "val", "test")
PASSAGE = 32  # sentences


class Documents:
    purposes = frozenset({"documents"})
    looks_for = "train.txt, or any .txt, with a sentence a line and an empty line between documents"

    @staticmethod
    def recognises(root: Path) -> bool:
        """Text files and no pictures beside them."""
        if root.is_file():
            return root.suffix == ".txt"
        there = list(islice(root.iterdir(), 10_000)) if root.is_dir() else []
        return any(path.suffix == ".txt" for path in there) and not any(path.suffix.lower() in files.PICTURES for path in there)

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Documents:
        by_split, problems = _read(root)
        files.refuse(problems)
        wanted = [sample for of, samples in by_split.items() if split in ("all", of) for sample in samples]
        if not wanted:
            raise files.no_split(_NAME, split, [*by_split, "all"], root)
        return cls(root, split, limit, wanted)

    @classmethod
    def survey(cls, root: Path) -> tuple[dict[str, Documents], list[Problem]]:
        by_split, problems = _read(root)
        return {split: cls(root, split, None, samples) for split, samples in by_split.items()}, problems

    def __init__(self, root: Path, split: str, limit: int | None, samples: list[Sample]):
        self._texts, self._settings = _texts(root), (split, limit)
        self._samples = samples[:limit]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._texts, *self._settings)


def _texts(root: Path) -> list[Path]:
    """The files, those of splits alone where there are any."""
    if not root.is_dir():
        return [root]
    of_splits = [path for split in _SPLITS if (path := root / f"{split}.txt").is_file()]
    return of_splits or sorted(path for path in root.glob("*.txt") if not path.name.startswith("."))


def _read(root: Path) -> tuple[dict[str, list[Sample]], list[Problem]]:
    """Split -> passages, in the order of the files; and what keeps the text from use."""
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    by_split: dict[str, list[Sample]] = {}
    problems: list[Problem] = []
    for path in _texts(root):
        names = set()
        for line, sentences in _documents(path, problems):
            name = f"{path.name}:{line}"
            names.add(name)
            split = path.stem if root.is_dir() and path.stem in _SPLITS else files.hashed_split(sentences[0])
            for start in range(0, len(sentences), PASSAGE):
                key = f"{name}+{start}" if start else name
                by_split.setdefault(split, []).append(Sample(key, texts=tuple(sentences[start : start + PASSAGE]), group=name))
        if len(names) < 2:
            cure = "an empty line goes between documents, and what follows in one is told from another"
            problems.append(Problem("texts of one document", f"{path}: {len(names)} document{'s' * (not names)} in it; {cure}"))
    return by_split, problems


def _documents(path: Path, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """(its first line, its sentences) of each document."""
    lines = ((number, line.strip()) for number, line in files.text_lines(path, problems))
    for is_text, block in groupby(lines, key=lambda line: bool(line[1])):
        if is_text:
            numbered = list(block)
            yield numbered[0][0], [sentence for _, sentence in numbered]


def example(root: Path) -> None:
    """Four documents of three sentences."""
    documents = [[f"the dog number {n} is red", "it sleeps", f"there are {n} pears beside it"] for n in range(4)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "train.txt").write_text("\n\n".join("\n".join(sentences) for sentences in documents) + "\n")
