"""Ours against transformers' ViLT: same random weights, same pictures of different sizes, same numbers."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Fused, Images
from diptych.image.pixels import normalise
from diptych.nn.packing import Packing
from diptych.systems.vilt import ViLT
from diptych.tasks.retrieval import Retrieval
from diptych.weights import rename
from diptych.weights import vilt as weights

SIZES = ((192, 256), (160, 320), (288, 192))  # pixels; none has the 12 x 12 grid of the learned positions
LENGTHS = (11, 7, 9)


class Words:
    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 500, 0, 100, 101, 102, 103


class Answers(NamedTuple):
    out: Any  # transformers' output
    final: torch.Tensor  # its states behind the last norm
    pooled: torch.Tensor
    match: torch.Tensor
    itm: torch.Tensor
    fused: Fused
    layers: list[torch.Tensor]
    places: list[tuple[torch.Tensor, torch.Tensor]]  # of each picture: where its patches lie, row by row, in theirs and in ours


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """ViT-B/32's shape (12 layers, 12 heads, 12 x 12 positions, patches of 32) at a small width, every parameter stirred."""
    from transformers import ViltConfig, ViltForMaskedLM

    torch.manual_seed(0)
    config = ViltConfig(hidden_size=48, intermediate_size=192, vocab_size=Words.vocab_size)
    model = ViltForMaskedLM(config).eval()
    # the published files hold a decoder of its own; transformers 5 ties it whatever the configuration says
    model.mlm_score.decoder.weight = nn.Parameter(model.mlm_score.decoder.weight.detach().clone())
    model.itm_score = nn.ModuleDict({"fc": nn.Linear(48, 2)})  # as the authors' code names it; transformers has none
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> ViLT:
    system, state, report = weights.from_hugging_face(theirs.state_dict(), theirs.config.to_dict())
    assert not report
    model = ViLT(ViLT.Config.model_validate(system), Words()).eval()
    assert not rename.compare(model, state)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    mask_IHW = torch.zeros(3, 288, 320, dtype=torch.bool)
    for mask_HW, (height, width) in zip(mask_IHW, SIZES, strict=True):
        mask_HW[:height, :width] = True
    pixel_I3HW = torch.randint(0, 256, (3, 3, 288, 320), generator=random, dtype=torch.uint8)
    pixel_I3HW[0, :, :100] = 0  # black is not padding
    place_T = torch.arange(max(LENGTHS))
    text_mask_BT = place_T < torch.tensor(LENGTHS)[:, None]
    text_BT = torch.randint(104, Words.vocab_size, text_mask_BT.shape, generator=random) * text_mask_BT
    labels_BT = torch.full_like(text_BT, IGNORE)
    labels_BT[[0, 0, 1, 2], [2, 5, 3, 4]] = torch.tensor([111, 222, 333, 444])
    return Batch(
        text_BT=text_BT,
        text_mask_BT=text_mask_BT,
        segment_BT=torch.zeros_like(text_BT),
        word_BT=place_T.expand_as(text_BT),
        row_B=torch.arange(3),
        image_of_BN=torch.arange(3)[:, None],
        images=Images(pixel_I3HW, mask_IHW),
        labels={"mlm": labels_BT, "itm": torch.tensor([1, 0, 1])},
        counts={"mlm": 4, "itm": 3, "wpa": 3},
    )


