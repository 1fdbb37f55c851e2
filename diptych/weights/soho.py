"""SOHO's published weights into ours: the authors' .pth (mmcv) of any width, depth and dictionary.

    soho_res18_fp16_40-9441cdd3.pth ...     {"meta": ..., "state_dict": ..., "optimizer": ...}, or the state dict alone

The shapes tell every size but the number of heads (width / 64, as in BERT). The file itself was out of reach: names and shapes are
read from the code that writes it, and tried on files made in its naming. What it has and we do not: the decoder of the words, a
second copy of the embeddings, which is reported where it differs; and a tally of how often each visual word was ever chosen, which
nothing reads. What we have and it does not: a bias of the match head and types of text and picture, which start at zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.config import UserError
from diptych.weights.bert import body
from diptych.weights.folder import fresh, torch_load, write_run
from diptych.weights.rename import Report, State, Table, layers_in

_BERT = "language.bert.embeddings"

AUTHORS = Table(
    [
        ("image.project.weight", "neck.conv.conv.weight"),
        ("image.norm.*", "neck.conv.bn.*"),
        ("image.norm.running_mean_C", "neck.conv.bn.running_mean"),
        ("image.norm.running_var_C", "neck.conv.bn.running_var"),
        ("dictionary.word_KD", "neck.vq.embed"),
        ("dictionary.count_K", "neck.vq.cluster_size"),
        ("dictionary.sum_KD", "neck.vq.embed_avg"),
        ("neck.align.*", "neck.pos_line.*"),
        ("neck.gate.weight", "neck.gate_fc.conv.weight"),
        ("neck.gate_norm.*", "neck.gate_fc.bn.*"),
        ("neck.gate_norm.running_mean_C", "neck.gate_fc.bn.running_mean"),
        ("neck.gate_norm.running_var_C", "neck.gate_fc.bn.running_var"),
        ("neck.norm.*", "neck.ln.*"),
        ("mvm.hidden_D", "neck.mask_emb.weight 1"),
        *body("language.bert"),
        ("itm.head.weight", "head.match_class.weight"),
    ]
)

# blocks of the four stages, and whether a block has three convolutions
RESNETS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


def from_authors(state: State) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report)."""
    theirs = {name: tensor for name, tensor in state.items() if not name.endswith(("num_batches_tracked", "position_ids"))}
    theirs.pop("neck.vq.cluster_sum", None)
    decoder, words = theirs.get("mask_l_fc.weight"), theirs.get(f"{_BERT}.word_embeddings.weight")
    if decoder is not None and words is not None and torch.equal(decoder, words):
        theirs.pop("mask_l_fc.weight")
    trunk = {name: theirs.pop(name) for name in [*theirs] if name.startswith("backbone.")}
    if "neck.gate_fc.conv.weight" in theirs:
        theirs["neck.gate_fc.conv.weight"] = theirs["neck.gate_fc.conv.weight"].flatten(1)  # a 1 x 1 convolution
    ours, report = AUTHORS.to_ours(theirs, layers_in(theirs, "language.bert.encoder.layer.{i}."))
    is_gated = "neck.gate.weight" in ours
    if not is_gated:
        report.missing = [name for name in report.missing if not name.startswith("neck.gate_fc.")]
    width = ours["text.word.weight"].shape[1]
    ours |= {f"image.trunk.{name.removeprefix('backbone.')}": tensor for name, tensor in trunk.items()}
    ours |= {"fusion.modality.weight": torch.zeros(2, width), "itm.head.bias": torch.zeros(2)}
    return _system(ours, is_gated), ours, report


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """The authors' file to one of our run directories."""
    fresh(dest)
    if not source.is_file():
        raise UserError(f"{source} is no file; SOHO's weights are one, soho_res18_fp16_40-9441cdd3.pth")
    held = torch_load(source)
    state = held.get("state_dict", held) if isinstance(held, dict) else {}
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name in (f"{_BERT}.word_embeddings.weight", "neck.vq.embed", "backbone.conv1.weight"):
        if name not in state:
            raise UserError(f"{source}: no pre-trained SOHO, there is no {name}")
    system, weights, report = from_authors(state)
    recipe = {
        "system": system,
        "text": {"max_tokens": 16},
        "data": {"image": {"short": 600, "long": 1000, "multiple": 64}, "texts_per_image": 4, "foreign": 1.0},
        "train": {"steps": 8555, "batch_size": 1024, "lr": 1e-4, "clip": 10.0},
    }
    write_run(source, dest, "SOHO", weights, recipe)
    return {"source": str(source), "dest": str(dest), "used": len(weights), **report.to_dict()}


def _system(ours: State, is_gated: bool) -> dict[str, Any]:
    words, width = ours["dictionary.word_KD"].shape
    return {
        "kind": "soho",
        "width": width,
        "image": {"kind": "resnet", "depth": _depth(ours), "norm": "frozen", "frozen": 2, "pool": True, "project": True},
        "dictionary": {"words": words, "decay": 0.4, "start": "zero"},
        "neck": {"gated": is_gated},
        "text": {"positions": len(ours["text.position.weight"]), "segments": len(ours["text.segment.weight"])},
        "fusion": {
            "kind": "single_stream",
            "layers": layers_in(ours, "fusion.encoder.layers.{i}."),
            "heads": max(1, width // 64),
            "ffn_ratio": len(ours["fusion.encoder.layers.0.ffn.up.weight"]) / width,
            "norm": "post",
            "eps": 1e-12,
            "attention_dropout": 0.1,
            "pooler": False,
        },
        "mvm": {"rate": 0.015},
    }


def _depth(ours: State) -> int:
    blocks = tuple(layers_in(ours, f"image.trunk.layer{stage}.{{i}}.") for stage in (1, 2, 3, 4))
    depth = RESNETS.get((blocks, "image.trunk.layer1.0.conv3.weight" in ours))
    if depth is None:
        raise UserError(f"backbone.*: stages of {', '.join(map(str, blocks))} blocks are none of torchvision's ResNets")
    return depth
