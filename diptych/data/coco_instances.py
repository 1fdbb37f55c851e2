"""Boxes with names in COCO's layout, without captions: for detectors. Objects365 and many others are published in it.

    DIR/annotations/instances_train2017.json    or  DIR/coco/instances_train.json, DIR/instances_train.json
    DIR/train2017/000000000009.jpg                  DIR/images/train/..., as "file_name" and the folders beside say

A set in this layout under another name (Objects365's zhiyuan_objv2_train.json) is read when its file is linked to this one.
Licence: the set's own. Where captions lie beside, `coco_captions` reads both. Pictures without any box are kept: they show what is
none. The embedded sets add "attributes" to an instance, a list of words.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import files
from diptych.data.coco_captions import candidates, categories_of, instances_of, splits

_NAME = "COCO instances"
_IMAGE = {"id": int, "file_name": str}


class COCOInstances:
    purposes = frozenset({"boxes"})
    looks_for = "coco/instances_SPLIT.json or annotations/instances_SPLIT2017.json, without captions beside it"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(splits(root, "instances")) and not splits(root, "captions")

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> COCOInstances:
        instances = files.first_of(root, candidates("instances", split))
        if instances is None:
            if there := splits(root, "instances"):
                raise files.no_split(_NAME, split, there, root)
            instances = files.needed(_NAME, root, candidates("instances", split))
        return cls(root, split, instances, limit)

    def __init__(self, root: Path, split: str, instances: Path, limit: int | None):
        self._file, self._settings = instances, (split, limit)
        images = list(files.elements(instances, "images", of=_IMAGE))[:limit]
        if not images:
            raise UserError(f"{instances}: no picture in it")
        year = instances.stem.rpartition("_")[2]
        places = (f"images/{year}", f"images/{split}", "images", year, "")
        self._folder = files.picture_folder(_NAME, root, places, images[0]["file_name"])
        self._images = [(image["id"], image["file_name"]) for image in images]
        self._boxes = instances_of(instances, {image["id"]: image for image in images}, categories_of(instances))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image_id, name = self._images[index]
        return Sample(str(image_id), (self._folder / name,), boxes=tuple(self._boxes.get(image_id, {}).values()))

    @cached_property
    def fingerprint(self) -> str:
        return files.digest([self._file], *self._settings)


def example(root: Path) -> None:
    """Four pictures with a box each."""
    names = [f"train/{n:08d}.jpg" for n in range(1, 5)]
    files.example_pictures(root / "images" / "train", [Path(name).name for name in names])
    images = [{"id": n, "file_name": name, "height": 32, "width": 48} for n, name in enumerate(names, 1)]
    boxes = [{"id": 10 * n, "image_id": n, "category_id": 3, "bbox": [4, 6, 20, 10]} for n in range(1, 5)]
    (root / "coco").mkdir(parents=True, exist_ok=True)
    whole = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "dog"}]}
    (root / "coco" / "instances_train.json").write_text(json.dumps(whole))
