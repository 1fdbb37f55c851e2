"""Ours against transformers' DETR, made into a file in the authors' naming: E2E-VLP's detecting half computes the same.

What differs on purpose is taken away on both sides: places that enter the encoder (there in every layer, here once, before a norm)
and ReLU. With them taken away the two agree from pixels to losses and gradients; the second test puts places back where they
agree, in the decoder. Only the last layer is asked: told to ask every one, transformers hands the closing norm of each layer on to
the next, which the authors' code does not (every layer's loss by itself: tests/objectives/test_set_prediction.py).
"""

import re

import pytest
import torch
from torch import nn

from diptych import find
from diptych.checkpoint import read_weights
from diptych.config import UserError
from diptych.contracts import Batch, Box, Images, Regions, Sample
from diptych.nn.box import to_cxcywh
from diptych.nn.decoder import Source
from diptych.systems.e2e_vlp import E2EVLP
from diptych.train.start import copy_part
from diptych.weights import detr as weights

WIDTH, HEADS, LAYERS, QUERIES, SIDE = 32, 4, 2, 7, (96, 128)
NAMES = ("cat", "dog", "owl")
THINGS = (
    (Box((0, 0, 80, 60), "dog"), Box((40, 20, 128, 96), "cat"), Box((10, 10, 18, 80), "owl")),
    (Box((20, 0, 40, 64), "owl"),),
)
SIZES = ((96, 128), (64, 96))


