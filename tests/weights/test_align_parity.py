"""Ours against transformers' ALIGN: same random weights, same pictures and texts, same numbers, at B0's shape."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diptych import load
from diptych.config import UserError
from diptych.contracts import Batch, Images
from diptych.image.efficientnet import MULTIPLY
from diptych.systems.align import ALIGN
from diptych.weights import align as weights
from diptych.weights import rename
from diptych.weights.bert import body

LENGTHS, SIDE, WIDTH = (11, 7, 9, 5), (64, 96), 48


class Words:
    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 200, 0, 1, 2, 3, 4


def configuration(size: str = "b0", layers: int = 3):
    from transformers import AlignConfig

    wide, deep = MULTIPLY[size]
    text = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    text |= {"vocab_size": Words.vocab_size, "max_position_embeddings": 32}
    vision = {"width_coefficient": wide, "depth_coefficient": deep, "drop_connect_rate": 0.0}
    width = int(320 * wide + 4) // 8 * 8
    return AlignConfig(text_config=text, vision_config=vision, projection_dim=width, temperature_init_value=0.7)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Every parameter stirred; running statistics of pictures like the batch's, or nothing would come through to the end."""
    from transformers import AlignModel

    torch.manual_seed(0)
    model = AlignModel(configuration()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)
            elif parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.9
        model.train().vision_model(pixel_values=pictures(seed=2) / 127.5 - 1)
    return model.eval()


def pictures(seed: int) -> torch.Tensor:
    """Few large spots: to a mean over cells, noise of single pixels all looks the same."""
    spots = torch.randint(0, 256, (len(LENGTHS), 3, 2, 3), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(spots.float(), SIDE, mode="bilinear").to(torch.uint8)


def filled(theirs) -> ALIGN:
    system, state, report = weights.from_hugging_face(theirs.state_dict(), theirs.config.to_dict())
    assert not report
    model = ALIGN(ALIGN.Config.model_validate(system), Words()).eval()
    assert not rename.compare(model, state)
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    text_BT = torch.randint(5, Words.vocab_size, mask_BT.shape, generator=random) * mask_BT
    each = torch.arange(len(LENGTHS))
    return Batch(
        text_BT,
        mask_BT,
        torch.zeros_like(text_BT),
        text_BT,
        each,
        image_of_BN=each[:, None],
        images=Images(pictures(seed=1), torch.ones(len(LENGTHS), *SIDE, dtype=torch.bool)),
        labels={"contrast": each},
        counts={"contrast": float(len(LENGTHS))},
    )


def read_by(model: nn.Module, batch: Batch):
    pixels = batch.images.pixel_I3HW / 127.5 - 1  # their processor's way of writing it
    return model(input_ids=batch.text_BT, attention_mask=batch.text_mask_BT.long(), pixel_values=pixels, return_loss=True)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_both_towers_the_scores_and_the_loss(theirs, batch):
    ours = filled(theirs)
    with torch.no_grad():
        out, towers, (term,) = read_by(theirs, batch), ours.towers(batch), ours(batch).values()
        theirs_cells = theirs.vision_model(pixel_values=batch.images.pixel_I3HW / 127.5 - 1).last_hidden_state
        close(ours.see(batch).token_IVD, theirs_cells.flatten(2).mT)
    close(towers.a_BE, out.image_embeds)
    close(towers.b_BE, out.text_embeds)
    assert out.image_embeds.std(0).mean() > 1e-3, "pictures differ a hundred times more than is let pass"
    close(towers.a_BE @ towers.b_BE.T / towers.temperature, out.logits_per_image)
    close(term.sum / term.count, out.loss)


def test_gradients_of_a_training_step(theirs, batch):
    """By the batch's own statistics. The temperature is learnt as its logarithm here, so its gradient is T times theirs."""
    ours = filled(theirs).train()
    theirs.train()
    before = {name: buffer.clone() for name, buffer in theirs.named_buffers()}
    theirs.zero_grad()
    (term,), out = ours(batch).values(), read_by(theirs, batch)
    close(term.sum / term.count, out.loss)
    (term.sum / term.count).backward()
    out.loss.backward()
    theirs.eval()
    for name, buffer in theirs.named_buffers():
        buffer.copy_(before[name])
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    gradients["temperature"] = gradients["temperature"] * theirs.temperature.detach()
    expected, _ = weights.table("b0").to_ours(gradients, layers=3)
    named = dict(ours.named_parameters())
    assert expected.keys() == named.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, parameter in named.items():
        # softmax does not see what is added to all keys, so the gradient of their biases is rounding in both
        if name.endswith("qkv.bias"):
            assert parameter.grad[WIDTH : 2 * WIDTH].norm() < 1e-6 * largest
        error = (parameter.grad - expected[name]).norm()
        assert error < 1e-4 * expected[name].norm() + 1e-6 * largest, (name, error.item())


@pytest.mark.parametrize("size", ["b0", "b3", "b7", "l2"])
def test_every_size_has_every_name(size):
    """Names and shapes alone: nothing is computed on the meta device."""
    from transformers import AlignModel

    with torch.device("meta"):
        theirs = AlignModel(configuration(size, layers=2))
        image_width = theirs.config.projection_dim
        image = {"kind": "efficientnet", "size": size, "padding": "late"}
        encoder = {"layers": 2, "heads": 4, "ffn_ratio": 2, "norm": "post"}
        text = {"positions": 32}
        ours = ALIGN(
            ALIGN.Config.model_validate(
                {"width": WIDTH, "image_width": image_width, "image": image, "encoder": encoder, "text": text}
            ),
            Words(),
        )
    table = weights.table(size)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not weights._is_unread(name)}
    found, report = table.to_ours(state, layers=2)
    assert not report
    assert not rename.compare(ours, found)
    assert {*body("text_model")} < {*table.rows}


def test_a_folder_becomes_a_run_that_compares_pictures_with_texts(tmp_path, theirs, batch):
    there = tmp_path / "align"
    theirs.save_pretrained(there)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(Words.vocab_size - 5))]
    (there / "vocab.txt").write_text("\n".join(vocabulary))
    report = weights.convert(there, tmp_path / "run")
    assert [report["missing"], report["unexpected"]] == [[], []]
    model = load.load(tmp_path / "run", device="cpu")
    with torch.no_grad():
        close(model.system.towers(batch).b_BE, read_by(theirs, batch).text_embeds)
    with pytest.raises(UserError, match="already holds a model"):
        weights.convert(there, tmp_path / "run")


def test_what_is_missing_or_of_no_size_is_told(tmp_path, theirs):
    state = {**theirs.state_dict(), "vision_model.strange": torch.zeros(1)}
    del state["vision_model.encoder.blocks.3.depthwise_conv.depthwise_norm.running_var"]
    config = theirs.config.to_dict()
    _, _, report = weights.from_hugging_face(state, config)
    assert report.missing == ["vision_model.encoder.blocks.3.depthwise_conv.depthwise_norm.running_var"]
    assert report.unexpected == ["vision_model.strange"]
    for key, value, said in (
        ("depthwise_padding", [3], r"depthwise_padding=\[3\]"),
        ("width_coefficient", 1.7, "1.7 times as wide"),
    ):
        with pytest.raises(UserError, match=said):
            weights.from_hugging_face(state, {**config, "vision_config": {**config["vision_config"], key: value}})
    (tmp_path / "config.json").write_text('{"model_type": "align", "vision_config": {}, "text_config": {}}')
    save_file({"temperature": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"no whole ALIGN, there is no text_projection\.weight"):
        weights.convert(tmp_path, tmp_path / "run")
