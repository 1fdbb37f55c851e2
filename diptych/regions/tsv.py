"""The public feature files, in and out of a region store: a table of base64 lines with an index of byte offsets (Oscar, VinVL).

    STEM.tsv        image id <TAB> number of boxes <TAB> base64 of float32 [boxes, D + 6]                    (2054 = 2048 + 6)
    STEM.lineidx    where each line of STEM.tsv begins, in bytes, one number a line
    STEM.json       ours, beside them: names of the classes, and for each image id its key in the store

The six numbers behind a feature are x1/W, y1/H, x2/W, y2/H and the width and height of the box, in [0, 1]: as remembered, not as
found in any released code, so `write` writes that order and `read` refuses a file in which the last two are not the differences.
Files of D numbers alone (2048) have no boxes in them and cannot be a store.

Class probabilities have no place in this layout. A file of ours keeps them as `STEM.labels.tsv` (the same three columns); for
others' files a table `image id <TAB> JSON` of {"class", "conf"} in the order of the boxes (VinVL's predictions.tsv) gives each box
its class with its confidence, and the rest of the probability to the background.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.config import UserError
from diptych.contracts import Detected
from diptych.regions.store import RegionStore, Writer

PLACE = 6
NOTHING = ("background",)
TOGETHER = 256  # pictures that reach the disk at once


def write(store: RegionStore, tsv: Path) -> dict[str, Any]:
    """STORE as STEM.tsv, STEM.lineidx, STEM.labels.tsv and STEM.json; what was written."""
    labels, names = _beside(tsv, ".labels.tsv"), {}
    with tsv.open("wb") as features, labels.open("wb") as chances, _beside(tsv, ".lineidx").open("w") as index:
        for number, key in enumerate(store):
            own, image_id = store.at(key), str(number)
            names[image_id] = key
            box_R4 = own.box_R4
            row_RF = np.concatenate([own.feature_RD.astype(np.float32), box_R4, box_R4[:, 2:] - box_R4[:, :2]], 1)
            index.write(f"{features.tell()}\n")
            features.write(_line(image_id, row_RF))
            chances.write(_line(image_id, own.soft_label_RK.astype(np.float32)))
    about = {"classes": list(store.classes), "keys": names, "made": store.about["made"]}
    _beside(tsv, ".json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    return {"pictures": len(store), "regions": store.about["rows"], "width": store.width + PLACE, "tsv": str(tsv)}


def read(tsv: Path, out: Path, labels: Path | None = None) -> RegionStore:
    """A store of a public file; `labels`: the table of detected classes that came with it, where it is not one of ours."""
    for path in (tsv, *([labels] if labels else [])):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    beside, chances = _beside(tsv, ".json"), _beside(tsv, ".labels.tsv")
    about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    keys, is_ours = about.get("keys", {}), bool(about) and chances.is_file()
    classes, said = _predicted(labels) if labels else (tuple(about["classes"]) if is_ours else NOTHING, {})
    width = next((row_RF.shape[1] for _, row_RF in _rows(tsv) if len(row_RF)), 0) - PLACE
    if width < 1:
        raise UserError(f"{tsv}: no region in it with a feature and {PLACE} numbers of its box")
    writer = Writer(out, width, classes, about.get("made") or {"from": tsv.name})
    own_label = _rows(chances) if is_ours and not labels else None
    with closing(writer):
        waiting: dict[str, Detected] = {}
        for n, (image_id, row_RF) in enumerate(_rows(tsv), start=1):
            place = f"{tsv}:{n}: image {image_id}"
            row_RF = row_RF if len(row_RF) else np.zeros((0, width + PLACE), np.float32)
            if row_RF.shape[1] != width + PLACE:
                raise UserError(f"{place}: regions are {row_RF.shape[1]} numbers wide, those before {width + PLACE}")
            box_R4, size_R2 = row_RF[:, width : width + 4], row_RF[:, width + 4 :]
            if not np.allclose(size_R2, box_R4[:, 2:] - box_R4[:, :2], atol=1e-3):
                raise UserError(
                    f"{place}: the last {PLACE} numbers of a region are not x1 y1 x2 y2 w h in [0, 1]: no boxes to take"
                )
            if own_label is not None:
                label_RK = next(own_label)[1]
                label_RK = label_RK if len(row_RF) else np.zeros((0, len(classes)), np.float32)
            else:
                label_RK = _soft(said.get(image_id, []) if labels else None, len(row_RF), classes, place)
            feature_RD = row_RF[:, :width].astype(np.float16)
            waiting[keys.get(image_id, image_id)] = Detected(box_R4.clip(0, 1), feature_RD, label_RK.astype(np.float16))
            if len(waiting) == TOGETHER:
                writer.add(waiting)
                waiting = {}
        writer.add(waiting)
        return writer.finish()


def _rows(tsv: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    with tsv.open("rb") as file:
        for n, line in enumerate(file, start=1):
            parts = line.rstrip(b"\r\n").split(b"\t")
            try:
                image_id, count = parts[0].decode(), int(parts[1])
                flat = np.frombuffer(base64.b64decode(parts[2], validate=True), "<f4")
                yield image_id, flat.reshape(count, -1) if count else flat.reshape(0, PLACE + 1)
            except (IndexError, ValueError) as error:
                why = f"{len(parts)} columns" if len(parts) < 3 else error
                raise UserError(f"{tsv}:{n}: not `image id, number of boxes, base64 of float32` ({why})") from None


def _line(image_id: str, row_RF: NDArray[np.float32]) -> bytes:
    return b"\t".join([image_id.encode(), str(len(row_RF)).encode(), base64.b64encode(row_RF.astype("<f4").tobytes())]) + b"\n"


def _predicted(path: Path) -> tuple[tuple[str, ...], dict[str, list[dict[str, Any]]]]:
    """Class names and each image's list of {"class", "conf"}, of a table `image id <TAB> JSON`."""
    found: dict[str, list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as file:
        for n, line in enumerate(file, start=1):
            image_id, _, text = line.rstrip("\n").partition("\t")
            try:
                said = json.loads(text)
                own = said["objects"] if isinstance(said, dict) else said
                found[image_id] = [{"class": str(one["class"]), "conf": float(one.get("conf", 1.0))} for one in own]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f'{path}:{n}: not `image id, [{{"class", "conf"}}, ...]`') from None
    names = sorted({one["class"] for own in found.values() for one in own})
    return (*NOTHING, *names), found


def _soft(own: list[dict[str, Any]] | None, regions: int, classes: Sequence[str], place: str) -> NDArray[np.float32]:
    """[R, K] the confidence at the class, the rest at the background; all of it there where no classes are known."""
    label_RK = np.zeros((regions, len(classes)), np.float32)
    if own is not None:
        if len(own) != regions:
            raise UserError(f"{place}: {regions} regions, but {len(own)} labels")
        for r, one in enumerate(own):
            label_RK[r, classes.index(one["class"])] = min(one["conf"], 1.0)
    label_RK[:, 0] = 1 - label_RK[:, 1:].sum(1)
    return label_RK


def _beside(tsv: Path, suffix: str) -> Path:
    return tsv.with_name(tsv.stem + suffix)