class Words:
    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 20, 0, 1, 2, 3, 4


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """ResNet-18 and two layers, stirred, with GELU."""
    from transformers import DetrConfig, DetrForObjectDetection

    torch.manual_seed(0)
    network = {"model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    sizes = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config={**network, "out_features": ["stage4"]},
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        num_queries=QUERIES,
        num_labels=len(NAMES),
        activation_function="gelu",
        dropout=0.0,
        auxiliary_loss=False,
        attn_implementation="eager",
        **sizes,
    )
    model = DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' names back in the authors'; three projections of an attention in one."""
    published = {}
    for name, tensor in state.items():
        name = name.removeprefix("model.")
        name = name.replace("backbone.model.embedder.embedder.convolution", "backbone.0.body.conv1")
        name = name.replace("backbone.model.embedder.embedder.normalization", "backbone.0.body.bn1")
        found = re.match(r"backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d)\.(.*)\.(convolution|normalization)\.(.*)", name)
        if found:
            stage, block, part, kind, end = found.groups()
            inner = f"{'conv' if kind == 'convolution' else 'bn'}{int(part[-1]) + 1}" if part != "shortcut" else ""
            inner = inner or f"downsample.{int(kind == 'normalization')}"
            name = f"backbone.0.body.layer{int(stage) + 1}.{block}.{inner}.{end}"
        name = name.replace("query_position_embeddings", "query_embed").replace("input_projection", "input_proj")
        name = name.replace("class_labels_classifier", "class_embed").replace("bbox_predictor", "bbox_embed")
        if name.startswith(("encoder.", "decoder.")):
            name = f"transformer.{name}".replace("encoder_attn.", "multihead_attn.").replace("o_proj", "out_proj")
            name = name.replace("mlp.fc", "linear").replace("self_attn_layer_norm", "norm1").replace("layernorm", "norm")
            name = name.replace("encoder_attn_layer_norm", "norm2")
            name = name.replace("final_layer_norm", "norm2" if ".encoder." in name else "norm3")
        published[name] = tensor
    for name in [name for name in published if "_attn.q_proj." in name]:
        letters = [published.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        published[name.replace("q_proj.", "in_proj_")] = torch.cat(letters)
    return published


@pytest.fixture
def ours(theirs) -> E2EVLP:
    part = {"layers": LAYERS, "heads": HEADS, "ffn_ratio": 2, "norm": "post", "eps": 1e-5, "dropout": 0, "attention_dropout": 0}
    config = E2EVLP.Config.model_validate(
        {
            "width": WIDTH,
            "image": {"kind": "resnet", "depth": 18, "norm": "frozen", "project": True},
            "fusion": {"kind": "single_stream", **part},
            "decoder": part,
            "detection": {"names": NAMES, "queries": QUERIES, "auxiliary": False},
        }
    )
    system = E2EVLP(config, Words()).eval()
    found, report = weights.from_authors(as_published(theirs.state_dict()))
    assert [report.missing, report.unexpected] == [[], ["class_embed.bias", "class_embed.weight"]]
    left = system.load_state_dict(found, strict=False)
    assert not left.unexpected_keys
    assert {name.split(".")[0] for name in left.missing_keys} == {
        *("text", "mlm", "itm", "captioning"),
        *("image_norm", "fusion", "detection"),  # of these the norm, types and pooler, and classes
    }
    system.detection.classes.load_state_dict(theirs.class_labels_classifier.state_dict())
    nn.init.zeros_(system.fusion.modality.weight)
    return system


@pytest.fixture(scope="module")
def batch() -> Batch:
    spots = torch.randint(0, 256, (2, 3, 3, 4), generator=torch.Generator().manual_seed(1)).float()
    pixel_I3HW = nn.functional.interpolate(spots, SIDE, mode="bilinear").to(torch.uint8)
    mask_IHW = torch.zeros(2, *SIDE, dtype=torch.bool)
    box_IR4, mask_IR = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    for i, (height, width) in enumerate(SIZES):
        mask_IHW[i, :height, :width] = True
        for r, box in enumerate(THINGS[i]):
            box_IR4[i, r], mask_IR[i, r] = torch.tensor(box.xyxy) / torch.tensor([width, height, width, height]), True
    token_B1, each = torch.ones(2, 1, dtype=torch.int64), torch.arange(2)
    return Batch(
        *(token_B1, token_B1.bool(), token_B1, token_B1, each),
        image_of_BN=each[:, None],
        images=Images(pixel_I3HW, mask_IHW),
        regions=Regions(box_IR4, mask_IR),
        samples=tuple(Sample(str(i), boxes=boxes) for i, boxes in enumerate(THINGS)),
    )


def read_by(model: nn.Module, batch: Batch, labels: bool = False):
    mean, std = (torch.tensor(part)[:, None, None] for part in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mask_IHW, regions = batch.images.mask_IHW, batch.regions
    pixels = (batch.images.pixel_I3HW / 255 - mean) / std * mask_IHW[:, None]
    asked = [
        {
            "class_labels": torch.tensor([NAMES.index(box.name) for box in boxes]),
            "boxes": to_cxcywh(regions.box_IR4[i, : len(boxes)]),
        }
        for i, boxes in enumerate(THINGS)
    ]
    return model(pixel_values=pixels, pixel_mask=mask_IHW.long(), labels=asked if labels else None)


@pytest.fixture
def placeless(theirs, ours, monkeypatch) -> None:
    """Neither side says where cells lie, and ours has no norm before the encoder."""
    embedding = theirs.model.position_embedding
    hook = embedding.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    monkeypatch.setattr(E2EVLP, "place", lambda self, visual: torch.zeros_like(visual.token_IVD))
    ours.image_norm = nn.Identity()
    yield
    hook.remove()


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_whole_model_matching_losses_and_gradients(theirs, ours, batch, placeless):
    batch = ours.label(batch)
    terms, out = ours.finding(batch), read_by(theirs, batch, labels=True)
    close(ours.source(ours.see(batch)).value_SVD, out.encoder_last_hidden_state * ours.see(batch).mask_IV[..., None])
    answer_IQD = ours.look_for_things(ours.source(ours.see(batch)))[-1]
    close(answer_IQD, out.last_hidden_state)
    close(ours.detection.classes(answer_IQD), out.logits)
    close(ours.detection.boxes(answer_IQD), out.pred_boxes)
    loss = sum(term.sum / term.count for term in terms.values())
    close(loss, out.loss)
    theirs.zero_grad()
    loss.backward()
    out.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) > 60
    expected, _ = weights.from_authors(as_published(gradients))
    expected |= {f"detection.classes.{end}": gradients[f"class_labels_classifier.{end}"] for end in ("weight", "bias")}
    made_up = {"image.norm.weight", "image.norm.running_mean_C", "image.norm.running_var_C"}
    largest = max(gradient.norm() for gradient in expected.values())
    for name in expected.keys() - made_up:
        mine = ours.get_parameter(name).grad
        assert (mine - expected[name]).norm() < 1e-4 * expected[name].norm() + 1e-6 * largest, name


def test_decoder_and_heads_with_places(theirs, ours, batch):
    """On what theirs makes of the picture; of a whole picture their sine positions are ours."""
    whole = Batch(**{**vars(batch), "images": Images(batch.images.pixel_I3HW, torch.ones_like(batch.images.mask_IHW))})
    seen = []
    hook = theirs.model.position_embedding.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        out, visual = read_by(theirs, whole), ours.see(whole)
        hook.remove()
        place_IVD = ours.place(visual)
        theirs_IVD = seen[0].flatten(2).mT if seen[0].ndim == 4 else seen[0]
        close(place_IVD, theirs_IVD.expand_as(place_IVD))
        memory = out.encoder_last_hidden_state
        answer_IQD = ours.look_for_things(Source(memory + place_IVD, memory, visual.mask_IV))[-1]
        close(ours.detection.classes(answer_IQD), out.logits)
        close(ours.detection.boxes(answer_IQD), out.pred_boxes)


def test_a_file_is_a_start(theirs, ours, tmp_path):
    torch.save({"model": as_published(theirs.state_dict())}, tmp_path / "detr.pth")
    report = weights.convert(tmp_path / "detr.pth", tmp_path / "start")
    assert [report["missing"], report["unexpected"]] == [[], ["class_embed.bias", "class_embed.weight"]]
    held = read_weights(tmp_path / "start" / "model.safetensors")
    assert report["used"] == len(held)
    wider = E2EVLP(ours.config.model_copy(update={"width": 2 * WIDTH}), Words())
    copy_part(wider, "image.trunk", tmp_path / "start", Words(), [].append)
    assert torch.equal(wider.image.trunk.conv1.weight, held["image.trunk.conv1.weight"])
    fresh, told = E2EVLP(ours.config, Words()), []
    for part in ("image", "queries", "decoder", "fusion", "detection"):
        copy_part(fresh, part, tmp_path / "start", Words(), told.append)
    assert "not there, left as initialised: detection.classes.bias, detection.classes.weight" in told[-1]
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in held.items())
    torch.save({"model": theirs.state_dict()}, tmp_path / "hf.pth")
    with pytest.raises(UserError, match=r"no DETR in its authors' naming, there is no backbone\.0\.body\.conv1\.weight"):
        weights.convert(tmp_path / "hf.pth", tmp_path / "other")
    assert find.weights("detr") is weights
