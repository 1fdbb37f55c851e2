"""BERT's published weights into ours and back: Hugging Face's layout, with the names of any age.

    bert-base-uncased, bert-large-cased ...   a folder: config.json, model.safetensors or pytorch_model.bin, vocab.txt
    pytorch_model.bin, model.safetensors      the file alone, with vocab.txt beside it

The shapes of the tensors tell every size but the number of heads, which the configuration tells; without one a head is 64 wide, as
in every published size. Files of any age are read: older ones call a norm's weight and bias gamma and beta, hold position_ids and
the decoder, which is the word embeddings again, newer ones its bias twice. A decoder that differs from the word embeddings stays
one of its own. A BertModel has no heads; a file without a pooler (BertForMaskedLM's) is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from diptych.checkpoint import read_weights, write_file, write_json
from diptych.config import UserError
from diptych.weights.folder import fresh, read_any, read_json, write_run
from diptych.weights.rename import Report, State, Table, layers_in


def body(theirs: str) -> list[tuple[str, str]]:
    """Embedding and layers of a BERT inside whatever model has it under `theirs`."""
    layer, their_layer = "fusion.encoder.layers.{i}", f"{theirs}.encoder.layer.{{i}}"
    return [
        ("text.word.weight", f"{theirs}.embeddings.word_embeddings.weight"),
        ("text.position.weight", f"{theirs}.embeddings.position_embeddings.weight"),
        ("text.segment.weight", f"{theirs}.embeddings.token_type_embeddings.weight"),
        ("text.norm.*", f"{theirs}.embeddings.LayerNorm.*"),
        (f"{layer}.attention.qkv.*", f"{their_layer}.attention.self.{{query,key,value}}.*"),
        (f"{layer}.attention.out.*", f"{their_layer}.attention.output.dense.*"),
        (f"{layer}.attention_norm.*", f"{their_layer}.attention.output.LayerNorm.*"),
        (f"{layer}.ffn.up.*", f"{their_layer}.intermediate.dense.*"),
        (f"{layer}.ffn.down.*", f"{their_layer}.output.dense.*"),
        (f"{layer}.ffn_norm.*", f"{their_layer}.output.LayerNorm.*"),
    ]


MASKED_WORDS = [
    ("mlm.head.dense.*", "cls.predictions.transform.dense.*"),
    ("mlm.head.norm.*", "cls.predictions.transform.LayerNorm.*"),
    ("mlm.head.decoder.weight", "cls.predictions.decoder.weight"),
    ("mlm.head.bias", "cls.predictions.bias"),
]

HUGGING_FACE = Table(
    [
        *body("bert"),
        ("fusion.pooler.dense.*", "bert.pooler.dense.*"),
        *MASKED_WORDS,
        ("nsp.head.*", "cls.seq_relationship.*"),
    ]
)


def from_hugging_face(state: State, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report) from a state dict and the content of its config.json, or {}."""
    theirs = in_names_of_today({n if n.startswith(("bert.", "cls.")) else f"bert.{n}": t for n, t in state.items()}, "bert")
    ours, report = HUGGING_FACE.to_ours(theirs, layers_in(theirs, "bert.encoder.layer.{i}."))
    system = {"kind": "bert", **parts(ours, config), "nsp": {} if "nsp.head.weight" in ours else None}
    return system, ours, _without_absent_heads(report, system)


def to_hugging_face(system: dict[str, Any], state: State) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(content of config.json, weights, report). A tied decoder is left out, as transformers itself saves it."""
    encoder, (vocab_size, width) = system["encoder"], state["text.word.weight"].shape
    theirs, report = HUGGING_FACE.to_theirs(state, encoder["layers"])
    heads = "BertForPreTraining" if system["nsp"] else "BertForMaskedLM"
    config = {
        "architectures": [heads if system["mlm"] else "BertModel"],
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": encoder["layers"],
        "num_attention_heads": encoder["heads"],
        "intermediate_size": len(state["fusion.encoder.layers.0.ffn.up.weight"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": encoder["attention_dropout"],
        "layer_norm_eps": encoder["eps"],
        "max_position_embeddings": len(state["text.position.weight"]),
        "type_vocab_size": len(state["text.segment.weight"]),
        "tie_word_embeddings": "mlm.head.decoder.weight" not in state,
    }
    return config, theirs, _without_absent_heads(report, system)


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """Published weights to one of our run directories, or one of ours to Hugging Face's layout, whichever `source` is not."""
    fresh(dest)
    config = read_json(source / "config.json") if source.is_dir() else {}
    if "recipe" in config:
        report = _export(source, dest, config["recipe"])
    elif config.get("model_type", "bert") == "bert" and source.exists():
        report = _import(source, dest, config)
    else:
        raise UserError(f"{source} is neither a BERT of Hugging Face's layout nor a run directory of ours")
    return {"source": str(source), "dest": str(dest), **report.to_dict()}


