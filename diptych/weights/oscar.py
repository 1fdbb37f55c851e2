"""Oscar's and VinVL's published weights into our VinVL: the authors' pre-trained models of any width and depth.

    a folder: pytorch_model.bin, config.json, vocab.txt; or the file alone, with vocab.txt beside it

It is BERT in BERT's names (weights/bert.py) with one matrix for regions; the tensors tell every size, the regions' included, but
the number of heads. The files themselves were out of reach: names and shapes are read from the code that writes them, and tried on
files made in its naming. What differs:

    theirs                                          here
    regions have no type embedding                  the hinge's type embeddings are zero
    a LayerNorm on regions, where they were         `system.image.norm` where the file has it
      trained with one (`use_img_layernorm`)
    Oscar: two classes, match or wrong tags         Oscar+'s three, of which the third, a wrong caption, can never win
    classes of the detector in a file of its own    `system.names` from the .json beside the weights that has a `label_to_idx`
                                                      (VG-SGG-dicts-vgoi6-clipped.json); without it docs/systems/vinvl.md
    heads of tasks (`classifier.*`)                 left behind, and told

Which of the six numbers behind a region's 2,048 is which is remembered, not read: x1 y1 x2 y2 w h, relative to the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.config import UserError
from diptych.weights.bert import MASKED_WORDS, body, in_names_of_today, parts
from diptych.weights.folder import fresh, read_any, read_json, write_run
from diptych.weights.rename import Report, State, Table, layers_in

BOX = 6  # numbers behind a region's feature
NEVER = -1e4  # a logit

AUTHORS = Table(
    [
        *body("bert"),
        ("image.project.*", "bert.img_embedding.*"),
        ("image.norm.*", "bert.LayerNorm.*"),
        ("fusion.pooler.dense.*", "bert.pooler.dense.*"),
        *MASKED_WORDS,
        ("contrast3.head.*", "cls.seq_relationship.*"),
    ]
)


def from_authors(state: State, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report) from a state dict and the content of its config.json, or {}."""
    theirs = in_names_of_today(state, "bert")
    ours, report = AUTHORS.to_ours(theirs, layers_in(theirs, "bert.encoder.layer.{i}."))
    has_norm, found = "image.norm.weight" in ours, parts(ours, config)
    absent = () if has_norm else ("bert.LayerNorm.",)
    if found["mlm"] and found["mlm"]["tied"]:
        absent += ("cls.predictions.decoder.",)
    report.missing = [name for name in report.missing if not name.startswith(absent)]
    for end, padding in (("weight", 0.0), ("bias", NEVER)):
        name = f"contrast3.head.{end}"
        if name in ours and len(ours[name]) == 2:
            ours[name] = torch.cat([ours[name], torch.full_like(ours[name][:1], padding)])
    ours["fusion.modality.weight"] = torch.zeros(2, found["width"])
    system = {
        "kind": "vinvl",
        "width": found["width"],
        "image": {
            "features": ours["image.project.weight"].shape[1] - BOX,
            "norm": has_norm,
            "eps": config.get("img_layer_norm_eps", 1e-12),
        },
        "tags": 14,
        "text": found["text"],
        "fusion": {"kind": "single_stream", **found["encoder"]},
        "mlm": found["mlm"] or {"unit": "token", "tied": True},
    }
    return system, ours, report


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """The authors' folder or file to one of our run directories."""
    fresh(dest)
    state, config = read_any(source)
    for name in ("bert.img_embedding.weight", "bert.embeddings.word_embeddings.weight"):
        if name not in state:
            raise UserError(f"{source}: no Oscar or VinVL, there is no {name}")
    system, weights, report = from_authors(state, config)
    system["names"] = names_beside(source)
    recipe = {
        "system": system,
        "text": {"max_tokens": 20},
        "data": {"image": {"short": 224, "long": 224}, "foreign": 1.0},
        "train": {"steps": 1_000_000, "batch_size": 1024, "lr": 1e-4, "warmup": 0.01, "clip": 10.0, "betas": (0.9, 0.999)},
    }
    write_run(source, dest, "VinVL", weights, recipe)
    known = {"features": system["image"]["features"], "names": len(system["names"])}
    return {"source": str(source), "dest": str(dest), **known, "used": len(weights), **report.to_dict()}


def names_beside(source: Path) -> list[str]:
    """ "background" and the detector's classes in their order, where a file beside the weights has them."""
    folder = source if source.is_dir() else source.parent
    for file in sorted(folder.glob("*.json")):
        held = read_json(file)
        places = held.get("label_to_idx") if isinstance(held, dict) else None
        if isinstance(places, dict):
            of = {place: name for name, place in places.items() if place}
            if sorted(of) != [*range(1, len(of) + 1)]:
                raise UserError(f"{file}: label_to_idx does not count from 1 to {len(of)}")
            return ["background", *(of[place] for place in sorted(of))]
    return []
