"""Files in Oscar's and UNITER's naming, small, become runs that compute what the published models do.

Their own files cannot be had. What they compute is written out here around transformers' BERT, whose names theirs are.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from diptych import find, load
from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Regions
from diptych.weights import oscar, uniter

WIDTH, FEATURES, CLASSES, LENGTHS, REGIONS = 64, 10, 6, (9, 6, 8), (4, 2, 3)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]


class Answers(NamedTuple):
    text_BTD: Tensor
    image_BVD: Tensor
    pooled_BD: Tensor


def stirred(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


def bert() -> nn.Module:
    from transformers import BertConfig, BertForPreTraining

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 3 * WIDTH}
    return BertForPreTraining(
        BertConfig(**sizes, vocab_size=len(VOCABULARY), max_position_embeddings=32, attn_implementation="eager")
    )


def through(bert: nn.Module, batch: Batch, image_BVD: Tensor) -> Answers:
    """One sequence through BERT's layers: words, then regions."""
    text_BTD = bert.embeddings(input_ids=batch.text_BT, token_type_ids=batch.segment_BT)
    mask = torch.cat([batch.text_mask_BT, batch.regions.mask_IR], 1)[:, None, None]
    both = bert.encoder(torch.cat([text_BTD, image_BVD], 1), attention_mask=(~mask) * -1e9)[0]
    return Answers(both[:, : max(LENGTHS)], both[:, max(LENGTHS) :], bert.pooler(both))


