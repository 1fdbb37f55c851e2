"""ALIGN's published weights into ours: Hugging Face's layout, EfficientNet of any size beside BERT of any size.

    kakaobrain/align-base       a folder: config.json, model.safetensors or pytorch_model.bin, vocab.txt (or tokenizer.json)

The blocks of the image tower are counted through there and lie in stages here, so the table depends on the size, which the folder's
configuration tells by its two coefficients. The network is the same but for where zeros are put (image/efficientnet.py: "late");
ones for odd sides (`depthwise_padding`) are refused. A pooler in the text tower, whose output nothing reads, is left out.

Losses: transformers averages the two directions, as we do, each smoothed by .1; the paper and the released training code sum them
(`contrast.weight=2`, as `align:paper` has it). Running statistics: `batch_norm_momentum` .99 there, read as torch reads it, takes
99 % from the newest batch; the network's own code means 1 %, and so do we. It matters in training alone. Evaluation crops 289 of
346 pixels there; here the picture is resized to 288, a whole number of cells.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.config import UserError
from diptych.image.efficientnet import MULTIPLY, STAGES, Size
from diptych.weights.bert import body, in_names_of_today, parts
from diptych.weights.folder import fresh, read_json, read_state, write_run
from diptych.weights.rename import Report, State, Table, layers_in

SMOOTHING, SIDE = 0.1, 288  # of a target; of a picture, in pixels


def table(size: Size) -> Table:
    """All names of ALIGN with an image tower of that size."""
    rows = _convolution("image.trunk.0", "vision_model.embeddings.convolution", "vision_model.embeddings.batchnorm")
    block = 0
    for stage, (expansion, *_, repeats) in enumerate(STAGES, 1):
        for j in range(math.ceil(repeats * MULTIPLY[size][1])):
            ours, theirs = f"image.trunk.{stage}.{j}.block", f"vision_model.encoder.blocks.{block}"
            n = 0 if expansion == 1 else 1
            if n:
                rows += _convolution(f"{ours}.0", f"{theirs}.expansion.expand_conv", f"{theirs}.expansion.expand_bn")
            depthwise = f"{theirs}.depthwise_conv"
            rows += _convolution(f"{ours}.{n}", f"{depthwise}.depthwise_conv", f"{depthwise}.depthwise_norm")
            rows += [(f"{ours}.{n + 1}.fc1.*", f"{theirs}.squeeze_excite.reduce.*")]
            rows += [(f"{ours}.{n + 1}.fc2.*", f"{theirs}.squeeze_excite.expand.*")]
            rows += _convolution(f"{ours}.{n + 2}", f"{theirs}.projection.project_conv", f"{theirs}.projection.project_bn")
            block += 1
    heads = [("text_head.*", "text_projection.*"), ("contrast.log_temperature", "temperature")]
    return Table([*rows, *body("text_model"), *heads])


def from_hugging_face(state: State, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report) from a state dict and the content of its config.json."""
    vision, text = config["vision_config"], config["text_config"]
    size = _size(vision)
    theirs = {name: tensor for name, tensor in in_names_of_today(state, "text_model").items() if not _is_unread(name)}
    ours, report = table(size).to_ours(theirs, layers_in(theirs, "text_model.encoder.layer.{i}."))
    found = parts(ours, text)
    system = {
        "kind": "align",
        "width": found["width"],
        "image_width": len(ours["text_head.weight"]),
        "image": {"kind": "efficientnet", "size": size, "padding": "late", "drop": vision.get("drop_connect_rate", 0.2)},
        "text": found["text"],
        "encoder": found["encoder"],
        "contrast": {"temperature": float(ours["contrast.log_temperature"]), "learnable": True, "smoothing": SMOOTHING},
        "optimizer": "lamb",
    }
    ours["contrast.log_temperature"] = ours["contrast.log_temperature"].log()
    return system, ours, report


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """A folder of Hugging Face's layout to one of our run directories."""
    fresh(dest)
    config = read_json(source / "config.json") if source.is_dir() else {}
    if config.get("model_type") != "align":
        raise UserError(f"{source} is no ALIGN of Hugging Face's layout, a folder whose config.json says so")
    state = read_state(source)
    for name in ("temperature", "text_projection.weight", "text_model.embeddings.word_embeddings.weight"):
        if name not in state:
            raise UserError(f"{source}: no whole ALIGN, there is no {name}")
    system, weights, report = from_hugging_face(state, config)
    recipe = {
        "system": system,
        "text": {"max_tokens": min(64, system["text"]["positions"])},
        "data": {"image": {"short": SIDE, "long": SIDE, "multiple": 32}},
        "train": {"steps": 300_000, "batch_size": 65_536, "lr": 2e-3, "warmup": 40 / 300, "weight_decay": 1e-5, "clip": None},
    }
    write_run(source, dest, "ALIGN", weights, recipe)
    return {"source": str(source), "dest": str(dest), "used": len(weights), **report.to_dict()}


def _convolution(ours: str, conv: str, norm: str) -> list[tuple[str, str]]:
    """torchvision's pair of a convolution and its batch normalisation."""
    moments = [(f"{ours}.1.running_{one}_C", f"{norm}.running_{one}") for one in ("mean", "var")]
    return [(f"{ours}.0.weight", f"{conv}.weight"), (f"{ours}.1.*", f"{norm}.*"), *moments]


def _is_unread(name: str) -> bool:
    return name.endswith("num_batches_tracked") or name.startswith("text_model.pooler.")


def _size(vision: dict[str, Any]) -> Size:
    if vision.get("depthwise_padding"):
        raise UserError(f"an ALIGN with depthwise_padding={vision['depthwise_padding']}: ours pads every map as an even one")
    wanted = vision["width_coefficient"], vision["depth_coefficient"]
    for size, multiples in MULTIPLY.items():
        if multiples == wanted:
            return size
    raise UserError("an image tower {} times as wide and {} times as deep as EfficientNet-B0: no size of ours".format(*wanted))
