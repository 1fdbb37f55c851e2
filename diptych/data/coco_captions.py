"""COCO captions: 5 sentences a picture (Chen et al., 2015); with boxes where the instances file lies beside.

Licence: annotations CC-BY 4.0; pictures under the Flickr terms of their owners. Get it at cocodataset.org: annotations_trainval2014
or 2017 and the pictures of the same year. 2014: 82,783 train and 40,504 val pictures; 2017: 118,287 and 5,000; 5 captions each, a
few 6 or 7. There is no public test split: papers use Karpathy's (`karpathy.py`).

    DIR/annotations/captions_train2014.json        or  DIR/coco/captions_train.json      (the embedded scenes)
    DIR/annotations/instances_train2014.json           DIR/coco/instances_train.json
    DIR/train2014/COCO_train2014_000000000009.jpg      DIR/images/train/00000009.jpg

The embedded scenes add to an annotation "false_caption" (checked to be false of the picture) and "spans"
([[start, end, kind, id of the instance or null], ...] in characters), and to an instance "attributes".
"""

from __future__ import annotations

import json
import math
from array import array
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.config import UserError
from diptych.contracts import Box, Phrase, Sample
from diptych.data import files

_NAME = "COCO captions"
_YEARS = ("", "2017", "2014")
_IMAGE = {"id": int, "file_name": str, "group?": int | str}
_CAPTION = {"image_id": int, "caption": str, "false_caption?": str, "spans?": [files.SPAN]}
_INSTANCE = {"id": int, "image_id": int, "category_id": int, "bbox": (files.NUMBER,) * 4, "attributes?": [str], "iscrowd?": int}


def candidates(kind: str, split: str) -> list[str]:
    names = [f"{kind}_{split}{year}.json" for year in _YEARS]
    return [f"{folder}{name}" for name in names for folder in ("coco/", "annotations/", "")]


class COCOCaptions:
    purposes = frozenset({"pretrain", "retrieval", "documents"})
    looks_for = "coco/captions_SPLIT.json or annotations/captions_SPLIT2014.json"

    @staticmethod
    def recognises(root: Path) -> bool:
        return bool(splits(root, "captions"))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> COCOCaptions:
        captions = files.first_of(root, candidates("captions", split))
        if captions is None:
            if there := splits(root, "captions"):
                raise files.no_split(_NAME, split, there, root)
            captions = files.needed(_NAME, root, candidates("captions", split))
        return cls(root, split, captions, files.first_of(root, candidates("instances", split)), limit)

    def __init__(self, root: Path, split: str, captions: Path, instances: Path | None, limit: int | None):
        self._files, self._settings = [captions, *([instances] if instances else [])], (split, limit)
        images: dict[int, dict[str, Any]] = {image["id"]: image for image in files.elements(captions, "images", of=_IMAGE)}
        self._of_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in files.elements(captions, "annotations", of=_CAPTION):
            if annotation["image_id"] in images:
                self._of_image.setdefault(annotation["image_id"], []).append(annotation)
        self._ids = array("q", [image_id for image_id in images if image_id in self._of_image][:limit])
        if not self._ids:
            raise UserError(f"{captions}: no picture with a caption in it")
        self._image = {image_id: images[image_id] for image_id in self._ids}
        year = captions.stem.rpartition("_")[2]
        places = (f"images/{year}", f"images/{split}", "images", year, "")
        self._folder = files.picture_folder(_NAME, root, places, self._image[self._ids[0]]["file_name"])
        name_of = categories_of(instances) if instances else {}
        self._boxes = instances_of(instances, self._image, name_of) if instances else {}
        self._labels = {"category_ids": {name: number for number, name in name_of.items()}} if instances else {}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        image_id = self._ids[index]
        image, captions = self._image[image_id], self._of_image[image_id]
        boxes = self._boxes.get(image_id, {})
        place = {instance_id: i for i, instance_id in enumerate(boxes)}
        return Sample(
            key=str(image_id),
            images=(self._folder / image["file_name"],),
            texts=tuple(caption["caption"] for caption in captions),
            false_texts=_false_texts(captions),
            phrases=_phrases(captions, place),
            boxes=tuple(boxes.values()),
            labels=self._labels,
            group=str(image.get("group", "")),
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._files, *self._settings)