def places(batch: Batch, numbers: int) -> Tensor:
    x1, y1, x2, y2 = batch.regions.box_IR4.unbind(-1)
    return torch.stack([x1, y1, x2, y2, x2 - x1, y2 - y1, (x2 - x1) * (y2 - y1)][:numbers], -1)


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    place_T, mask_IR = torch.arange(max(LENGTHS)), torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    mask_BT = place_T < torch.tensor(LENGTHS)[:, None]
    text_BT = torch.randint(5, len(VOCABULARY), mask_BT.shape, generator=random) * mask_BT
    corner_IR2 = torch.rand(3, max(REGIONS), 2, generator=random) / 2
    box_IR4 = torch.cat([corner_IR2, corner_IR2 + torch.rand(3, max(REGIONS), 2, generator=random) / 2], -1)
    feature_IRD = torch.randn(3, max(REGIONS), FEATURES, generator=random)
    soft_label_IRK = torch.randn(3, max(REGIONS), CLASSES, generator=random).softmax(-1)
    regions = Regions(box_IR4, mask_IR, feature_IRD, soft_label_IRK)
    each = torch.arange(3)
    return Batch(text_BT, mask_BT, torch.zeros_like(text_BT), text_BT, each, image_of_BN=each[:, None], regions=regions)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def put(folder: Path, state: dict[str, Tensor], how: str) -> Path:
    """One of the ways in which such files are written."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    file = folder / ("model.safetensors" if how == "safetensors" else "pytorch_model.bin")
    if how == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "zip")
    return file


# ----------------------------------------------------------------------------------------------------------- Oscar


@pytest.fixture(scope="module")
def oscar_model() -> nn.Module:
    model = bert()
    model.bert.img_embedding, model.bert.LayerNorm = nn.Linear(FEATURES + 6, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
    model.cls.seq_relationship = nn.Linear(WIDTH, 3)
    return stirred(model)


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_vinvl_is_read_and_computes_what_it_did(how, oscar_model, batch, tmp_path):
    file = put(tmp_path / "vinvl", {f"module.{n}": t for n, t in oscar_model.state_dict().items()}, how)
    places_of = {"cat": 2, "dog": 1, "owl": 3, "sky": 5, "sea": 4}
    (tmp_path / "vinvl" / "VG-SGG-dicts.json").write_text(json.dumps({"label_to_idx": places_of}))
    report = oscar.convert(file, tmp_path / "run")
    assert [report["missing"], report["unexpected"], report["features"]] == [[], [], FEATURES]
    system = load.load(tmp_path / "run", device="cpu").system
    assert system.config.names == ("background", "dog", "cat", "owl", "sea", "sky")
    batch = Batch(**{**vars(batch), "segment_BT": (torch.arange(9) > 4).long().expand(3, 9) * batch.text_mask_BT})
    batch.labels["contrast3"] = torch.tensor([0, 1, 2])  # a batch of pre-training: it has its tags
    with torch.no_grad():
        seen = torch.cat([batch.regions.feature_IRD, places(batch, 6)], -1)
        expected = through(oscar_model.bert, batch, oscar_model.bert.LayerNorm(oscar_model.bert.img_embedding(seen)))
        fused = system.fuse(batch)
        close(fused.text_BTD[batch.text_mask_BT], expected.text_BTD[batch.text_mask_BT])
        close(fused.image_BVD[batch.regions.mask_IR], expected.image_BVD[batch.regions.mask_IR])
        close(system.contrast3.logits(fused), oscar_model.cls.seq_relationship(expected.pooled_BD))
        close(system.words(fused.text_BTD), oscar_model.cls.predictions(fused.text_BTD))


def test_oscar_has_two_classes_no_norm_and_heads_that_are_told(oscar_model, batch, tmp_path):
    state = {name: t for name, t in oscar_model.state_dict().items() if not name.startswith("bert.LayerNorm.")}
    for end in ("weight", "bias"):
        state[f"cls.seq_relationship.{end}"] = state[f"cls.seq_relationship.{end}"][:2]
    state["classifier.weight"] = state.pop("bert.encoder.layer.1.output.dense.bias")
    file = put(tmp_path / "oscar", state, "zip")
    (tmp_path / "oscar" / "config.json").write_text('{"num_attention_heads": 2, "layer_norm_eps": 1e-12, "img_feature_dim": 16}')
    report = oscar.convert(file.parent, tmp_path / "run")
    assert report["missing"] == ["bert.encoder.layer.1.output.dense.bias"]
    assert report["unexpected"] == ["classifier.weight"]
    system = find.read_config(tmp_path / "run")["recipe"]["system"]
    assert (system["fusion"]["heads"], system["image"]["norm"], system["names"]) == (2, False, [])
    _, weights, _ = oscar.from_authors(state, {})
    pooled = torch.randn(5, WIDTH)
    logits = F.linear(pooled, weights["contrast3.head.weight"], weights["contrast3.head.bias"])
    two = F.linear(pooled, state["cls.seq_relationship.weight"], state["cls.seq_relationship.bias"])
    close(logits.softmax(1)[:, :2], two.softmax(1))


def test_a_list_of_classes_with_a_gap_is_refused(oscar_model, tmp_path):
    file = put(tmp_path / "vinvl", oscar_model.state_dict(), "zip")
    (tmp_path / "vinvl" / "labels.json").write_text('{"label_to_idx": {"cat": 1, "dog": 3}}')
    with pytest.raises(UserError, match=r"labels\.json: label_to_idx does not count from 1 to 2"):
        oscar.convert(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------- UNITER


class Regression(nn.Module):
    def __init__(self, img_linear: nn.Linear):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH, 1e-12))
        self.weight, self.bias = img_linear.weight, nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.net(x), self.weight.T, self.bias)


class Published(nn.Module):
    """UNITER as its authors' code names and computes it."""

    def __init__(self):
        super().__init__()
        model = bert()
        self.uniter, self.cls = model.bert, nn.ModuleDict({"predictions": model.cls.predictions})
        self.uniter.img_embeddings = nn.ModuleDict(
            {
                "img_linear": nn.Linear(FEATURES, WIDTH),
                "img_layer_norm": nn.LayerNorm(WIDTH, 1e-12),
                "pos_layer_norm": nn.LayerNorm(WIDTH, 1e-12),
                "pos_linear": nn.Linear(7, WIDTH),
                "mask_embedding": nn.Embedding(2, FEATURES, padding_idx=0),
                "LayerNorm": nn.LayerNorm(WIDTH, 1e-12),
            }
        )
        self.feat_regress = Regression(self.uniter.img_embeddings["img_linear"])
        norm = nn.LayerNorm(WIDTH, 1e-12)
        self.region_classifier = nn.ModuleDict(
            {"net": nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), norm, nn.Linear(WIDTH, CLASSES))}
        )
        self.itm_output = nn.Linear(WIDTH, 2)

    def forward(self, batch: Batch, is_hidden_IR: Tensor) -> Answers:
        part, feature_IRD = self.uniter.img_embeddings, batch.regions.feature_IRD
        feature_IRD = feature_IRD.masked_fill(is_hidden_IR[..., None], 0) + part["mask_embedding"](is_hidden_IR.long())
        seen = part["img_layer_norm"](part["img_linear"](feature_IRD)) + part["pos_layer_norm"](
            part["pos_linear"](places(batch, 7))
        )
        return through(self.uniter, batch, part["LayerNorm"](seen + self.uniter.embeddings.token_type_embeddings.weight[1]))


