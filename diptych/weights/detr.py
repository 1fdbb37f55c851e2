"""DETR's published weights as a start for E2E-VLP's detecting half: all but its classes.

    detr-r50-e632da11.pth ...     the authors' file: {"model": ...}, or the state dict alone

    diptych convert detr detr-r50-e632da11.pth runs/detr
    diptych pretrain e2e_vlp:paper --init image.trunk=runs/detr ...          the network, whatever the width
    ... with system.width=256 and DETR's sizes (docs/systems/e2e_vlp.md)      image, fusion, queries, decoder, detection

A start, not the same function. DETR's perceptrons have ReLU, ours GELU; its encoder is told in every layer where cells lie, ours
once before it, through a norm. Take both away and they agree, from the pixels to the gradients, as do decoder, heads, matching and
losses as they are (tests/weights/test_detr_parity.py). The classifier of COCO's categories is left behind, and told.

`input_proj` has a bias and no norm, ours a norm: statistics 0 and 1 make it the same until training gathers others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from diptych.checkpoint import write_file
from diptych.config import UserError
from diptych.weights.folder import fresh, read_any
from diptych.weights.rename import Report, State, Table, layers_in

EPS = 1e-5  # of our norm behind the projection

_ENCODER, _THEIRS = "fusion.encoder.layers.{i}", "transformer.encoder.layers.{i}"
ENCODER = Table(
    [
        ("image.project.weight", "input_proj.weight"),
        ("image.norm.bias", "input_proj.bias"),
        (f"{_ENCODER}.attention.qkv.*", f"{_THEIRS}.self_attn.in_proj_*"),
        (f"{_ENCODER}.attention.out.*", f"{_THEIRS}.self_attn.out_proj.*"),
        (f"{_ENCODER}.attention_norm.*", f"{_THEIRS}.norm1.*"),
        (f"{_ENCODER}.ffn.up.*", f"{_THEIRS}.linear1.*"),
        (f"{_ENCODER}.ffn.down.*", f"{_THEIRS}.linear2.*"),
        (f"{_ENCODER}.ffn_norm.*", f"{_THEIRS}.norm2.*"),
    ]
)

_DECODER, _THEIRS = "decoder.layers.{i}", "transformer.decoder.layers.{i}"
DECODER = Table(
    [
        ("queries.weight", "query_embed.weight"),
        (f"{_DECODER}.attention.qkv.*", f"{_THEIRS}.self_attn.in_proj_*"),
        (f"{_DECODER}.attention.out.*", f"{_THEIRS}.self_attn.out_proj.*"),
        (f"{_DECODER}.attention_norm.*", f"{_THEIRS}.norm1.*"),
        *((f"{_DECODER}.look.{part}.*", f"{_THEIRS}.multihead_attn.{part}_*") for part in ("query", "key", "value")),
        (f"{_DECODER}.look.out.*", f"{_THEIRS}.multihead_attn.out_proj.*"),
        (f"{_DECODER}.look_norm.*", f"{_THEIRS}.norm2.*"),
        (f"{_DECODER}.ffn.up.*", f"{_THEIRS}.linear1.*"),
        (f"{_DECODER}.ffn.down.*", f"{_THEIRS}.linear2.*"),
        (f"{_DECODER}.ffn_norm.*", f"{_THEIRS}.norm3.*"),
        ("decoder.norm.*", "transformer.decoder.norm.*"),
        *((f"detection.box.{2 * n}.*", f"bbox_embed.layers.{n}.*") for n in range(3)),
    ]
)


def from_authors(state: State) -> tuple[dict[str, Tensor], Report]:
    """(our weights, report)."""
    theirs, trunk = {}, {}
    for name, tensor in state.items():
        if name.startswith("backbone.0.body."):
            trunk[name.replace("backbone.0.body.", "image.trunk.")] = tensor
        elif ".multihead_attn.in_proj_" in name:  # three in one
            start, end = name.split("in_proj_")
            theirs |= {f"{start}{part}_{end}": one for part, one in zip(("query", "key", "value"), tensor.chunk(3), strict=True)}
        else:
            theirs[name] = tensor
    encoder, of_encoder = ENCODER.to_ours(theirs, layers_in(theirs, "transformer.encoder.layers.{i}."))
    decoder, of_decoder = DECODER.to_ours(theirs, layers_in(theirs, "transformer.decoder.layers.{i}."))
    missing = of_encoder.missing + of_decoder.missing
    ours = {**{n: t for n, t in trunk.items() if not n.endswith("num_batches_tracked")}, **encoder, **decoder}
    if "image.norm.bias" in ours:
        like = ours["image.norm.bias"]
        ours["image.norm.weight"], ours["image.norm.running_mean_C"] = torch.ones_like(like), torch.zeros_like(like)
        ours["image.norm.running_var_C"] = torch.full_like(like, 1 - EPS)
    return ours, Report(missing, sorted({*of_encoder.unexpected} & {*of_decoder.unexpected}))


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """The authors' file to a directory that `--init PART=` reads."""
    fresh(dest)
    state, _ = read_any(source)
    for name in ("backbone.0.body.conv1.weight", "query_embed.weight"):
        if name not in state:
            raise UserError(f"{source}: no DETR in its authors' naming, there is no {name}")
    weights, report = from_authors(state)
    dest.mkdir(parents=True, exist_ok=True)
    write_file(dest / "model.safetensors", save({name: tensor.contiguous() for name, tensor in weights.items()}))
    return {"source": str(source), "dest": str(dest), "used": len(weights), **report.to_dict()}
