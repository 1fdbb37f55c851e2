"""Makes the scenes data set: pictures, and every task's files in the layout its public counterpart has.

    ROOT/images/SPLIT/00000001.jpg                         file names in annotations are relative to ROOT/images
    ROOT/coco/captions_SPLIT.json, instances_SPLIT.json
    ROOT/vg/region_descriptions_SPLIT.json, objects_, attributes_, relationships_, image_data_
    ROOT/vqa/v2_OpenEnded_mscoco_SPLIT_questions.json, v2_mscoco_SPLIT_annotations.json, v2_mscoco_SPLIT_complementary_pairs.json
    ROOT/snli_ve/snli_ve_SPLIT.jsonl, nlvr2/SPLIT.json (an object a line, as published), vcr/SPLIT.jsonl
    ROOT/refcoco/refs(atelier).p, instances.json           all splits; boxes of VCR's people: ROOT/images/SPLIT/00000001.json
    ROOT/dataset.json                                      how it was made, how much there is, sha256 of the annotations

A *group* is what is drawn together: one described scene, two complementary ones, the four of a sentence. Each group's draws are a
pure function of (seed, split, kind, place), so any number of processes gives the same data. The data appear at once under their
final name when everything is written; when they are there already, made alike, nothing is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from diptych.atelier import coco, compose, described, facts, nlvr2, refcoco, snli_ve, vcr, vocabulary, vqa
from diptych.atelier.artwork import load
from diptych.atelier.compose import Scene, paint
from diptych.atelier.vocabulary import SPLITS, World
from diptych.config import UserError
from diptych.draw import Draw

VERSION = 2  # of what is drawn
LAYOUT = 1  # of the files, which name it
DEFAULT, SMALL = 70_000, 3_000  # scenes; the default is 290 MB
QUALITY = 75  # of the JPEGs; chroma at half size; Huffman tables fitted to each picture: a sixth smaller

SHARES = {"train": 0.76, "val": 0.04, "test": 0.1, "test-style": 0.04, "test-composition": 0.03, "test-object": 0.03}

Derive = Callable[[World, Random, int, list[int], str], tuple[list[Scene], dict[str, list[Any]]]]


class Kind(NamedTuple):
    derive: Derive
    scenes: int  # of a group
    train: float  # share of a split's scenes
    test: float


KINDS = {
    "captions": Kind(described.with_captions, described.SCENES, 0.2, 0.2),
    "regions": Kind(described.with_regions, described.SCENES, 0.36, 0.0),
    "vqa": Kind(vqa.derive, vqa.SCENES, 0.24, 0.44),
    "nlvr2": Kind(nlvr2.derive, nlvr2.SCENES, 0.08, 0.16),
    "snli_ve": Kind(snli_ve.derive, snli_ve.SCENES, 0.05, 0.09),
    "vcr": Kind(vcr.derive, vcr.SCENES, 0.04, 0.06),
    "refcoco": Kind(refcoco.derive, refcoco.SCENES, 0.03, 0.05),
}


class Table(NamedTuple):
    """A JSON file: where it lies, the list that holds its rows, and what stands around them."""

    path: str
    rows: str = ""  # empty: the file is one list; "lines": one object a line; "pickle": a list, pickled
    around: Mapping[str, Any] = MappingProxyType({})


_ABOUT = {"info": {"description": "Diptych scenes", "version": str(LAYOUT)}, "licenses": []}
_VQA = {"data_subtype": "{split}", "data_type": "scenes", "task_type": "Open-Ended"}
TABLES = {
    "captions": Table("coco/captions_{split}.json", "annotations", _ABOUT),
    "instances": Table("coco/instances_{split}.json", "annotations", {**_ABOUT, "categories": coco.CATEGORY_TABLE}),
    "region_descriptions": Table("vg/region_descriptions_{split}.json"),
    "objects": Table("vg/objects_{split}.json"),
    "attributes": Table("vg/attributes_{split}.json"),
    "relationships": Table("vg/relationships_{split}.json"),
    "image_data": Table("vg/image_data_{split}.json"),
    "questions": Table("vqa/v2_OpenEnded_mscoco_{split}_questions.json", "questions", {**_ABOUT, **_VQA}),
    "annotations": Table("vqa/v2_mscoco_{split}_annotations.json", "annotations", {**_ABOUT, **_VQA}),
    "complementary_pairs": Table("vqa/v2_mscoco_{split}_complementary_pairs.json"),
    "nlvr2": Table("nlvr2/{split}.json", "lines"),
    "snli_ve": Table("snli_ve/snli_ve_{split}.jsonl", "lines"),
    "vcr": Table("vcr/{split}.jsonl", "lines"),
    "refs": Table("refcoco/refs(atelier).p", "pickle"),
    "ref_instances": Table("refcoco/instances.json", "annotations", {**_ABOUT, "categories": coco.CATEGORY_TABLE}),
}


def parameters() -> dict[str, Any]:
    """Everything that decides what the data are, apart from the code. A change is a new VERSION of the data."""
    return {
        "version": VERSION,
        "artwork": load().sha256,
        "categories": [list(c) for c in vocabulary.CATEGORIES],
        "in_train": vocabulary.N_TRAIN,
        "colours": [list(c) for c in vocabulary.COLOURS],
        "grounds": [list(g) for g in vocabulary.GROUNDS],
        "roles": [list(r) for r in vocabulary.ROLES],
        "sizes": [vocabulary.SMALL, vocabulary.LARGE],
        "families": [vocabulary.TRAIN_FAMILIES, vocabulary.UNSEEN_FAMILIES],
        "side": compose.SIDE,
        "margins": [facts.STEP, facts.LEAD, facts.OFF_CENTRE, compose.GAP, compose.MOST_AREA],
        "shares": SHARES,
        "sentences": [nlvr2.DENIED, nlvr2.DRAWS],
        "kinds": {name: [kind.scenes, kind.train, kind.test] for name, kind in KINDS.items()},
        "quality": QUALITY,
    }


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make(
    root: Path,
    *,
    small: bool = False,
    seed: int = 0,
    jobs: int = 1,
    scenes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Make the data set at `root`; what dataset.json says. `scenes` overrides the size; `progress(done, all)` is told of scenes."""
    scenes = scenes or (SMALL if small else DEFAULT)
    made = {"dataset": "scenes", "seed": seed, "scenes": scenes, "parameters_sha256": digest(parameters())}
    root = Path(root)
    there = root / "dataset.json"
    if there.is_file():
        about = json.loads(there.read_text(encoding="utf-8"))
        if all(about.get(key) == value for key, value in made.items()):
            return about
    if root.exists() and not there.is_file() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: something else is there (no dataset.json); give another place or move it away")
    building = root.with_name(f".{root.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        about = made | _write(building, chunks(scenes, seed), jobs, progress) | {"parameters": parameters()}
        (building / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return about


class Chunk(NamedTuple):
    """Groups of one kind that a process makes together, and the id of their first picture."""

    seed: int
    split: str
    kind: str
    groups: range
    first_image: int


CHUNK = 200  # groups


def chunks(scenes: int, seed: int) -> list[Chunk]:
    """The whole data set in its order; picture ids start at 1."""
    found = []
    image_id = 1
    for split in SPLITS:
        for name, kind in KINDS.items():
            groups = round(scenes * SHARES[split] * (kind.train if split == "train" else kind.test) / kind.scenes)
            for start in range(0, groups, CHUNK):
                here = range(start, min(start + CHUNK, groups))
                found.append(Chunk(seed, split, name, here, image_id))
                image_id += len(here) * kind.scenes
    return found


def groups(chunk: Chunk) -> Iterator[tuple[list[int], list[Scene], dict[str, list[Any]]]]:
    """Picture ids, scenes and rows of each group."""
    kind = KINDS[chunk.kind]
    world = World(chunk.split)
    seeds = Draw(chunk.seed).bits(f"scenes/{chunk.split}/{chunk.kind}", chunk.groups)[:, 0].tolist()
    image_id = chunk.first_image
    for index, seed in zip(chunk.groups, seeds, strict=True):
        image_ids = list(range(image_id, image_id + kind.scenes))
        yield image_ids, *kind.derive(world, Random(seed), index, image_ids, f"{chunk.split}-{chunk.kind}-{index}")
        image_id += kind.scenes


# --------------------------------------------------------------------------------------------------------- writing


class _Made(NamedTuple):
    split: str
    scenes: int
    rows: dict[str, tuple[int, str]]  # table -> how many, and their JSON joined by commas or line ends
    pixels: bytes  # sha256 of the pictures before encoding


def _compose(chunk: Chunk, root: Path) -> _Made:
    pixels = hashlib.sha256()
    rows: dict[str, list[Any]] = {}
    n = 0
    for image_ids, scenes, derived in groups(chunk):
        for path, content in derived.pop("files", ()):
            (root / path).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        for name, found in derived.items():
            rows.setdefault(name, []).extend(found)
        for image_id, scene in zip(image_ids, scenes, strict=True):
            picture = paint(scene)
            pixels.update(picture.tobytes())
            picture.save(root / "images" / coco.file_name(chunk.split, image_id), quality=QUALITY, optimize=True)
            n += 1
    return _Made(chunk.split, n, {name: (len(found), _fragment(name, found)) for name, found in rows.items()}, pixels.digest())


def _fragment(name: str, rows: list[Any]) -> str:
    between = "\n" if name in TABLES and TABLES[name].rows == "lines" else ","
    return between.join(json.dumps(row, separators=(",", ":")) for row in rows)


def _write(root: Path, plan: list[Chunk], jobs: int, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    for split in SPLITS:
        (root / "images" / split).mkdir(parents=True)
    total = plan[-1].first_image - 1 + len(plan[-1].groups) * KINDS[plan[-1].kind].scenes
    pixels = hashlib.sha256()
    annotations = hashlib.sha256()
    counts: dict[str, dict[str, int]] = {split: {"pictures": 0} for split in SPLITS}
    kept: dict[str, list[str]] = {}  # of the split at hand; tables that span the splits stay to the end
    split, done = plan[0].split, 0
    for made in _composed(plan, root, jobs):
        if made.split != split:
            _close(root, split, kept, annotations)
            split = made.split
        for name, (n, fragment) in made.rows.items():
            kept.setdefault(name, []).append(fragment)
            if "." not in name:
                counts[split][name] = counts[split].get(name, 0) + n
        counts[split]["pictures"] += made.scenes
        pixels.update(made.pixels)
        done += made.scenes
        if progress:
            progress(done, total)
    _close(root, split, kept, annotations)
    _close(root, "", kept, annotations)
    return {"counts": counts, "annotations_sha256": annotations.hexdigest(), "pixels_sha256": pixels.hexdigest()}


def _composed(plan: list[Chunk], root: Path, jobs: int) -> Iterable[_Made]:
    """Each chunk's share, in the order of the plan."""
    if jobs == 1:
        yield from starmap(_compose, ((chunk, root) for chunk in plan))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_compose, plan, [root] * len(plan))


def _close(root: Path, split: str, kept: dict[str, list[str]], annotations: Any) -> None:
    """Write a split's files, or with no split those of all; what is written is no longer kept."""
    for name, table in TABLES.items():
        if name not in kept or ("{split}" in table.path) != bool(split):
            continue
        path = root / table.path.format(split=split)
        path.parent.mkdir(exist_ok=True)
        beside = {key.partition(".")[2]: ",".join(kept.pop(key)) for key in list(kept) if key.startswith(f"{name}.")}
        encoded = _file(table, split, kept.pop(name), beside)
        annotations.update(f"{path.relative_to(root)}\n".encode() + encoded)
        path.write_bytes(encoded)


def _file(table: Table, split: str, rows: list[str], beside: dict[str, str]) -> bytes:
    """The whole file; `beside` are other lists of the same file, the pictures of COCO's for one."""
    if table.rows == "lines":
        return ("\n".join(rows) + "\n").encode()
    listed = f"[{','.join(rows)}]"
    if table.rows == "pickle":
        return pickle.dumps(json.loads(listed), protocol=2)
    if not table.rows:
        return listed.encode()
    around = json.dumps(dict(table.around)).replace("{split}", split)[1:-1]
    lists = [f'"{key}":[{value}]' for key, value in beside.items()]
    return ("{" + ",".join([around, *lists, f'"{table.rows}":{listed}']) + "}").encode()