@pytest.fixture(scope="module")
def answers(theirs, ours, batch):
    """Everything both models say, with transformers' randomly ordered patches put back in their places."""
    order = {}
    embeddings, inner = theirs.vilt.embeddings, theirs.vilt.embeddings.visual_embed

    def visual_embed(*args, **kwargs):
        embedded, mask, (order["patch"], grid) = inner(*args, **kwargs)
        order["mask"] = mask.bool()
        return embedded, mask, (order["patch"], grid)

    embeddings.visual_embed = visual_embed
    out = theirs(
        input_ids=batch.text_BT,
        attention_mask=batch.text_mask_BT.long(),
        pixel_values=normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        pixel_mask=batch.images.mask_IHW.long(),
        labels=batch.labels["mlm"],
        output_hidden_states=True,
    )
    del embeddings.visual_embed
    final = theirs.vilt.layernorm(out.hidden_states[-1])
    pooled = theirs.vilt.pooler(final)
    match_B2 = theirs.itm_score["fc"](pooled)
    itm = F.cross_entropy(match_B2, batch.labels["itm"])

    layers, packing = [], Packing.where_it_pays(torch.cat([batch.text_mask_BT, ours.see(batch).mask_IV], 1))
    hooks = [
        layer.register_forward_hook(lambda _m, _i, o: layers.append(packing.unpack(o))) for layer in ours.fusion.encoder.layers
    ]
    fused = ours.fuse(batch)
    for hook in hooks:
        hook.remove()

    length = batch.text_BT.shape[1]
    theirs_by_place, ours_by_place = [], []
    for b, (height, width) in enumerate(SIZES):
        patches = height // 32 * (width // 32)
        place_P = (order["patch"][b] * torch.tensor([width // 32, 1])).sum(-1)[order["mask"][b, 1:]]
        assert sorted(place_P.tolist()) == list(range(patches))
        theirs_by_place.append(
            place_P.argsort() + length + 1 if patches == len(order["patch"][b]) else torch.arange(patches) + length + 1
        )
        ours_by_place.append(torch.arange(patches) + length + 1)
    places = list(zip(theirs_by_place, ours_by_place, strict=True))
    return Answers(out, final, pooled, match_B2, itm, fused, layers, places)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = "\n".join(SPECIAL + [f"w{i}" for i in range(Words.vocab_size - len(SPECIAL))])


def read_by(model: nn.Module, batch: Batch) -> Any:
    """What transformers' model says of the batch."""
    return model(
        input_ids=batch.text_BT,
        attention_mask=batch.text_mask_BT.long(),
        pixel_values=normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        pixel_mask=batch.images.mask_IHW.long(),
    )


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_hidden_states_of_every_layer(answers, batch):
    length = batch.text_BT.shape[1]
    for theirs, ours in zip(answers.out.hidden_states[1:], answers.layers, strict=True):
        # before the last norm they grow to 15, where one unit of rounding is 1e-6: 1e-5 of the largest
        theirs, ours = theirs / theirs.abs().max(), ours / theirs.abs().max()
        for b, (their_P, our_P) in enumerate(answers.places):
            text = LENGTHS[b]
            close(ours[b, :text], theirs[b, :text])
            close(ours[b, length], theirs[b, length])  # the picture's CLS token
            close(ours[b, our_P], theirs[b, their_P])


def test_text_states_pooled_and_logits(answers, batch, ours):
    fused, mask = answers.fused, batch.text_mask_BT
    close(fused.text_BTD[mask], answers.final[:, : mask.shape[1]][mask])
    close(fused.image_BVD[:, 0], answers.final[:, mask.shape[1]])
    close(fused.pooled_BD, answers.pooled)
    close(ours.mlm.head(fused.text_BTD)[mask], answers.out.logits[mask])
    close(ours.itm.head(fused.pooled_BD), answers.match)
    close(ours.match(fused), answers.match[:, 1] - answers.match[:, 0])


def test_losses_and_gradients(answers, batch, ours, theirs):
    mlm, itm = ours.mlm(answers.fused, batch), ours.itm(answers.fused, batch)
    close(mlm.sum / mlm.count, answers.out.loss)
    close(itm.sum / itm.count, answers.itm)
    (mlm.sum / mlm.count + itm.sum / itm.count).backward()
    (answers.out.loss + answers.itm).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    _, expected, report = weights.from_hugging_face(gradients, theirs.config.to_dict())
    assert not report
    for name, parameter in ours.named_parameters():
        error = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-4, (name, error.item())


def test_back_to_hugging_face(ours, theirs):
    config, state, report = weights.to_hugging_face(ours.config.model_dump(), ours.state_dict())
    assert not report
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for name, value in config.items():
        if name not in ("architectures", "tie_word_embeddings"):
            assert getattr(theirs.config, name) == value, name


def test_authors_names_lead_to_the_same_weights(ours):
    state = ours.state_dict()
    released, report = weights.AUTHORS.to_theirs(state, layers=12)
    assert not report
    assert released["transformer.blocks.3.attn.qkv.weight"].shape == (144, 48)
    assert released["transformer.pos_embed"].shape == (1, 145, 48)
    _, again, report = weights.from_authors(released)
    assert not report
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_report_names_what_does_not_fit(ours, theirs):
    state = dict(theirs.state_dict())
    state["vilt.pooler.strange"] = state.pop("vilt.pooler.dense.bias")
    _, mine, report = weights.from_hugging_face(state, theirs.config.to_dict())
    assert report.missing == ["vilt.pooler.dense.bias"]
    assert report.unexpected == ["vilt.pooler.strange"]
    mine["fusion.modality.weight"] = torch.zeros(3, 48)
    found = rename.compare(ours, mine)
    assert found.missing == ["fusion.pooler.dense.bias"]
    assert found.shapes == ["fusion.modality.weight: 3x48 delivered, 2x48 wanted"]


def test_files_without_heads(theirs, ours, tmp_path):
    from transformers import ViltModel

    bare = {name.removeprefix("vilt."): t for name, t in theirs.state_dict().items() if name.startswith("vilt.")}
    system, state, report = weights.from_hugging_face(bare, theirs.config.to_dict())
    assert not report
    assert system["mlm"] is system["itm"] is None
    config, back, report = weights.to_hugging_face(ViLT.Config.model_validate(system).model_dump(), state)
    assert not report
    save_file(back, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = ViltModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in bare.items())


def test_a_ranker_of_the_authors_comes_with_the_frozen_head_that_it_has_outgrown(ours):
    released, _ = weights.AUTHORS.to_theirs(ours.state_dict(), layers=12)
    released |= {"rank_output.weight": torch.full((1, 48), 2.0), "rank_output.bias": torch.ones(1)}
    _, state, report = weights.from_authors(released)
    assert not report
    assert torch.equal(state["itm.head.weight"], torch.tensor([[0.0], [2.0]]).expand(2, 48))
    assert state["itm.head.bias"].tolist() == [0, 1]


def test_convert_there_and_back(tmp_path, theirs):
    there, run, back = tmp_path / "vilt", tmp_path / "run", tmp_path / "back"
    there.mkdir()
    save_file({n: t.contiguous() for n, t in theirs.state_dict().items()}, there / "model.safetensors")
    (there / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    with pytest.raises(UserError, match=r"no vocab\.txt"):
        weights.convert(there, run)
    (there / "vocab.txt").write_text(VOCABULARY)
    assert weights.convert(there, run)["missing"] == []
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert not rename.compare(ViLT(ViLT.Config.model_validate(recipe["system"]), Words()), load_file(run / "model.safetensors"))
    assert weights.convert(run, back)["unexpected"] == []
    again = load_file(back / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in theirs.state_dict().items())


def test_a_fine_tuned_vqa_model_brings_its_answers_and_takes_them_back(tmp_path, theirs, batch):
    from transformers import ViltConfig, ViltForQuestionAnswering

    from diptych import load
    from diptych.tasks.vqa import VQA

    torch.manual_seed(3)
    there, run, back = tmp_path / "vilt", tmp_path / "run", tmp_path / "back"
    answers = ["yes", "no", "2", "red"]
    config = ViltConfig(**{**theirs.config.to_dict(), "id2label": dict(enumerate(answers))})
    model = ViltForQuestionAnswering(config).eval()
    model.save_pretrained(there)
    (there / "vocab.txt").write_text(VOCABULARY)
    report = weights.convert(there, run)
    assert report["missing"] == report["unexpected"] == []
    loaded = load.load(run, device="cpu")
    assert isinstance(loaded.module, VQA)
    assert list(loaded.module.config.answers) == answers
    with torch.no_grad():
        close(loaded.module.logits(batch), read_by(model, batch).logits)
    loaded.save_pretrained(tmp_path / "saved")
    weights.convert(tmp_path / "saved", back)
    again = ViltForQuestionAnswering.from_pretrained(back)
    assert again.config.id2label == model.config.id2label
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_fine_tuned_nlvr2_model_sees_two_pictures_and_goes_back(tmp_path, theirs, batch):
    from transformers import ViltConfig, ViltForImagesAndTextClassification

    from diptych import load
    from diptych.tasks.nlvr2 import NLVR2, TRUTHS

    assert weights.TRUTHS == TRUTHS
    torch.manual_seed(5)
    there, run, back = tmp_path / "vilt", tmp_path / "run", tmp_path / "back"
    labels = {"id2label": {0: "False", 1: "True"}, "label2id": {"False": 0, "True": 1}}
    config = ViltConfig(**{**theirs.config.to_dict(), **labels, "modality_type_vocab_size": 3, "num_images": 2})
    model = ViltForImagesAndTextClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(there)
    (there / "vocab.txt").write_text(VOCABULARY)
    report = weights.convert(there, run)
    assert report["missing"] == report["unexpected"] == []
    loaded = load.load(run, device="cpu")
    assert isinstance(loaded.module, NLVR2)
    pairs = torch.tensor([[0, 1], [2, 0], [1, 1]])
    pixel_I3HW = normalise(batch.images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.no_grad():
        expected = model(
            input_ids=batch.text_BT,
            attention_mask=batch.text_mask_BT.long(),
            pixel_values=pixel_I3HW[pairs],
            pixel_mask=batch.images.mask_IHW.long()[pairs],
        ).logits
        close(loaded.module.logits(replace(batch, image_of_BN=pairs)), expected)
        assert (expected[0] - loaded.module.logits(replace(batch, image_of_BN=pairs.flip(1)))[0]).abs().max() > 1e-2
    weights.convert(loaded.save_pretrained(tmp_path / "saved"), back)
    again = ViltForImagesAndTextClassification.from_pretrained(back)
    assert (again.config.id2label, again.config.num_images) == (config.id2label, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    (there / "config.json").write_text((there / "config.json").read_text().replace('"True"', '"yes"'))
    with pytest.raises(UserError, match="its labels are False, yes, and NLVR2's are False, True"):
        weights.convert(there, tmp_path / "other")


def test_a_retrieval_model_brings_its_match_and_takes_it_back(tmp_path, theirs, batch):
    from transformers import ViltForImageAndTextRetrieval

    from diptych import load

    torch.manual_seed(4)
    there, run, back, tuned = (tmp_path / name for name in ("vilt", "run", "back", "tuned"))
    model = ViltForImageAndTextRetrieval(theirs.config).eval()
    model.save_pretrained(there)
    (there / "vocab.txt").write_text(VOCABULARY)
    report = weights.convert(there, run)
    assert report["missing"] == report["unexpected"] == []
    loaded = load.load(run, device="cpu")
    with torch.no_grad():
        match_B = loaded.system.match(loaded.system.fuse(batch))
        close(match_B, read_by(model, batch).logits[:, 0])
        weights.convert(loaded.save_pretrained(tmp_path / "saved"), back)
        again = ViltForImageAndTextRetrieval.from_pretrained(back)
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name

        # fine-tuned by us, its two rows have both moved: what goes back is their difference
        loaded.system.itm.head.weight.add_(torch.randn(2, 48))
        loaded.about = {**loaded.about, "task": "retrieval"}
        loaded.recipe = loaded.recipe.model_copy(update={"task": Retrieval.Config()})
        loaded.module = Retrieval(Retrieval.Config(), loaded.system, loaded.tokenizer)
        weights.convert(loaded.save_pretrained(tmp_path / "ours"), tuned)
        ranker = ViltForImageAndTextRetrieval.from_pretrained(tuned).eval()
        close(read_by(ranker, batch).logits[:, 0], loaded.system.match(loaded.system.fuse(batch)))


def test_a_head_that_transformers_lacks_is_told_before_anything_is_written(tmp_path, theirs):
    run = tmp_path / "run"
    run.mkdir()
    system = {"kind": "vilt", "fusion": {"kind": "single_stream"}}
    recipe = {"system": system, "task": {"kind": "vqa", "head": "cloze"}, "data": {"image": {}}}
    (run / "config.json").write_text(json.dumps({"recipe": recipe}))
    save_file({}, run / "model.safetensors")
    with pytest.raises(UserError, match=r"its NLVR2 by pairs and its retrieval, not for this vqa head"):
        weights.convert(run, tmp_path / "back")
    recipe["task"] = {"kind": "nlvr2", "encoding": "triplet"}
    (run / "config.json").write_text(json.dumps({"recipe": recipe}))
    with pytest.raises(UserError, match=r"its NLVR2 by pairs and its retrieval, not for this nlvr2 head"):
        weights.convert(run, tmp_path / "back")
    recipe["system"]["fusion"]["kind"] = "dual_stream"
    (run / "config.json").write_text(json.dumps({"recipe": recipe}))
    with pytest.raises(UserError, match=r"a single stream; this is vilt with system\.fusion\.kind=dual_stream"):
        weights.convert(run, tmp_path / "back")
    assert not (tmp_path / "back").exists()
