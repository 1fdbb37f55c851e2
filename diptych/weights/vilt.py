"""ViLT's published weights into ours and back: Hugging Face's layout both ways, and the authors' own .ckpt in.

    dandelin/vilt-b32-mlm, -mlm-itm, -finetuned-coco ...    a folder: config.json, model.safetensors or pytorch_model.bin
    vilt_200k_mlm_itm.ckpt ...                              the authors' file (Lightning): {"state_dict": ...}

The shapes of the tensors tell every size but the number of heads. Hugging Face's configuration has one LayerNorm eps for
everything (1e-12); the authors trained with 1e-12 in the text embedding and the masked-word head and 1e-6 in the blocks, and
so do we. A folder's own value is followed, so that its numbers come out as transformers gives them; exporting keeps the value
of the blocks.

What a file may lack or have: a ViltModel has neither head; retrieval models have one match logit (`rank_output`), which becomes
our match row over a mismatch row of zeros, in the place of the frozen head that it was fine-tuned from (the authors' files hold
both); a VQA classifier becomes a fine-tuned VQA run with its answers, NLVR2's a fine-tuned run that reads two pictures one by one
(task.encoding=pair). All go back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from diptych.checkpoint import read_weights, write_file, write_json
from diptych.config import UserError
from diptych.weights.folder import fresh, read_json, read_state, torch_load, write_run
from diptych.weights.rename import Report, State, Table, layers_in

_TEXT, _LAYER = "vilt.embeddings.text_embeddings", "fusion.encoder.layers.{i}"

HUGGING_FACE = Table(
    [
        ("text.word.weight", f"{_TEXT}.word_embeddings.weight"),
        ("text.position.weight", f"{_TEXT}.position_embeddings.weight"),
        ("text.segment.weight", f"{_TEXT}.token_type_embeddings.weight"),
        ("text.norm.*", f"{_TEXT}.LayerNorm.*"),
        ("fusion.modality.weight", "vilt.embeddings.token_type_embeddings.weight"),
        ("image.cls", "vilt.embeddings.cls_token 2"),
        ("image.position", "vilt.embeddings.position_embeddings 1"),
        ("image.project.*", "vilt.embeddings.patch_embeddings.projection.*"),
        (f"{_LAYER}.attention_norm.*", "vilt.encoder.layer.{i}.layernorm_before.*"),
        (f"{_LAYER}.attention.qkv.*", "vilt.encoder.layer.{i}.attention.attention.{query,key,value}.*"),
        (f"{_LAYER}.attention.out.*", "vilt.encoder.layer.{i}.attention.output.dense.*"),
        (f"{_LAYER}.ffn_norm.*", "vilt.encoder.layer.{i}.layernorm_after.*"),
        (f"{_LAYER}.ffn.up.*", "vilt.encoder.layer.{i}.intermediate.dense.*"),
        (f"{_LAYER}.ffn.down.*", "vilt.encoder.layer.{i}.output.dense.*"),
        ("fusion.encoder.norm.*", "vilt.layernorm.*"),
        ("fusion.pooler.dense.*", "vilt.pooler.dense.*"),
        ("mlm.head.dense.*", "mlm_score.transform.dense.*"),
        ("mlm.head.norm.*", "mlm_score.transform.LayerNorm.*"),
        ("mlm.head.decoder.weight", "mlm_score.decoder.weight"),
        ("mlm.head.bias", "mlm_score.decoder.bias"),
        ("itm.head.*", "itm_score.fc.*"),
    ]
)

AUTHORS = Table(
    [
        ("text.word.weight", "text_embeddings.word_embeddings.weight"),
        ("text.position.weight", "text_embeddings.position_embeddings.weight"),
        ("text.segment.weight", "text_embeddings.token_type_embeddings.weight"),
        ("text.norm.*", "text_embeddings.LayerNorm.*"),
        ("fusion.modality.weight", "token_type_embeddings.weight"),
        ("image.cls", "transformer.cls_token 2"),
        ("image.position", "transformer.pos_embed 1"),
        ("image.project.*", "transformer.patch_embed.proj.*"),
        (f"{_LAYER}.attention_norm.*", "transformer.blocks.{i}.norm1.*"),
        (f"{_LAYER}.attention.qkv.*", "transformer.blocks.{i}.attn.qkv.*"),
        (f"{_LAYER}.attention.out.*", "transformer.blocks.{i}.attn.proj.*"),
        (f"{_LAYER}.ffn_norm.*", "transformer.blocks.{i}.norm2.*"),
        (f"{_LAYER}.ffn.up.*", "transformer.blocks.{i}.mlp.fc1.*"),
        (f"{_LAYER}.ffn.down.*", "transformer.blocks.{i}.mlp.fc2.*"),
        ("fusion.encoder.norm.*", "transformer.norm.*"),
        ("fusion.pooler.dense.*", "pooler.dense.*"),
        ("mlm.head.dense.*", "mlm_score.transform.dense.*"),
        ("mlm.head.norm.*", "mlm_score.transform.LayerNorm.*"),
        ("mlm.head.decoder.weight", "mlm_score.decoder.weight"),
        ("mlm.head.bias", "mlm_score.bias"),
        ("itm.head.*", "itm_score.fc.*"),
    ]
)

CLASSIFIER = Table([("head.up.*", "classifier.0.*"), ("head.norm.*", "classifier.1.*"), ("head.down.*", "classifier.3.*")])
CLASSIFIES = {"ViltForQuestionAnswering": "vqa", "ViltForImagesAndTextClassification": "nlvr2"}
TRUTHS = ("False", "True")  # the labels of tasks/nlvr2.py, in its order


def from_hugging_face(state: State, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(our system's configuration, our weights, report) from a state dict and the content of its config.json."""
    theirs = {name if name.startswith(_OUTSIDE) else f"vilt.{name.removeprefix('vilt.')}": tensor for name, tensor in state.items()}
    theirs.pop(f"{_TEXT}.position_ids", None)  # a buffer of older files: 0, 1, 2 ...
    if "mlm_score.bias" in theirs:  # older files; some hold it twice
        theirs["mlm_score.decoder.bias"] = theirs.pop("mlm_score.bias")
    _rank_to_match(theirs)
    ours, report = HUGGING_FACE.to_ours(theirs, layers_in(theirs, "vilt.encoder.layer.{i}."))
    eps = config["layer_norm_eps"]
    dropout, attention_dropout = config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]
    system = _system(ours, config["num_attention_heads"], eps, eps, dropout, attention_dropout)
    return system, ours, _without_absent_heads(report, system)


