"""RefCOCO, RefCOCO+, RefCOCOg: phrases that each mean one thing of a COCO picture (Kazemzadeh 2014; Yu 2016; Mao 2016).

Licence: annotations Apache-2.0 (lichengunc/refer; the server it names is gone, mirrors hold the same archives); pictures are
COCO's train2014, under the Flickr terms of their owners. Things and phrases: RefCOCO 50,000 and 142,209; RefCOCO+ 49,856 and
141,564, without words of place; RefCOCOg 49,822 and 95,010, longer.

    published                                                    embedded scenes
    DIR/refs(unc).p, instances.json                              DIR/refcoco/refs(atelier).p, instances.json
    DIR/train2014/COCO_train2014_000000581857.jpg, also in       DIR/images/train/00000001.jpg
      images/train2014 or ../images/mscoco/images/train2014

Of several pickles the one that papers use is read: unc before google, umd before google (google's split of RefCOCOg has no test
and shares pictures between train and val). Splits: train, val, and testA (people) with testB (everything else), or test; "test"
is both where there are two. The embedded scenes add "kind" (colour, extreme, relation) and "group" to a phrase's thing.

A pickle can run anything. This one is read by an unpickler that builds lists, dicts, texts and numbers, and refuses a file that
asks for more. A sample is one thing: its texts are its phrases, its boxes all annotated things of the picture, `right` the place
of the thing among them. Its group is the picture.
"""

from __future__ import annotations

import json
import pickle
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config import UserError
from diptych.contracts import Box, Sample
from diptych.data import files
from diptych.data.files import NUMBER

_NAME = "RefCOCO"
_FOLDERS = (".", "refcoco")
_PREFERRED = ("unc", "umd")  # before others by name
_TESTS = ("test", "testA", "testB")
_PICTURES = ("", "train2014", "images/train2014", "images", "images/mscoco/images/train2014", "../images/mscoco/images/train2014")
_REF = {
    **dict.fromkeys(("ref_id", "ann_id", "image_id"), int),
    **{"split": str, "sentences": [{"sent": str, "sent_id": int}], "kind?": str, "group?": int | str},
}
_IMAGE = {"id": int, "file_name": str, "width?": NUMBER, "height?": NUMBER}
_INSTANCE = {"id": int, "image_id": int, "category_id": int, "bbox": (NUMBER,) * 4}


class _Ref(NamedTuple):
    number: int
    annotation: int
    image: int
    split: str
    sentences: tuple[tuple[int, str], ...]
    kind: str
    group: str


class RefCOCO:
    purposes = frozenset({"rec"})
    looks_for = "refs(NAME).p beside instances.json, in DIR or DIR/refcoco"

    @staticmethod
    def recognises(root: Path) -> bool:
        return _pickle(root) is not None

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> RefCOCO:
        path = _pickle(root) or files.needed(_NAME, root, ("refs(unc).p",))
        refs = _refs(path)
        chosen = [ref for ref in refs if ref.split == split or (split == "test" and ref.split in _TESTS)]
        if not chosen:
            splits = {ref.split: None for ref in refs}
            raise files.no_split(_NAME, split, [*splits, *(["test"] if splits.keys() & {"testA", "testB"} else [])], root)
        return cls(root, split, path, chosen[:limit], limit)

    def __init__(self, root: Path, split: str, path: Path, refs: list[_Ref], limit: int | None):
        instances = files.needed(_NAME, path.parent, ("instances.json",))
        self._files, self._settings, self._refs = [path, instances], (split, limit), refs
        wanted = {ref.image for ref in refs}
        images = [i for i in files.elements(instances, "images", of=_IMAGE) if i["id"] in wanted]
        self._image = {i["id"]: i["file_name"] for i in images}
        size_of = {i["id"]: (i.get("width") or inf, i.get("height") or inf) for i in images}
        name_of = {c["id"]: c["name"] for c in files.elements(instances, "categories", of={"id": int, "name": str})}
        self._boxes: dict[int, dict[int, Box]] = {}
        for one in files.elements(instances, "annotations", of=_INSTANCE):
            if one["image_id"] in wanted:
                x, y, w, h = one["bbox"]
                box = Box((x, y, x + w, y + h), name_of.get(one["category_id"], ""))
                self._boxes.setdefault(one["image_id"], {})[one["id"]] = box
        for ref in refs:
            if ref.image not in self._image:
                raise UserError(f"{instances}: no picture {ref.image}, which ref {ref.number} of {path.name} is about")
            if ref.annotation not in self._boxes.get(ref.image, {}):
                raise UserError(f"{instances}: no box {ref.annotation} in picture {ref.image}, which ref {ref.number} means")
            if not _is_seen(self._boxes[ref.image][ref.annotation], *size_of[ref.image]):
                meant = f"annotation {ref.annotation}, which ref {ref.number} means"
                raise UserError(f"{instances}: 'bbox' of {meant}, must be x y width height, above 0 and in picture {ref.image}")
        self._folder = files.picture_folder(_NAME, root, _PICTURES, self._image[refs[0].image])

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> Sample:
        ref = self._refs[index]
        boxes = self._boxes[ref.image]
        return Sample(
            key=str(ref.number),
            images=(self._folder / self._image[ref.image],),
            texts=tuple(text for _, text in ref.sentences),
            boxes=tuple(boxes.values()),
            labels={
                "ref_id": ref.number,
                "sent_ids": tuple(number for number, _ in ref.sentences),
                "right": list(boxes).index(ref.annotation),
                "kind": ref.kind,
            },
            group=ref.group or str(ref.image),
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._files, *self._settings)