@pytest.fixture(scope="module")
def published() -> Published:
    model = stirred(Published())
    with torch.no_grad():
        model.uniter.img_embeddings["mask_embedding"].weight[0] = 0
    return model


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_uniter_is_read_and_computes_what_it_did(how, published, batch, tmp_path):
    report = uniter.convert(put(tmp_path / "uniter", published.state_dict(), how), tmp_path / "run")
    assert [report["missing"], report["unexpected"]] == [[], []]
    assert (report["features"], report["classes"]) == (FEATURES, CLASSES)
    system = load.load(tmp_path / "run", device="cpu").system
    with torch.no_grad():
        expected, fused = published(batch, torch.zeros_like(batch.regions.mask_IR)), system.fuse(batch)
        close(fused.text_BTD[batch.text_mask_BT], expected.text_BTD[batch.text_mask_BT])
        close(fused.image_BVD[batch.regions.mask_IR], expected.image_BVD[batch.regions.mask_IR])
        close(system.itm.logits(fused), published.itm_output(expected.pooled_BD))
        close(system.words(fused.text_BTD), published.cls["predictions"](fused.text_BTD))
        hidden_IR = torch.zeros_like(batch.regions.mask_IR)
        hidden_IR[[0, 0, 1, 2], [0, 3, 1, 2]] = True
        state_PD, regions = published(batch, hidden_IR).image_BVD[hidden_IR], batch.regions
        found = F.mse_loss(published.feat_regress(state_PD), regions.feature_IRD[hidden_IR])
        log_p_PK = published.region_classifier["net"](state_PD).log_softmax(1)
        divergence_PK = F.kl_div(log_p_PK, regions.soft_label_IRK[hidden_IR], reduction="none")
        for name, loss in (("mrfr", found), ("mrc_kl", divergence_PK.mean())):
            asked = Batch(
                **{**vars(batch), "labels": {name: hidden_IR.long().masked_fill(~hidden_IR, IGNORE)}, "counts": {name: 4.0}}
            )
            (term,) = system(asked).values()
            close(term.sum / term.count, loss)


def test_a_uniter_without_some_heads_is_trained_without_them(published, tmp_path):
    state = {n: t for n, t in published.state_dict().items() if not n.startswith(("feat_regress.", "region_classifier."))}
    state["vqa_output.0.weight"] = torch.zeros(2, 2)
    report = uniter.convert(put(tmp_path / "uniter", state, "zip"), tmp_path / "run")
    assert [report["missing"], report["unexpected"]] == [[], ["vqa_output.0.weight"]]
    mix = load.load(tmp_path / "run", device="cpu").system.config.mix.model_dump()
    assert mix == {"mlm": 2, "itm": 2, "mrfr": 0, "mrc": 0, "mrc_kl": 0}
    bare = {name: tensor for name, tensor in state.items() if name.startswith("uniter.")}
    with pytest.raises(UserError, match="without any head of pre-training"):
        uniter.convert(put(tmp_path / "bare", bare, "zip"), tmp_path / "other")


def test_a_decoder_of_features_of_its_own_stays_its_own(published):
    state = {**published.state_dict(), "feat_regress.weight": torch.randn(WIDTH, FEATURES)}
    system, weights, report = uniter.from_authors(state)
    assert not report
    assert not system["mrfr"]["tied"]
    close(weights["mrfr.decoder.weight"], state["feat_regress.weight"].T)
