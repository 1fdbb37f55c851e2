"""Ours against transformers' BERT: same random weights, same pairs of sentences, same numbers."""

import json
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diptych import load
from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Fused
from diptych.nn.packing import Packing
from diptych.systems.bert import BERT
from diptych.weights import bert as weights
from diptych.weights import rename

LENGTHS, SECOND = (11, 7, 9), (4, 3, 9)  # where segment 1 begins; the last row has none


class Words:
    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 500, 0, 1, 2, 3, 4


VOCABULARY = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(Words.vocab_size - 5))])


class Answers(NamedTuple):
    out: Any  # transformers' output
    fused: Fused
    layers: list[torch.Tensor]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """BERT-base's shape (12 layers, 12 heads) at a small width, every parameter stirred."""
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(0)
    config = BertConfig(hidden_size=48, intermediate_size=192, vocab_size=Words.vocab_size, max_position_embeddings=64)
    model = BertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> BERT:
    return filled(theirs)


def filled(theirs) -> BERT:
    system, state, report = weights.from_hugging_face(theirs.state_dict(), theirs.config.to_dict())
    assert not report
    model = BERT(BERT.Config.model_validate(system), Words()).eval()
    assert not rename.compare(model, state)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    place_T = torch.arange(max(LENGTHS))
    mask_BT = place_T < torch.tensor(LENGTHS)[:, None]
    text_BT = torch.randint(5, Words.vocab_size, mask_BT.shape, generator=random) * mask_BT
    labels_BT = torch.full_like(text_BT, IGNORE)
    labels_BT[[0, 0, 1, 2], [2, 5, 3, 4]] = torch.tensor([111, 222, 333, 444])
    return Batch(
        text_BT=text_BT,
        text_mask_BT=mask_BT,
        segment_BT=(mask_BT & (place_T >= torch.tensor(SECOND)[:, None])).long(),
        word_BT=place_T.expand_as(text_BT),
        row_B=torch.arange(3),
        labels={"mlm": labels_BT, "nsp": torch.tensor([1, 0, 1])},
        counts={"mlm": 4, "nsp": 3},
    )


def read_by(model: nn.Module, batch: Batch, **more: Any) -> Any:
    """What transformers' model says of the batch."""
    mask = batch.text_mask_BT.long()
    return model(input_ids=batch.text_BT, attention_mask=mask, token_type_ids=batch.segment_BT, **more)


@pytest.fixture(scope="module")
def answers(theirs, ours, batch) -> Answers:
    labels = {"labels": batch.labels["mlm"], "next_sentence_label": batch.labels["nsp"]}
    out = read_by(theirs, batch, output_hidden_states=True, **labels)
    layers, packing = [], Packing.of(batch.text_mask_BT)
    hooks = [
        layer.register_forward_hook(lambda _m, _i, o: layers.append(packing.unpack(o))) for layer in ours.fusion["encoder"].layers
    ]
    fused = ours.read(batch)
    for hook in hooks:
        hook.remove()
    return Answers(out, fused, layers)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_hidden_states_of_every_layer(answers, ours, batch):
    mask = batch.text_mask_BT
    close(ours.text(batch.text_BT, batch.segment_BT)[mask], answers.out.hidden_states[0][mask])
    assert len(answers.layers) == 12
    for theirs, mine in zip(answers.out.hidden_states[1:], answers.layers, strict=True):
        close(mine[mask], theirs[mask])


def test_logits_of_both_heads(answers, ours, batch):
    mask = batch.text_mask_BT
    close(ours.words(answers.fused.text_BTD)[mask], answers.out.prediction_logits[mask])
    close(ours.nsp.logits(answers.fused), answers.out.seq_relationship_logits)


def test_losses_and_gradients(theirs, batch):
    """The word embeddings' gradient comes from the embedding and from the tied decoder."""
    ours = filled(theirs)
    theirs.zero_grad()
    terms = ours(batch)
    loss = sum(term.sum / term.count for term in terms.values())
    out = read_by(theirs, batch, labels=batch.labels["mlm"], next_sentence_label=batch.labels["nsp"])
    close(loss, out.loss)
    loss.backward()
    out.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    _, expected, report = weights.from_hugging_face(gradients, theirs.config.to_dict())
    assert not report
    for name, parameter in ours.named_parameters():
        error = (parameter.grad - expected[name]).norm() / expected[name].norm()
        # softmax does not see what is added to all keys: the gradient of their biases is rounding, in both
        keys = slice(48, 96) if name.endswith("qkv.bias") else slice(0, 0)
        assert parameter.grad[keys].abs().sum() < 1e-5
        assert error < 1e-4, (name, error.item())