def in_names_of_today(state: State, under: str) -> dict[str, Tensor]:
    """A file of any age with a BERT `under` a name; a decoder that is the word embeddings again is left out."""
    theirs = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in state.items()
    }
    theirs.pop(f"{under}.embeddings.position_ids", None)  # a buffer of older files: 0, 1, 2 ...
    bias = theirs.pop("cls.predictions.decoder.bias", None)
    if bias is not None:
        theirs.setdefault("cls.predictions.bias", bias)
    decoder, word = (theirs.get(f"{name}.weight") for name in ("cls.predictions.decoder", f"{under}.embeddings.word_embeddings"))
    if decoder is not None and word is not None and torch.equal(decoder, word):
        del theirs["cls.predictions.decoder.weight"]
    return theirs


def parts(ours: State, config: dict[str, Any]) -> dict[str, Any]:
    """Our configuration of embedding, layers and masked-word head: what the tensors show, and what has to be told."""
    width, eps = ours["text.word.weight"].shape[1], config.get("layer_norm_eps", 1e-12)
    dropout = config.get("hidden_dropout_prob", 0.1)
    if (act := config.get("hidden_act", "gelu")) != "gelu":
        raise UserError(f"a BERT with hidden_act '{act}': ours has the exact GELU of the published ones")
    return {
        "width": width,
        "text": {
            "kind": "embedding",
            "positions": len(ours["text.position.weight"]),
            "segments": len(ours["text.segment.weight"]),
            "eps": eps,
            "dropout": dropout,
        },
        "encoder": {
            "layers": layers_in(ours, "fusion.encoder.layers.{i}."),
            "heads": config.get("num_attention_heads", max(width // 64, 1)),
            "ffn_ratio": len(ours["fusion.encoder.layers.0.ffn.up.weight"]) / width,
            "norm": "post",
            "eps": eps,
            "dropout": dropout,
            "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
        },
        "mlm": {"unit": "token", "eps": eps, "tied": "mlm.head.decoder.weight" not in ours}
        if "mlm.head.dense.weight" in ours
        else None,
    }


def _without_absent_heads(report: Report, system: dict[str, Any]) -> Report:
    """A head that is not there at all is a fact about the file, not a gap in it; a tied decoder likewise."""
    absent = [names for head, names in (("mlm", ("cls.predictions.", "mlm.")), ("nsp", ("cls.seq_", "nsp."))) if not system[head]]
    if system["mlm"] and system["mlm"]["tied"]:
        absent.append(("cls.predictions.decoder.", "mlm.head.decoder."))
    report.missing = [name for name in report.missing if not name.startswith(tuple(n for names in absent for n in names))]
    return report


def _import(source: Path, dest: Path, config: dict[str, Any]) -> Report:
    state, _ = read_any(source)
    names = {name.removeprefix("bert.") for name in state}
    for wanted, what in (("embeddings.word_embeddings.weight", "word embeddings"), ("pooler.dense.weight", "pooler")):
        if wanted not in names:
            raise UserError(f"{source}: no BERT that we can use, there is no {what} under a known name ({wanted})")
    system, weights, report = from_hugging_face(state, config)
    recipe = {
        "system": system,
        "task": None,
        "text": {"max_tokens": system["text"]["positions"]},
        "data": {"pairs": {}},
        "train": {"steps": 1_000_000, "batch_size": 256, "lr": 1e-4, "warmup": 0.01, "betas": (0.9, 0.999), "eps": 1e-6},
    }
    write_run(source, dest, "BERT", weights, recipe)
    return report


def _export(source: Path, dest: Path, recipe: dict[str, Any]) -> Report:
    system = recipe["system"]
    if system["kind"] != "bert" or recipe.get("task"):
        what = f"a task on {system['kind']}" if recipe.get("task") else system["kind"]
        raise UserError(f"{source}: a pre-trained bert has a place in transformers' BertForPreTraining; this is {what}")
    if system["encoder"]["norm"] != "post":
        raise UserError(f"{source}: transformers' BERT has its norms behind each part; this has system.encoder.norm=pre")
    config, weights, report = to_hugging_face(system, read_weights(source / "model.safetensors"))
    dest.mkdir(parents=True, exist_ok=True)
    write_json(dest / "config.json", config)
    write_file(dest / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_file(dest / "tokenizer.json", (source / "tokenizer.json").read_bytes())
    return report
