"""Your own labelled pictures: a folder for each class, named like the class; or such folders for each split (ImageNet's layout).

    DIR/red panda/7.jpg            a hash of the path puts 90 % into train, 5 % into val, 5 % into test; split "all" is everything
    DIR/val/red_panda/7.jpg        splits of their own

Underscores in a class's name are spaces. `classes.tsv` in DIR gives folders (ImageNet's "n02510455") a name to be called by, a line
for each: folder, TAB, name. For tasks/probe.py and tasks/zeroshot.py.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files

_BESIDE = {"", ".md", ".txt", ".tsv"}  # files that may lie beside the folders: licences, names


class Classes:
    purposes = frozenset({"probe"})
    looks_for = "a folder of pictures for each class, DIR/CLASS/x.jpg or DIR/SPLIT/CLASS/x.jpg"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_of_classes(root) or _of_splits(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Classes:
        splits = _of_splits(root)
        if splits and split not in (*splits, "all"):
            raise files.no_split("Classes", split, [*splits, "all"], root)
        wanted = [
            path
            for folder in (_of_classes(root) or [own for name, of in splits.items() if split in (name, "all") for own in of])
            for path in sorted(folder.iterdir())
            if _is_picture(path) and (splits or split in ("all", files.hashed_split(path.relative_to(root).as_posix())))
        ]
        if not wanted:
            raise files.no_split("Classes", split, [*files.HASHED, "all"], root)
        return cls(root, wanted[:limit])

    def __init__(self, root: Path, pictures: list[Path]):
        self._pictures = [path.relative_to(root).as_posix() for path in pictures]
        names = _names(root)
        self._samples = [
            Sample(key, (path,), labels={"label": path.parent.name, "name": names.get(path.parent.name, _spoken(path.parent.name))})
            for key, path in zip(self._pictures, pictures, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([], [(sample.key, sample.labels["name"]) for sample in self._samples])


def _spoken(folder: str) -> str:
    return folder.replace("_", " ")


def _names(root: Path) -> dict[str, str]:
    """Folder -> name, where a table gives one."""
    table = files.first_of(root, ["classes.tsv"])
    problems: list[files.Problem] = []
    names: dict[str, str] = {}
    for number, line in files.text_lines(table, problems) if table else ():
        if line.strip():
            folder, tab, name = line.rstrip("\n").partition("\t")
            if not tab or not name.strip():
                raise UserError(f"{table}:{number}: a folder, a TAB and a name are expected, not '{line.strip()}'")
            names[folder.strip()] = name.strip()
    files.refuse(problems)
    return names


def _of_splits(root: Path) -> dict[str, list[Path]]:
    """Split -> its classes' folders, if that is what all folders are."""
    splits = {folder.name: _of_classes(folder) for folder in _folders(root)}
    return splits if splits and all(splits.values()) else {}


def _of_classes(root: Path) -> list[Path]:
    """The folders, if there are two or more and each holds pictures."""
    folders = _folders(root)
    return folders if len(folders) > 1 and all(any(_is_picture(path) for path in folder.iterdir()) for folder in folders) else []


def _folders(root: Path) -> list[Path]:
    """Those of a folder that holds little else; none of any other."""
    if not root.is_dir():
        return []
    there = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return [p for p in there if p.is_dir()] if all(p.is_dir() or p.suffix.lower() in _BESIDE for p in there) else []


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in files.PICTURES and not path.name.startswith(".")


def example(root: Path) -> None:
    """Two classes of two pictures, one with a name of its own."""
    for folder in ("red_panda", "n02510455"):
        files.example_pictures(root / folder, ["1.jpg", "2.jpg"])
    (root / "classes.tsv").write_text("n02510455\tgiant panda\n")
