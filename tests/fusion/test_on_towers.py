"""A hinge on towers: which picture and where matters to it, pre-training has none, and fine-tuning puts one there and keeps it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_every_system import Case, with_pictures

import diptych
from diptych import cli, find
from diptych.checkpoint import read_weights
from diptych.config import UserError
from diptych.contracts import Visual
from diptych.data import coco_captions, vqa_v2
from diptych.fusion.on_towers import OnTowers

BOTH = pytest.mark.parametrize("name", ["align", "mural"])


@BOTH
def test_which_picture_comes_first_and_where_its_cells_lie_matters(name: str):
    case = Case(name)
    system = case.build(fusing=True).eval()
    batch = with_pictures(case.batch(system))
    one = batch.image_of_BN[:, :1]
    other = (one + 1) % len(batch.images.pixel_I3HW)
    with torch.no_grad():
        ab, ba = (system.fuse(replace(batch, image_of_BN=torch.cat(two, 1))) for two in ((one, other), (other, one)))
        a = system.fuse(batch)
        visual = system.see(batch)
        moved = system.fuse(batch, Visual(*(part.flip(1) for part in visual)))
        absent = system.fuse(replace(batch, image_of_BN=torch.cat([one, torch.full_like(one, -1)], 1)))
    assert (ab.pooled_BD - ba.pooled_BD).abs().max() > 1e-3
    assert (a.pooled_BD - ab.pooled_BD).abs().max() > 1e-3
    torch.testing.assert_close(a.pooled_BD, moved.pooled_BD)  # a token brings its place with it, wherever it stands in the list
    torch.testing.assert_close(a.pooled_BD, absent.pooled_BD)
    assert ab.image_slot_BV.unique().tolist() == [0, 1] and ab.image_BVD.shape[2] == ab.pooled_BD.shape[1] == system.config.width
    lifted = OnTowers.Config(heads=2).build(system.config.width, system.config.image_width).lifted
    cells = torch.zeros_like(case.build().see(batch).token_IVD)
    told = lifted(visual._replace(token_IVD=cells)).token_IVD[visual.mask_IV]
    assert len(told.unique(dim=0)) > 1, "cells that look alike are told apart by where they lie"


@BOTH
def test_who_compares_is_given_no_hinge_and_who_fuses_is(name: str):
    found = find.system(f"{name}:tiny")
    assert find.finetuning("retrieval", name, found.recipe).system == found.recipe.system
    tuned = find.finetuning("vqa", name, found.recipe)
    assert tuned.system.hinge == OnTowers.Config(heads=2, dropout=0)
    assert find.finetuning("vqa", name, tuned).system == tuned.system
    assert find.recipe(json.loads(tuned.model_dump_json()), name, "vqa") == tuned
    system = Case(name).build()
    assert not [key for key in system.state_dict() if key.startswith("hinge")]
    with pytest.raises(UserError, match="towers without a hinge only compare"):
        system.fuse(Case(name).batch(system))


def test_from_towers_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Pre-trained to compare, fine-tuned to answer, asked; then its towers are tuned on, and the hinge stays what it was."""
    monkeypatch.chdir(tmp_path)
    coco_captions.example(tmp_path / "coco")
    vqa_v2.example(tmp_path / "vqa")

    def call(*words: str) -> dict:
        assert cli.call([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    brief = ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.precision=fp32"]
    train = ["--data", "vqa", *brief]
    monkeypatch.setattr(find, "readers", lambda specs, split, *rest, _all=find.readers: _all(specs, "val", *rest))
    call("pretrain", "align:tiny", "--data", "coco", "--out", "run", *brief)
    before = call("evaluate", "retrieval", "--from", "run", "--data", "coco", "--split", "val")["metrics"]
    call("finetune", "vqa", "--from", "run", "--out", "tuned", "--set", "system.hinge.layers=1", *train)
    assert call("evaluate", "retrieval", "--from", "run", "--data", "coco", "--split", "val")["metrics"] == before
    model = diptych.load("tuned")
    assert model.recipe.system.hinge.layers == 1
    reply = model.ask(next((tmp_path / "coco/val2014").glob("*.jpg")), "is the dog left?")
    assert reply.verb == "answer" and len(reply.look.weight_V) == 8 and reply.look.weight_V.any()
    weights = read_weights(tmp_path / "tuned/model.safetensors")
    assert any(key.startswith("system.hinge.stream.encoder.layers.0.") for key in weights)
    call("finetune", "retrieval", "--from", "tuned", "--out", "again", "--data", "coco", *brief)
    again = read_weights(tmp_path / "again/model.safetensors")
    for key, tensor in weights.items():
        if key.startswith("system.hinge.stream.encoder"):
            assert torch.equal(again[key], tensor), key
    for broken in (tmp_path / "vqa/val2014").iterdir():
        broken.write_bytes(b"never looked at")
    assert cli.call(["finetune", "vqa", "--from", "bert:tiny", "--out", "blind", *train, "--json"]) == 0
    said = capsys.readouterr()
    assert "bert reads no pictures: a control, vqa from texts alone" in said.err
    assert json.loads(said.out)["metrics"].keys() >= {"accuracy"}
    blind = call("evaluate", "vqa", "--from", "blind", "--split", "val", "--data", "vqa")
    assert (blind["n"], blind["broken"]) == (4, [])