def _is_seen(box: Box, width: float, height: float) -> bool:
    """Whether any of it lies in the picture.

    Asked only of what is meant: published boxes overhang a little, and a few that no phrase means have no height.
    """
    x1, y1, x2, y2 = box.xyxy
    return max(x1, 0) < min(x2, width) and max(y1, 0) < min(y2, height)


def _pickle(root: Path) -> Path | None:
    """The pickle of a folder that has one."""

    def order(path: Path) -> tuple[bool, str]:
        return path.name[5:-3] not in _PREFERRED, path.name

    return next((path for folder in _FOLDERS for path in sorted((root / folder).glob("refs(*).p"), key=order)), None)


def _refs(path: Path) -> list[_Ref]:
    listed = plain(path)
    if not isinstance(listed, list):
        raise UserError(f"{path}: a list of refs is expected in the pickle, not {type(listed).__name__}")
    refs = []
    for place, ref in enumerate(listed):
        if said := files.amiss(ref, _REF):
            raise UserError(f"{path}: ref {place}: {said}")
        sentences = tuple((s["sent_id"], s["sent"].strip()) for s in ref["sentences"] if s["sent"].strip())
        if sentences:  # a few of the published phrases are empty
            group = str(ref.get("group") or "")
            refs.append(_Ref(ref["ref_id"], ref["ann_id"], ref["image_id"], ref["split"], sentences, ref.get("kind") or "", group))
    files.refuse_repeated(path, "ref", [ref.number for ref in refs])
    return refs


# ------------------------------------------------------------------------------------------------------------ pickles


class _Plain(pickle.Unpickler):
    """Whatever is no list, dict, text or number has to be looked up by name, and nothing is."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only lists, dicts, texts and numbers are read")


def plain(path: Path) -> Any:
    """What a pickle of plain values holds; text of Python 2 is taken as Latin-1."""
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # any byte is an instruction, so a file that is no pickle raises whatever comes first
        said = str(error) if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not read as a pickle: {said}") from None


def example(root: Path) -> None:
    """Four things of two pictures in the published layout; the pickle as Python 2 wrote it."""
    names = [f"COCO_train2014_{n:012d}.jpg" for n in (9, 25)]
    files.example_pictures(root / "train2014", names)
    boxes = [[4.0, 6.0, 20.0, 10.0], [26.0, 6.0, 18.0, 20.0]]
    annotations = [
        {"id": 10 * image + k, "image_id": image, "category_id": 18, "bbox": boxes[k], "iscrowd": 0}
        for image in (9, 25)
        for k in (0, 1)
    ]
    refs = [
        {
            "ref_id": n,
            "ann_id": one["id"],
            "category_id": 18,
            "image_id": one["image_id"],
            "split": "val",
            "file_name": f"COCO_train2014_{one['image_id']:012d}_{one['id']}.jpg",
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {"sent_id": 2 * n + k, "raw": text.upper(), "sent": text, "tokens": text.split()}
                for k, text in enumerate((f"{('left', 'right')[n % 2]} dog", "the dog"))
            ],
        }
        for n, one in enumerate(annotations)
    ]
    (root / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    images = [{"id": image, "file_name": name, "height": 32, "width": 48} for image, name in zip((9, 25), names, strict=True)]
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}]
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
