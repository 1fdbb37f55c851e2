"""Karpathy's splits of COCO, Flickr30k and Flickr8k, the ones retrieval and captioning papers report (Karpathy and Fei-Fei, 2015).

Licence: the captions are COCO's (CC-BY 4.0) and Flickr30k's; pictures under the Flickr terms of their owners. Get the pictures and
dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json, in caption_datasets.zip of
cs.stanford.edu/people/karpathy/deepimagesent. COCO: 113,287 train (82,783 and the 30,504 "restval" of val2014, which papers join),
5,000 val, 5,000 test. Flickr30k: 29,000 / 1,014 / 1,000. Five captions each, a few of COCO's 6 or 7: val and test keep the first
five, as papers do.

    DIR/dataset_coco.json               DIR/dataset_flickr30k.json
    DIR/val2014/COCO_val2014_....jpg    DIR/flickr30k-images/1000092795.jpg  (or images/, flickr30k_images/, Images/)
    DIR/train2014/COCO_train2014_....jpg
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files

_NAME = "Karpathy's splits"
_PROTOCOL = 5  # captions of a picture in val and test


class _Picture(NamedTuple):
    key: str
    path: str
    texts: tuple[str, ...]


_IMAGE = {"split": str, "filename": str, "filepath?": str, "cocoid?": int | str, "sentences": [{"raw": str}]}


class Karpathy:
    purposes = frozenset({"pretrain", "retrieval", "documents"})
    looks_for = "dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(_tables(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> Karpathy:
        tables = _tables(root)
        if len(tables) > 1:
            raise UserError(f"{_NAME}: {root} has several ({', '.join(t.name for t in tables)}); keep one in a folder")
        return cls(root, split, tables[0] if tables else files.needed(_NAME, root, ["dataset_coco.json"]), limit)

    def __init__(self, root: Path, split: str, table: Path, limit: int | None):
        self._table, self._settings = table, (split, limit)
        self._pictures: list[_Picture] = []
        splits = set()
        for image in files.elements(table, "images", of=_IMAGE):
            its_split, picture = _picture(image)
            splits.add(its_split)
            if its_split == split and picture.texts:
                self._pictures.append(picture)
                if len(self._pictures) == limit:
                    break
        if not self._pictures:
            raise files.no_split(_NAME, split, sorted(splits), root)
        files.refuse_repeated(table, "picture", [picture.key for picture in self._pictures])
        places = ("", "images", "Images", "flickr30k-images", "flickr30k_images", "flickr8k-images")
        self._folder = files.picture_folder(_NAME, root, places, self._pictures[0].path)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self._pictures[index]
        return Sample(picture.key, images=(self._folder / picture.path,), texts=picture.texts)

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._table], *self._settings)


def _tables(root: Path) -> list[Path]:
    return [path for name in ("coco", "flickr30k", "flickr8k") if (path := root / f"dataset_{name}.json").is_file()]


def _picture(image: Any) -> tuple[str, _Picture]:
    """(split, picture) of one entry."""
    split = "train" if image["split"] == "restval" else image["split"]
    texts = tuple(text for sentence in image["sentences"] if (text := sentence["raw"].strip()))
    path = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]
    key = str(image["filename"] if image.get("cocoid") is None else image["cocoid"])
    return split, _Picture(key, path, texts if split == "train" else texts[:_PROTOCOL])


def example(root: Path) -> None:
    """Four training pictures of COCO in the published layout, two of them "restval"; six captions each."""
    images = []
    for n, split in enumerate(("train", "restval", "train", "restval")):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{n:012d}.jpg"
        files.example_pictures(root / folder, [name])
        sentences = [{"tokens": ["a", "dog"], "raw": f"A red dog number {k}.", "imgid": n, "sentid": 5 * n + k} for k in range(6)]
        about = {"filepath": folder, "filename": name, "cocoid": n, "imgid": n, "sentids": [s["sentid"] for s in sentences]}
        images.append({**about, "split": split, "sentences": sentences})
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
