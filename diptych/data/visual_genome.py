"""Visual Genome regions: about 50 short phrases a picture, each of one region; with objects and attributes (Krishna et al., 2017).

Licence: annotations CC-BY 4.0. Get it at homes.cs.washington.edu/~ranjay/visualgenome: region_descriptions.json (version 1.2 or
1.4), attributes.json or objects.json, images.zip and images2.zip. 108,077 pictures, 5.4 M regions, 3.8 M objects.

    DIR/region_descriptions.json                or  DIR/vg/region_descriptions_train.json   (the embedded scenes)
    DIR/attributes.json or DIR/objects.json         DIR/vg/attributes_train.json ...
    DIR/VG_100K/1.jpg, DIR/VG_100K_2/2.jpg          DIR/images/train/00000001.jpg

The published data has no splits: a hash of the picture's id gives 90 % to train, 5 % to val and 5 % to test; split "all" is
everything (what papers pre-train on). About half of its pictures are COCO's, some of COCO's val and test: image_data.json has
their coco_id.

The embedded scenes add to a region "false_phrase" (checked to be false of the picture) and "spans"
([[start, end, kind, object_id or null], ...] in characters).

5.4 M regions as Python objects would take 10 GB: phrases are kept joined by picture, boxes in arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.config import UserError
from diptych.contracts import Box, Phrase, Sample
from diptych.data import files

_NAME = "Visual Genome"
_REGION = {"phrase": str, "false_phrase?": str, "spans?": [files.SPAN]}
_THING = {"object_id": int, **dict.fromkeys("xywh", files.NUMBER), "names": [str], "attributes?": [str]}
_SEPARATOR = "\x1f"  # between the phrases of a picture; in no phrase


class _Things(NamedTuple):
    """Objects of one picture, lean."""

    id_R: NDArray[np.int64]
    box_R4: NDArray[np.float32]
    names: str  # joined
    attributes: str  # joined twice: within an object by ","


class VisualGenome:
    purposes = frozenset({"pretrain", "documents"})
    looks_for = "region_descriptions.json (or vg/region_descriptions_SPLIT.json)"

    @staticmethod
    def recognises(root: Path) -> bool:
        return (root / "region_descriptions.json").is_file() or bool(_splits(root))

    @classmethod
    def open(cls, root: Path, split: str, limit: int | None = None) -> VisualGenome:
        split_files = _splits(root)
        if split_files and split not in split_files:
            raise files.no_split(_NAME, split, split_files, root)
        if not split_files and split not in ("train", "val", "test", "all"):
            raise files.no_split(_NAME, split, ("train", "val", "test", "all"), root)
        suffix = f"_{split}" if split_files else ""
        folder = root / "vg" if split_files else root
        regions = files.needed(_NAME, folder, [f"region_descriptions{suffix}.json"])
        things = files.first_of(folder, [f"attributes{suffix}.json", f"objects{suffix}.json"])  # attributes repeat the objects
        return cls(root, split, regions, things, limit, is_hashed=not split_files)

    def __init__(self, root: Path, split: str, regions: Path, things: Path | None, limit: int | None, is_hashed: bool):
        self._root, self._files, self._settings = root, [regions, *([things] if things else [])], (split, limit)
        self._ids: list[int] = []
        self._phrases: list[str] = []
        self._false: dict[int, str] = {}
        self._spans: dict[int, str] = {}
        for image_id, found in _by_picture(regions, "regions"):
            if is_hashed and split not in ("all", files.hashed_split(str(image_id))):
                continue
            found = [region for region in found if region["phrase"].strip()]
            if not found:
                continue
            self._ids.append(image_id)
            self._phrases.append(_SEPARATOR.join(region["phrase"].strip() for region in found))
            if any(region.get("false_phrase") for region in found):
                self._false[image_id] = _SEPARATOR.join(region.get("false_phrase") or "" for region in found)
            if any("spans" in region for region in found):
                self._spans[image_id] = json.dumps([region.get("spans") or [] for region in found])
            if len(self._ids) == limit:
                break
        if not self._ids:
            raise UserError(f"{regions}: no region with a phrase in split '{split}'")
        wanted = set(self._ids)
        self._things = {image_id: _lean(found) for image_id, found in _things(things) if image_id in wanted} if things else {}
        folders = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", f"images/{split}", "images", "")
        self._places = [(folder, name) for folder in folders for name in ("{}.jpg", "{:08d}.jpg")]
        self._path_of(self._ids[0])  # fail now, not in the middle of a run

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        image_id = self._ids[index]
        boxes, place = _boxes(self._things.get(image_id))
        return Sample(
            key=str(image_id),
            images=(self._path_of(image_id),),
            texts=tuple(self._phrases[index].split(_SEPARATOR)),
            false_texts=tuple(self._false[image_id].split(_SEPARATOR)) if image_id in self._false else (),
            phrases=tuple(
                tuple(Phrase(start, end, kind, place.get(thing)) for start, end, kind, thing in spans)
                for spans in json.loads(self._spans.get(image_id, "[]"))
            ),
            boxes=boxes,
        )

    @cached_property
    def fingerprint(self) -> str:
        return files.digest(self._files, *self._settings)

    def _path_of(self, image_id: int) -> Path:
        """The published pictures are spread over two folders: where the last one lay is tried first."""
        for n, (place, name) in enumerate(self._places):
            path = self._root / place / name.format(image_id)
            if path.is_file():
                if n:
                    self._places = [(place, name), *self._places[:n], *self._places[n + 1 :]]
                return path
        place, name = self._places[0]
        if image_id == self._ids[0]:
            raise files.missing_picture(_NAME, self._root, (place for place, _ in self._places), name.format(image_id))
        return self._root / place / name.format(image_id)  # decoding it reports it as broken


def _splits(root: Path) -> list[str]:
    return [path.stem.removeprefix("region_descriptions_") for path in sorted((root / "vg").glob("region_descriptions_*.json"))]


def _by_picture(path: Path, field: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(image id, entries); version 1.2 names the picture "id", later ones "image_id"."""
    for picture in files.elements(path, of={field: [_REGION if field == "regions" else _THING], "image_id?": int, "id?": int}):
        image_id = picture.get("image_id", picture.get("id"))
        if image_id is None:
            raise UserError(f"{path}: an element without image_id: not Visual Genome's layout")
        yield image_id, picture[field]


