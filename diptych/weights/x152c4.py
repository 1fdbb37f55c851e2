"""VinVL's published detector (vinvl_vg_x152c4.pth of scene_graph_benchmark) to a run that looks at pictures.

    vinvl_vg_x152c4.pth                    {"model": {"module.backbone.body.stem.conv1.weight": ..., ...}, ...}, or the state alone
    VG-SGG-dicts-vgoi6-clipped.json        beside it: "label_to_idx" and "attribute_to_idx", both from 1 on

    diptych convert x152c4 vinvl_vg_x152c4.pth runs/x152c4
    diptych regions extract --from runs/x152c4 --data my/pictures --out runs/regions

image/faster_rcnn.py has the published names behind `image.`; blocks, groups and widths are read off the shapes. Left behind:
anchors, which are computed, and the attribute head's copy of the box head's network, which it shares. The file itself was out of
reach: the names are those that its code gives; what of the rest is remembered, image/faster_rcnn.py tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

import diptych
from diptych.checkpoint import write_file, write_json
from diptych.config import UserError
from diptych.image.faster_rcnn import FasterRCNN
from diptych.text import tokenizer
from diptych.weights.folder import fresh, read_any, read_json
from diptych.weights.rename import State, compare, layers_in

LEFT = ("rpn.anchor_generator.", "attribute.feature_extractor.")
_BODY, _HEAD = "backbone.body.", "roi_heads.box.feature_extractor.head."


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """A run of `detector`, and a report of the tensors."""
    fresh(dest)
    held, _ = read_any(source)
    state = {name: tensor for name, tensor in held.items() if not name.startswith(LEFT)}
    folder = source if source.is_dir() else source.parent
    sizes = _sizes(source, state, folder)
    classes, looks = 1 + len(sizes["names"]), max(1, len(sizes["attributes"]))
    if report := compare(sizes["image"].build(classes, looks), state):
        raise UserError(f"{source}: not X152-C4's tensors: {report.to_dict()}")
    recipe = {  # as detector:paper
        "system": {"kind": "detector", "least_seen": 30, "attribute_weight": 1.25, **sizes, "image": sizes["image"].model_dump()},
        "data": {"image": {"short": 600, "long": 1000, "multiple": 16}},
        "train": {"steps": 90_000, "batch_size": 16, "lr": 0.01},
    }
    words = tokenizer.load("atelier")  # a detector reads no text
    dest.mkdir(parents=True, exist_ok=True)
    words.save(dest / "tokenizer.json")
    about = {"diptych": diptych.__version__, "verb": "convert", "system": "detector", "preset": None, "task": None, "data": []}
    weights = {f"image.{name}": tensor.contiguous() for name, tensor in state.items()}
    write_file(dest / "model.safetensors", save(weights))
    write_file(dest / "README.md", f"# VinVL's detector\n\nFrom `{source.name}`, by `diptych convert x152c4`.\n".encode())
    write_json(dest / "config.json", about | {"recipe": recipe, "sources": []})
    left = sorted(held.keys() - state.keys())
    return {"used": len(state), "left behind": left, "classes": classes - 1, "attributes": looks}


def _sizes(source: Path, state: State, folder: Path) -> dict[str, Any]:
    try:
        classes, label_width = state["attribute.predictor.cls_embedding.weight"].shape
        attributes, attribute_width = state["attribute.predictor.attr_score.weight"].shape
        width, in_group = state[f"{_BODY}layer1.0.conv2.weight"].shape[:2]
    except (KeyError, ValueError):
        raise UserError(f"{source}: no tensors of X152-C4 with attributes (backbone.body.*, attribute.predictor.*)") from None
    stages = [f"{_BODY}layer{n}.{{i}}." for n in (1, 2, 3)] + [f"{_HEAD}layer4.{{i}}."]
    one, two, three, four = (layers_in(state, stage) for stage in stages)
    image = FasterRCNN.Config(
        blocks=(one, two, three, four),
        groups=width // in_group,
        group_width=in_group,
        label_width=label_width,
        attribute_width=attribute_width,
    )
    names, looks = _names(folder)
    return {
        "image": image,
        "names": names or tuple(f"class {n}" for n in range(1, classes)),
        "attributes": ("none", *looks) if looks else tuple(f"attribute {n}" for n in range(attributes)),
    }


def _names(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of classes and attributes, in the order of the file beside the weights; nothing where there is none."""
    for file in sorted(folder.glob("*.json")):
        held = read_json(file)
        if isinstance(held, dict) and {"label_to_idx", "attribute_to_idx"} <= held.keys():
            return tuple(
                tuple(name for name, place in sorted(held[key].items(), key=lambda pair: pair[1]) if place)
                for key in ("label_to_idx", "attribute_to_idx")
            )  # pyright: ignore[reportReturnType]
    return (), ()