def splits(root: Path, kind: str) -> list[str]:
    """Splits whose files of a kind ("captions", "instances") lie under a root."""
    found = [path for folder in ("coco", "annotations", ".") for path in sorted((root / folder).glob(f"{kind}_*.json"))]
    names = [path.stem.removeprefix(f"{kind}_") for path in found]
    return list(dict.fromkeys(name.removesuffix("2014").removesuffix("2017") for name in names))


def categories_of(path: Path) -> dict[int, str]:
    """Number -> name."""
    return {category["id"]: category["name"] for category in files.elements(path, "categories", of={"id": int, "name": str})}


def instances_of(path: Path, images: dict[int, Any], name_of: dict[int, str]) -> dict[int, dict[int, Box]]:
    """Image id -> instance id -> box, without crowds ("iscrowd": 1): a box around many things is no example of one.

    COCO's evaluation knows where they are, and passes over a detection inside one; here it counts as a wrong one. A box that
    reaches out of its picture is cut later, and one without area is nothing, for the published data has both; others are refused.
    """
    boxes: dict[int, dict[int, Box]] = {}
    for instance in files.elements(path, "annotations", of=_INSTANCE):
        if instance["image_id"] in images and not instance.get("iscrowd"):
            if instance["category_id"] not in name_of:
                raise UserError(f"{path}: instance {instance['id']} is of category {instance['category_id']}, which is not listed")
            x, y, w, h = instance["bbox"]
            picture = images[instance["image_id"]]
            width, height = picture.get("width") or math.inf, picture.get("height") or math.inf
            if min(w, h) < 0 or not (-w <= x <= width and -h <= y <= height):
                shape = "" if math.inf in (width, height) else f" (its picture has {width} x {height} pixels)"
                raise UserError(
                    f"{path}: instance {instance['id']} has the box {x:g}, {y:g}, {w:g}, {h:g}, which is nowhere{shape}"
                )
            box = Box((x, y, x + w, y + h), name_of[instance["category_id"]], tuple(instance.get("attributes") or ()))
            boxes.setdefault(instance["image_id"], {})[instance["id"]] = box
    return boxes


def _false_texts(annotations: list[dict[str, Any]]) -> tuple[str, ...]:
    """One for each annotation, "" where it has none; nothing where none has."""
    false = tuple(annotation.get("false_caption") or "" for annotation in annotations)
    return false if any(false) else ()


def _phrases(annotations: list[dict[str, Any]], place: dict[int, int]) -> tuple[tuple[Phrase, ...], ...]:
    """The embedded data's "spans"; `place` tells an object id's place among the boxes."""
    if not any("spans" in annotation for annotation in annotations):
        return ()
    return tuple(
        tuple(Phrase(start, end, kind, place.get(box)) for start, end, kind, box in annotation.get("spans") or ())
        for annotation in annotations
    )


def example(root: Path) -> None:
    """Four pictures of 2014's val in the published layout."""
    names = [f"COCO_val2014_{n:012d}.jpg" for n in (9, 25, 30, 34)]
    files.example_pictures(root / "val2014", names)
    images = [{"id": n, "file_name": name, "height": 32, "width": 48} for n, name in zip((9, 25, 30, 34), names, strict=True)]
    captions = [
        {"id": 10 * image["id"] + k, "image_id": image["id"], "caption": f"A red dog number {k}."}
        for image in images
        for k in range(5)
    ]
    dogs = [{"id": image["id"], "image_id": image["id"], "category_id": 18, "bbox": [4.0, 6.0, 20.0, 10.0]} for image in images]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for kind, fields in (("captions", {"annotations": captions}), ("instances", {"annotations": dogs, "categories": [_DOG]})):
        (root / "annotations" / f"{kind}_val2014.json").write_text(
            json.dumps({"info": {}, "images": images, **fields, "licenses": []})
        )


_DOG = {"id": 18, "name": "dog", "supercategory": "animal"}
