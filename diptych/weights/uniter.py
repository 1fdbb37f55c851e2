"""UNITER's published weights into ours: the authors' file of any width and depth, for regions of any width.

    uniter-base.pt, uniter-large.pt     a state dict; with bert-base-cased's vocab.txt beside it

The tensors tell every size but the number of heads (width / 64, as in BERT). The file itself was out of reach: names and shapes are
read from the code that writes it, and tried on files made in its naming. What differs, and loses nothing:

    theirs                                              here
    the type embedding of pictures is added to the      added to the bias of the features' norm: the same sum
      sum of the two norms of a region
    row 1 of a table of masks, added to a zero feature  `image.hidden`; row 0 is zero
    one region classifier for MRC and MRC-KL            MRC-KL's, the one of the two in the released mixtures
    `feat_regress.weight`, features' matrix again       left out; where it differs, `mrfr.tied=false`

A head that is not in the file leaves its objective out of the mixture. Heads of tasks are left behind, and told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.config import UserError
from diptych.weights.bert import MASKED_WORDS, body, in_names_of_today, parts
from diptych.weights.folder import fresh, read_any, write_run
from diptych.weights.rename import Report, State, Table, layers_in

_IMAGE, _WORDS = "uniter.img_embeddings", "uniter.embeddings.word_embeddings.weight"

AUTHORS = Table(
    [
        *body("uniter"),
        ("image.feature.*", f"{_IMAGE}.img_linear.*"),
        ("image.feature_norm.*", f"{_IMAGE}.img_layer_norm.*"),
        ("image.place.*", f"{_IMAGE}.pos_linear.*"),
        ("image.place_norm.*", f"{_IMAGE}.pos_layer_norm.*"),
        ("image.hidden", f"{_IMAGE}.mask_embedding.weight"),
        ("image.norm.*", f"{_IMAGE}.LayerNorm.*"),
        ("fusion.pooler.dense.*", "uniter.pooler.dense.*"),
        *MASKED_WORDS,
        ("itm.head.*", "itm_output.*"),
        ("mrfr.dense.*", "feat_regress.net.0.*"),
        ("mrfr.norm.*", "feat_regress.net.2.*"),
        ("mrfr.decoder.weight", "feat_regress.weight"),
        ("mrfr.bias", "feat_regress.bias"),
        ("mrc_kl.head.dense.*", "region_classifier.net.0.*"),
        ("mrc_kl.head.norm.*", "region_classifier.net.2.*"),
        ("mrc_kl.head.decoder.weight", "region_classifier.net.3.weight"),
        ("mrc_kl.head.bias", "region_classifier.net.3.bias"),
    ]
)
OF_OBJECTIVE = {"mlm": "cls.", "itm": "itm_output.", "mrfr": "feat_regress.", "mrc_kl": "region_classifier."}
SHARES = {"mlm": 2, "itm": 2, "mrfr": 1, "mrc_kl": 1}  # the published mixture


def from_authors(state: State) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report)."""
    theirs = in_names_of_today(state, "uniter")
    embed, decode = theirs[f"{_IMAGE}.img_linear.weight"], theirs.pop("feat_regress.weight", None)
    is_untied = decode is not None and not torch.equal(decode, embed)
    if decode is not None and is_untied:
        theirs["feat_regress.weight"] = decode.T.contiguous()
    if (masks := theirs.get(f"{_IMAGE}.mask_embedding.weight")) is not None:
        theirs[f"{_IMAGE}.mask_embedding.weight"] = masks[1]
    ours, report = AUTHORS.to_ours(theirs, layers_in(theirs, "uniter.encoder.layer.{i}."))
    has = {name: any(n.startswith(theirs_) for n in theirs) for name, theirs_ in OF_OBJECTIVE.items()}
    absent = tuple(OF_OBJECTIVE[name] for name in has if not has[name])
    absent += () if is_untied else ("feat_regress.weight",)
    if "mlm.head.decoder.weight" not in ours:
        absent += ("cls.predictions.decoder.",)
    report.missing = [name for name in report.missing if not name.startswith(absent)]
    if "image.feature_norm.bias" in ours:
        ours["image.feature_norm.bias"] = ours["image.feature_norm.bias"] + ours["text.segment.weight"][1]
    found = parts(ours, {})
    ours["fusion.modality.weight"] = torch.zeros(2, found["width"])
    system = {
        "kind": "uniter",
        "width": found["width"],
        "image": {"features": embed.shape[1]},
        "classes": len(ours["mrc_kl.head.bias"]) if "mrc_kl.head.bias" in ours else 0,
        "text": found["text"],
        "fusion": {"kind": "single_stream", **found["encoder"]},
        "mix": {name: float(SHARES[name] * has[name]) for name in SHARES},
        "mlm": found["mlm"] or {"unit": "token", "tied": True},
        "mrfr": {"tied": not is_untied},
        "mrc_kl": {"per_class": True},
    }
    return system, ours, report


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """The authors' file to one of our run directories."""
    fresh(dest)
    state, _ = read_any(source)
    for name in (_WORDS, f"{_IMAGE}.img_linear.weight"):
        if name not in state:
            raise UserError(f"{source}: no UNITER, there is no {name}")
    if not any(name.startswith(tuple(OF_OBJECTIVE.values())) for name in state):
        raise UserError(f"{source}: a UNITER without any head of pre-training; one of {', '.join(OF_OBJECTIVE.values())} is needed")
    system, weights, report = from_authors(state)
    recipe = {
        "system": system,
        "text": {"max_tokens": 40},
        "data": {"image": {"short": 224, "long": 224}},
        "train": {"steps": 200_000, "batch_size": 1024, "lr": 5e-5, "warmup": 0.05, "clip": 5.0},
    }
    write_run(source, dest, "UNITER", weights, recipe)
    known = {"features": system["image"]["features"], "classes": system["classes"]}
    return {"source": str(source), "dest": str(dest), **known, "used": len(weights), **report.to_dict()}
