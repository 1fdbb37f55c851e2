"""A file in the published naming, made from a system of ours, comes back as that system: their own file cannot be had."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet34

from diptych import config, find
from diptych.checkpoint import read_weights
from diptych.config import UserError
from diptych.fusion.single_stream import SingleStream
from diptych.image.visual_dictionary import VisualDictionary
from diptych.systems import soho
from diptych.systems.soho import SOHO
from diptych.text.embedding import TextEmbedding
from diptych.text.tokenizer import wordpiece
from diptych.train.start import copy_part
from diptych.weights import resnet
from diptych.weights.soho import AUTHORS, convert

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog"])


@pytest.fixture(scope="module")
def system() -> SOHO:
    torch.manual_seed(0)
    made = SOHO(
        SOHO.Config(
            width=128,
            image=soho.resnet(34),
            dictionary=VisualDictionary.Config(words=10, decay=0.4, start="zero"),
            text=TextEmbedding.Config(positions=24),
            fusion=SingleStream.Config(layers=2, heads=2, ffn_ratio=3, norm="post", eps=1e-12, attention_dropout=0.1, pooler=False),
        ),
        TOKENIZER,
    )
    with torch.no_grad():
        for buffer in made.buffers():
            buffer.uniform_(0.5, 1.5)
        made.get_parameter("fusion.modality.weight").zero_()
    return made.eval()


@pytest.fixture
def theirs(system: SOHO, tmp_path: Path) -> dict[str, Tensor]:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENIZER.token(i) for i in range(TOKENIZER.vocab_size)))
    state, report = AUTHORS.to_theirs(system.state_dict(), layers=2)
    assert not report.missing
    rest = [name for name in report.unexpected if not name.startswith("image.trunk.")]
    assert rest == ["fusion.modality.weight", "itm.head.bias"]
    state |= {n.replace("image.trunk.", "backbone."): t for n, t in system.state_dict().items() if n.startswith("image.trunk.")}
    state["neck.gate_fc.conv.weight"] = state["neck.gate_fc.conv.weight"][:, :, None, None]
    state["neck.vq.cluster_sum"] = torch.ones(10)
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(7)
    state["mask_l_fc.weight"] = state["language.bert.embeddings.word_embeddings.weight"].clone()
    return state


def test_names_and_shapes_are_the_published_ones(theirs):
    shapes = {
        "backbone.layer4.2.conv2.weight": (512, 512, 3, 3),
        "neck.conv.conv.weight": (128, 512, 1, 1),
        "neck.vq.embed": (10, 128),
        "neck.vq.cluster_size": (10,),
        "neck.vq.embed_avg": (10, 128),
        "neck.mask_emb.weight": (1, 128),
        "neck.pos_line.weight": (128, 128),
        "neck.gate_fc.conv.weight": (2, 256, 1, 1),
        "language.bert.encoder.layer.1.attention.self.query.weight": (128, 128),
        "head.match_class.weight": (2, 128),
    }
    assert {name: tuple(theirs[name].shape) for name in shapes} == shapes


def test_a_file_becomes_the_system_it_was_made_of(system, theirs, tmp_path):
    torch.save({"meta": {"epoch": 40}, "state_dict": theirs}, tmp_path / "soho.pth")
    report = convert(tmp_path / "soho.pth", tmp_path / "run")
    assert [report["missing"], report["unexpected"]] == [[], []]
    weights = read_weights(tmp_path / "run" / "model.safetensors")
    recipe = find.read_config(tmp_path / "run")["recipe"]
    again = SOHO(SOHO.Config.model_validate(recipe["system"]), TOKENIZER)
    again.load_state_dict(weights)
    expected = system.state_dict() | {"itm.head.bias": torch.zeros(2)}
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    same = system.config.model_dump() | {"mvm": again.config.mvm.model_dump()}
    assert again.config.model_dump() == same
    assert config.Recipe.model_validate({**recipe, "system": again.config}).text.max_tokens == 16


def test_what_is_missing_strange_or_untied_is_told(theirs, tmp_path):
    gone = theirs.pop("neck.ln.bias")
    theirs |= {"head.vqa.0.weight": gone, "mask_l_fc.weight": theirs["mask_l_fc.weight"] + 1}
    torch.save(theirs, tmp_path / "soho.pth")
    report = convert(tmp_path / "soho.pth", tmp_path / "run")
    assert report["missing"] == ["neck.ln.bias"]
    assert report["unexpected"] == ["head.vqa.0.weight", "mask_l_fc.weight"]


def test_a_neck_without_gate_and_a_network_that_is_none(theirs, tmp_path):
    plain = {name: tensor for name, tensor in theirs.items() if not name.startswith("neck.gate_fc.")}
    torch.save(plain, tmp_path / "plain.pth")
    assert convert(tmp_path / "plain.pth", tmp_path / "run")["missing"] == []
    assert find.read_config(tmp_path / "run")["recipe"]["system"]["neck"] == {"gated": False}
    odd = {name: tensor for name, tensor in theirs.items() if not name.startswith("backbone.layer3.5.")}
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="stages of 3, 4, 5, 3 blocks are none of torchvision's"):
        convert(tmp_path / "odd.pth", tmp_path / "other")


def test_imagenet_s_resnet_is_an_image_root(system, tmp_path):
    torch.manual_seed(1)
    theirs = resnet34(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet34.pth")
    report = resnet.convert(tmp_path / "resnet34.pth", tmp_path / "root")
    assert report["unused"] == ["fc.bias", "fc.weight"]
    started = SOHO(system.config, TOKENIZER)
    told: list[str] = []
    copy_part(started, "image", tmp_path / "root", TOKENIZER, told.append)
    trunk = started.get_submodule("image.trunk").state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in trunk.items())
    fresh = "image.norm.bias, image.norm.running_mean_C, image.norm.running_var_C, image.norm.weight, image.project.weight"
    assert told[0].endswith(f"left as initialised: {fresh}")