def from_authors(state: State) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    theirs = dict(state)
    theirs.pop("text_embeddings.position_ids", None)
    _rank_to_match(theirs)
    ours, report = AUTHORS.to_ours(theirs, layers_in(theirs, "transformer.blocks.{i}."))
    system = _system(
        ours, heads=ours["text.word.weight"].shape[1] // 64, text_eps=1e-12, block_eps=1e-6, dropout=0.1, attention_dropout=0.0
    )
    return system, ours, _without_absent_heads(report, system)


def to_hugging_face(system: dict[str, Any], state: State) -> tuple[dict[str, Any], dict[str, Tensor], Report]:
    """(content of config.json, weights, report); the match head, which transformers lacks, goes by the authors' name."""
    layers = system["fusion"]["layers"]
    theirs, report = HUGGING_FACE.to_theirs(state, layers)
    vocab_size, width = state["text.word.weight"].shape
    config = {
        "architectures": ["ViltForMaskedLM" if system["mlm"] else "ViltModel"],
        "model_type": "vilt",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": system["fusion"]["heads"],
        "intermediate_size": state["fusion.encoder.layers.0.ffn.up.weight"].shape[0],
        "hidden_dropout_prob": system["fusion"]["dropout"],
        "attention_probs_dropout_prob": system["fusion"]["attention_dropout"],
        "layer_norm_eps": system["fusion"]["eps"],
        "max_position_embeddings": state["text.position.weight"].shape[0],
        "type_vocab_size": state["text.segment.weight"].shape[0],
        "modality_type_vocab_size": state["fusion.modality.weight"].shape[0],
        "image_size": system["image"]["grid"] * system["image"]["patch"],
        "patch_size": system["image"]["patch"],
        "max_image_length": -1,
        "tie_word_embeddings": "mlm.head.decoder.weight" not in state,
    }
    return config, theirs, _without_absent_heads(report, system)


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """Published weights to one of our run directories, or one of ours to Hugging Face's layout, whichever `source` is not."""
    fresh(dest)
    config = read_json(source / "config.json") if source.is_dir() else {}
    if "recipe" in config:
        report = _export(source, dest, config["recipe"])
    elif config.get("model_type") == "vilt":
        report = _import_folder(source, dest, config)
    elif source.is_file():
        system, weights, report = from_authors(_vilt_in(source, torch_load(source)))
        _write_run(source, dest, system, weights)
    else:
        wanted = "a ViLT folder of Hugging Face's layout, the authors' .ckpt, or a run directory of ours"
        raise UserError(f"{source} is none of these: {wanted}")
    return {"source": str(source), "dest": str(dest), **report.to_dict()}