def _things(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    return _by_picture(path, "attributes" if path.stem.startswith("attributes") else "objects")


def _lean(found: Iterable[dict[str, Any]]) -> _Things:
    found = list(found)
    return _Things(
        np.array([thing["object_id"] for thing in found], dtype=np.int64),
        np.array([(t["x"], t["y"], t["x"] + t["w"], t["y"] + t["h"]) for t in found], dtype=np.float32).reshape(-1, 4),
        _SEPARATOR.join((thing["names"] or [""])[0] for thing in found),
        _SEPARATOR.join(",".join(thing.get("attributes") or ()) for thing in found),
    )


def _boxes(things: _Things | None) -> tuple[tuple[Box, ...], dict[int, int]]:
    """The boxes, and the place of each object id among them."""
    if things is None or not len(things.id_R):
        return (), {}
    rows = zip(things.box_R4.tolist(), things.names.split(_SEPARATOR), things.attributes.split(_SEPARATOR), strict=True)
    boxes = tuple(Box(tuple(xyxy), name, tuple(attributes.split(",")) if attributes else ()) for xyxy, name, attributes in rows)
    return boxes, {object_id: place for place, object_id in enumerate(things.id_R.tolist())}


def example(root: Path) -> None:
    """Four pictures in the published layout."""
    files.example_pictures(root / "VG_100K", [f"{n}.jpg" for n in (1, 2)])
    files.example_pictures(root / "VG_100K_2", [f"{n}.jpg" for n in (3, 4)])
    regions, attributes = [], []
    for n in (1, 2, 3, 4):
        box = {"x": 4, "y": 6, "width": 20, "height": 10}
        texts = (f"a red dog number {n}", "the dog is left of the pear")
        regions.append(
            {"id": n, "regions": [{"region_id": 10 * n + i, "image_id": n, "phrase": text, **box} for i, text in enumerate(texts)]}
        )
        dog = {
            "object_id": 100 * n,
            "x": 4,
            "y": 6,
            "w": 20,
            "h": 10,
            "names": ["dog"],
            "synsets": ["dog.n.01"],
            "attributes": ["red"],
        }
        pear = {"object_id": 100 * n + 1, "x": 30, "y": 6, "w": 99, "h": 10, "names": ["pear"], "synsets": ["pear.n.01"]}
        attributes.append({"image_id": n, "attributes": [dog, pear]})
    (root / "region_descriptions.json").write_text(json.dumps(regions))
    (root / "attributes.json").write_text(json.dumps(attributes))