def test_back_to_hugging_face(ours, theirs):
    config, state, report = weights.to_hugging_face(ours.config.model_dump(), ours.state_dict())
    assert not report
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert state.keys() == theirs.state_dict().keys() - tied
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in state.items())
    for name, value in config.items():
        if name != "architectures":
            assert getattr(theirs.config, name) == value, name


def test_names_of_old_files_lead_to_the_same_weights(ours, theirs):
    old = {}
    for name, tensor in theirs.state_dict().items():
        if name != "cls.predictions.decoder.bias":
            old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    system, state, report = weights.from_hugging_face(old, {})
    assert not report
    assert system["encoder"] == {**ours.config.encoder.model_dump(exclude={"init_std"}), "heads": 1}, (
        "without a configuration a head is 64 wide"
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_a_decoder_of_its_own_stays_its_own(theirs, batch):
    state = dict(theirs.state_dict())
    state["cls.predictions.decoder.weight"] = torch.randn(Words.vocab_size, 48)
    system, mine, report = weights.from_hugging_face(state, theirs.config.to_dict())
    assert not report
    model = BERT(BERT.Config.model_validate(system), Words()).eval()
    model.load_state_dict(mine)
    _, back, report = weights.to_hugging_face(model.config.model_dump(), model.state_dict())
    assert not report
    assert torch.equal(back["cls.predictions.decoder.weight"], state["cls.predictions.decoder.weight"])


def test_report_names_what_does_not_fit(theirs):
    state = dict(theirs.state_dict())
    state["bert.pooler.strange"] = state.pop("bert.pooler.dense.bias")
    _, _, report = weights.from_hugging_face(state, theirs.config.to_dict())
    assert report.missing == ["bert.pooler.dense.bias"]
    assert report.unexpected == ["bert.pooler.strange"]


def test_files_without_heads(theirs):
    bare = {name.removeprefix("bert."): t for name, t in theirs.state_dict().items() if name.startswith("bert.")}
    system, state, report = weights.from_hugging_face(bare, theirs.config.to_dict())
    assert not report
    assert system["mlm"] is system["nsp"] is None
    assert not rename.compare(BERT(BERT.Config.model_validate(system), Words()), state)
    with pytest.raises(UserError, match=r"built without mlm"):
        BERT(BERT.Config.model_validate(system), Words()).words(torch.zeros(1, 48))


def test_convert_there_and_back(tmp_path, theirs, batch):
    from transformers import BertForPreTraining

    there, run, back = tmp_path / "bert", tmp_path / "run", tmp_path / "back"
    theirs.save_pretrained(there)
    with pytest.raises(UserError, match=r"no vocab\.txt"):
        weights.convert(there, run)
    (there / "vocab.txt").write_text(VOCABULARY)
    report = weights.convert(there, run)
    assert report["missing"] == report["unexpected"] == []
    loaded = load.load(run, device="cpu")
    with torch.no_grad():
        close(loaded.system.nsp.logits(loaded.system.read(batch)), read_by(theirs, batch).seq_relationship_logits)
    assert weights.convert(run, back)["unexpected"] == []
    again = BertForPreTraining.from_pretrained(back)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_file_without_a_pooler_or_with_another_activation_is_refused(tmp_path, theirs):
    state = {name: t for name, t in theirs.state_dict().items() if "pooler" not in name and "decoder" not in name}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    with pytest.raises(UserError, match=r"no pooler under a known name"):
        weights.convert(tmp_path, tmp_path / "run")
    with pytest.raises(UserError, match=r"hidden_act 'relu'"):
        weights.from_hugging_face(theirs.state_dict(), {"hidden_act": "relu"})
    assert not load_file(tmp_path / "model.safetensors").keys() - state.keys()