_OUTSIDE = ("vilt.", "mlm_score.", "itm_score.", "rank_output.", "classifier.")


def _rank_to_match(theirs: dict[str, Tensor]) -> None:
    if "rank_output.weight" in theirs:
        for end in ("weight", "bias"):
            row = theirs.pop(f"rank_output.{end}")
            theirs[f"itm_score.fc.{end}"] = torch.cat([torch.zeros_like(row), row])


def _match_to_rank(theirs: State) -> dict[str, Tensor]:
    """The log-odds of a match as one row."""
    return {f"rank_output.{end}": theirs[f"itm_score.fc.{end}"].diff(dim=0) for end in ("weight", "bias")}


def _system(ours: State, heads: int, text_eps: float, block_eps: float, dropout: float, attention_dropout: float) -> dict[str, Any]:
    """Our configuration, as plain data: what the tensors show, and what has to be told."""
    width, has_mlm, has_itm = ours["text.word.weight"].shape[1], "mlm.head.dense.weight" in ours, "itm.head.weight" in ours
    return {
        "kind": "vilt",
        "width": width,
        "image": {
            "kind": "patches",
            "patch": ours["image.project.weight"].shape[-1],
            "grid": round((len(ours["image.position"]) - 1) ** 0.5),
            "dropout": dropout,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "text": {
            "kind": "embedding",
            "positions": len(ours["text.position.weight"]),
            "segments": len(ours["text.segment.weight"]),
            "eps": text_eps,
            "dropout": dropout,
        },
        "fusion": {
            "kind": "single_stream",
            "pictures": len(ours["fusion.modality.weight"]) - 1,
            "layers": layers_in(ours, "fusion.encoder.layers.{i}."),
            "heads": heads,
            "ffn_ratio": len(ours["fusion.encoder.layers.0.ffn.up.weight"]) / width,
            "norm": "pre",
            "eps": block_eps,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
        },
        # a masked-word head without its own matrix decodes with the word embeddings
        "mlm": {"eps": text_eps, "tied": "mlm.head.decoder.weight" not in ours} if has_mlm else None,
        "itm": {} if has_itm else None,
        "wpa": {} if has_itm else None,
    }


def _without_absent_heads(report: Report, system: dict[str, Any]) -> Report:
    """A head that is not there at all is a fact about the file, not a gap in it; a tied decoder likewise."""
    absent = [names for head, names in (("mlm", ("mlm_score.", "mlm.")), ("itm", ("itm_score.", "itm."))) if not system[head]]
    if system["mlm"] and system["mlm"].get("tied"):
        absent.append(("mlm_score.decoder.weight", "mlm.head.decoder.weight"))
    report.missing = [name for name in report.missing if not any(name.startswith(names) for names in absent)]
    return report


def _vilt_in(source: Path, held: Any) -> State:
    """The state dict of a file, which may be a checkpoint around it."""
    state = held.get("state_dict", held) if isinstance(held, dict) else {}
    if not any(name.endswith("text_embeddings.word_embeddings.weight") for name in state):
        raise UserError(f"{source}: no ViLT, there are no word embeddings under a known name")
    return state


def _import_folder(source: Path, dest: Path, config: dict[str, Any]) -> Report:
    state = _vilt_in(source, read_state(source))
    kind = next((CLASSIFIES[name] for name in config.get("architectures") or () if name in CLASSIFIES), None)
    if kind is None:
        system, weights, report = from_hugging_face(state, config)
        _write_run(source, dest, system, weights)
        return report
    classifier = {name: tensor for name, tensor in state.items() if name.startswith("classifier.")}
    rest = {name: tensor for name, tensor in state.items() if name not in classifier}
    system, weights, report = from_hugging_face(rest, config)
    head, head_report = CLASSIFIER.to_ours(classifier, layers=0)
    report.missing += head_report.missing
    labels = [config["id2label"][str(k)] for k in range(len(config["id2label"]))]
    if kind == "nlvr2" and labels != [*TRUTHS]:
        raise UserError(f"{source}: its labels are {', '.join(labels)}, and NLVR2's are {', '.join(TRUTHS)}")
    task = {"vqa": {"kind": "vqa", "head": "classifier", "answers": labels}, "nlvr2": {"kind": "nlvr2", "encoding": "pair"}}[kind]
    _write_run(source, dest, system, {**{f"system.{name}": tensor for name, tensor in weights.items()}, **head}, task)
    return report


def _write_run(source: Path, dest: Path, system: dict[str, Any], weights: State, task: dict[str, Any] | None = None) -> None:
    """A run directory with the published training settings, ready for `--from`."""
    short = system["image"]["grid"] * system["image"]["patch"]
    image = {"short": short, "long": short * 1333 // 800, "multiple": system["image"]["patch"]}
    recipe = {
        "system": system,
        "task": task,
        "text": {"max_tokens": system["text"]["positions"]},
        "data": {"image": image},
        "train": {"steps": 200_000, "batch_size": 4096, "lr": 1e-4, "clip": None},
    }
    write_run(source, dest, "ViLT", weights, recipe)


def _export(source: Path, dest: Path, recipe: dict[str, Any]) -> Report:
    system, image = recipe["system"], recipe["data"]["image"]
    hinge = f" with system.fusion.kind={system['fusion']['kind']}" if system["kind"] == "vilt" else ""
    if system["kind"] != "vilt" or system["fusion"]["kind"] != "single_stream":
        raise UserError(f"{source}: Hugging Face's ViLT is patches in a single stream; this is {system['kind']}{hinge}")
    task, ours = recipe.get("task") or {}, read_weights(source / "model.safetensors")
    kind = task.get("kind")
    if (
        kind not in (None, "retrieval", *CLASSIFIES.values())
        or task.get("head") == "cloze"
        or task.get("encoding", "pair") != "pair"
    ):
        places = "VQA classifier, its NLVR2 by pairs and its retrieval"
        raise UserError(f"{source}: transformers has a place for ViLT's {places}, not for this {kind} head")
    head = {name: tensor for name, tensor in ours.items() if kind and not name.startswith("system.")}
    ours = {name.removeprefix("system."): tensor for name, tensor in ours.items() if name not in head}
    config, weights, report = to_hugging_face(system, ours)
    if kind in CLASSIFIES.values():
        weights |= CLASSIFIER.to_theirs(head, layers=0)[0]
        labels = task["answers"] if kind == "vqa" else TRUTHS
        config["architectures"] = [name for name, own in CLASSIFIES.items() if own == kind]
        config["id2label"] = dict(enumerate(labels))
        config["label2id"] = {label: k for k, label in enumerate(labels)}
        config |= {"num_images": system["fusion"]["pictures"]} if kind == "nlvr2" else {}
    elif system["itm"] and (kind == "retrieval" or not system["mlm"]):
        weights |= _match_to_rank(weights)
        config["architectures"] = ["ViltForImageAndTextRetrieval"]
    dest.mkdir(parents=True, exist_ok=True)
    write_json(dest / "config.json", config)
    write_file(dest / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_file(dest / "tokenizer.json", (source / "tokenizer.json").read_bytes())
    processor = {
        "image_processor_type": "ViltImageProcessor",
        "processor_class": "ViltProcessor",
        "size": {"shortest_edge": image["short"]},
        "size_divisor": image["multiple"],
        "image_mean": list(system["image"]["mean"]),
        "image_std": list(system["image"]["std"]),
    }
    write_json(dest / "preprocessor_config.json", processor)
    return report
