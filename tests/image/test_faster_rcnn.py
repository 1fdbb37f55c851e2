"""X152-C4: anchors by py-faster-rcnn's table, shapes by the published code, numbers by torchvision's network; and its converter."""

import json
import re

import pytest
import torch
from test_every_system import TOKENIZER, Case, picture
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import RoIAlign

import diptych
from diptych import config, find
from diptych.config import UserError
from diptych.contracts import Images
from diptych.image.faster_rcnn import FasterRCNN
from diptych.nn.batch_norm import commit
from diptych.systems.detector import RegionDetector, paper
from diptych.weights import x152c4

_STAGES = [f".layer{n}." for n in (1, 2, 3, 4)]
SMALL = FasterRCNN.Config(blocks=(1, 1, 1, 1), anchors=(16, 32), proposals=6, candidates=40, least=2, most=4)


def images() -> Images:
    pixel_I3HW = torch.stack([torch.tensor(picture(0)).permute(2, 0, 1)[:, :48, :64], torch.zeros(3, 48, 64, dtype=torch.uint8)])
    mask_IHW = torch.ones(2, 48, 64, dtype=torch.bool)
    mask_IHW[1, 32:] = False
    return Images(pixel_I3HW, mask_IHW)


@pytest.fixture(scope="module")
def small() -> FasterRCNN:
    torch.manual_seed(0)
    return SMALL.build(5, 4).eval()


def test_anchors_are_py_faster_rcnns():
    """Its own table for 8, 16 and 32 times 16 pixels: corners of the first cell, the last pixel within."""
    table = [
        (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
        (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
        (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
    ]  # fmt: skip
    with torch.device("meta"):
        network = FasterRCNN.Config(anchors=(128, 256, 512)).build(2, 1)
    anchor_A4 = network.anchors(2, 3, torch.device("cpu"))
    expected_A4 = torch.tensor(table, dtype=torch.float32) + torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(anchor_A4[:9], expected_A4)
    torch.testing.assert_close(anchor_A4[-9:], expected_A4 + torch.tensor([32, 16, 32, 16]))


def test_paper_has_the_published_names_and_shapes():
    with torch.device("meta"):
        network = paper().system.image.build(1595, 525)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    box, body = "roi_heads.box", "backbone.body"
    assert (
        shapes.items()
        >= {
            f"{body}.stem.conv1.weight": [64, 3, 7, 7],
            f"{body}.stem.bn1.running_var": [64],
            f"{body}.layer1.0.conv2.weight": [256, 8, 3, 3],
            f"{body}.layer1.0.downsample.0.weight": [256, 64, 1, 1],
            f"{body}.layer2.7.bn3.weight": [512],
            f"{body}.layer3.35.conv3.weight": [1024, 1024, 1, 1],
            "rpn.head.conv.weight": [1024, 1024, 3, 3],
            "rpn.head.cls_logits.weight": [15, 1024, 1, 1],
            "rpn.head.bbox_pred.weight": [60, 1024, 1, 1],
            f"{box}.feature_extractor.head.layer4.2.conv2.weight": [2048, 64, 3, 3],
            f"{box}.predictor.cls_score.weight": [1595, 2048],
            f"{box}.predictor.bbox_pred.weight": [6380, 2048],
            "attribute.predictor.cls_embedding.weight": [1595, 256],
            "attribute.predictor.fc_attr.weight": [512, 2304],
            "attribute.predictor.attr_score.weight": [525, 512],
        }.items()
    )
    blocks = [len({name.split(stage)[1].split(".")[0] for name in shapes if stage in name}) for stage in _STAGES]
    assert blocks == [3, 8, 36, 3]
    learnt = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not [name for name in learnt if name.startswith((f"{body}.stem", f"{body}.layer1"))]
    assert f"{body}.layer2.0.conv1.weight" in learnt


def test_a_region_is_what_torchvisions_network_makes_of_it(small):
    """Blue first, the published mean on the scale of 255, strides in the 3 x 3 convolutions, RoIAlign to the last pixel."""
    theirs = ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=8)
    for norm in (part for part in theirs.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.eps = 0.0
    renamed = {}
    for name, tensor in small.state_dict().items():
        for ours in ("backbone.body.stem.", "backbone.body.", "roi_heads.box.feature_extractor.head."):
            if name.startswith(ours):
                renamed[name.removeprefix(ours)] = tensor
                break
    left = theirs.load_state_dict(renamed, strict=False)
    assert not left.unexpected_keys and all(name.startswith("fc") or "num_batches" in name for name in left.missing_keys)
    theirs.eval()
    shown = images()
    rgb_I3HW = shown.pixel_I3HW.float()
    bgr_I3HW = rgb_I3HW[:, [2, 1, 0]] - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    bgr_I3HW[1, :, 32:] = 0
    boxes = [torch.tensor([[3.0, 4.0, 30.0, 41.0], [0.0, 0.0, 64.0, 48.0]]), torch.tensor([[10.0, 2.0, 50.0, 20.0]])]
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(bgr_I3HW))))
        map_IDHW = theirs.layer3(theirs.layer2(theirs.layer1(x)))
        pooled = RoIAlign(14, 1 / 16, 0)(map_IDHW, [box - torch.tensor([0.0, 0.0, 1.0, 1.0]) for box in boxes])
        expected_PD = theirs.layer4(pooled).mean((2, 3))
        named = small.read(small(shown), boxes)
    torch.testing.assert_close(named.feature_PD, expected_PD, rtol=1e-4, atol=1e-4)
    assert not named.change_P4.any(), "proposals stay as they are"


def test_it_trains_on_the_class_it_is_given_and_detects(small):
    case = Case("detector")
    system = RegionDetector(case.recipe.system.model_copy(update={"image": SMALL}), TOKENIZER)
    batch = case.batch(system)
    terms = system(batch)
    sum(term.weight * term.sum / term.count for term in terms.values()).backward()
    commit(system)
    without = {name for name, p in system.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert {group.optimizer for group in system.param_groups()} == {"sgd"}
    with torch.no_grad():
        seen = system.eval().detect(batch)
    assert seen.feature_IRD.shape[2] == 2048 == system.region_width
    assert (seen.mask_IR.sum(1) >= 1).all() and (seen.mask_IR.sum(1) <= 4).all()


def test_published_weights_become_a_run_that_detects(tmp_path):
    torch.manual_seed(1)
    state = {f"module.{name}": tensor for name, tensor in FasterRCNN.Config(blocks=(1, 2, 1, 1)).build(5, 4).state_dict().items()}
    shared = "feature_extractor.head.layer4.0.conv1.weight"
    extra = {f"module.attribute.{shared}": state[f"module.roi_heads.box.{shared}"]}
    extra["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(15, 4)
    torch.save({"model": state | extra, "iteration": 90_000}, tmp_path / "vinvl_vg_x152c4.pth")
    names, looks = {"dog": 1, "cat": 2, "pear": 4, "apple": 3}, {"red": 1, "small": 2, "blue": 3}
    (tmp_path / "dicts.json").write_text(json.dumps({"label_to_idx": names, "attribute_to_idx": looks}))
    said = x152c4.convert(tmp_path / "vinvl_vg_x152c4.pth", tmp_path / "run")
    assert (said["classes"], said["attributes"], len(said["left behind"])) == (4, 4, 2)
    model = diptych.load(tmp_path / "run")
    assert model.system.region_classes == ("background", "dog", "cat", "apple", "pear")
    assert (model.recipe.system.attributes, model.recipe.system.image.blocks) == (("none", "red", "small", "blue"), (1, 2, 1, 1))
    loaded = model.system.state_dict()
    assert loaded.keys() == {f"image.{name.removeprefix('module.')}" for name in state}
    assert all(torch.equal(loaded[f"image.{name.removeprefix('module.')}"], tensor) for name, tensor in state.items())

    del state["module.rpn.head.conv.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"missing.*rpn.head.conv.bias"):
        x152c4.convert(tmp_path / "less.pth", tmp_path / "less")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no tensors of X152-C4"):
        x152c4.convert(tmp_path / "other.pth", tmp_path / "other")


@pytest.mark.parametrize(
    ("preset", "setting", "said"),
    [
        ("small", "system.image.mosst=3", "unknown key 'system.image.mosst'; did you mean 'system.image.most'?"),
        ("small", "system.image.candidates=3", "unknown key 'system.image.candidates'"),
        ("small", "system.image.kind=faster_rcn", "cannot be 'faster_rcn'; did you mean 'faster_rcnn'?"),
        ("paper", "system.image.width=3", "unknown key 'system.image.width'"),
    ],
)
def test_the_small_network_says_no_kind_and_is_meant_where_none_is_said(preset: str, setting: str, said: str):
    recipe = find.system(f"detector:{preset}").recipe
    with pytest.raises(UserError, match=re.escape(said)):
        config.resolve(recipe, config.from_setting(setting))
    assert config.resolve(recipe, config.from_setting("system.image.most=5")).system.image.most == 5
    assert find.recipe(recipe.model_dump(mode="json"), "detector") == recipe
    assert ("kind" in recipe.system.image.model_dump()) == (preset == "paper"), "saved runs of the small one stay as they are"


@pytest.mark.slow
def test_paper_takes_a_step():
    case = Case("detector")
    known = case.recipe.system
    names = (*known.names, *(f"name {n}" for n in range(1594 - len(known.names))))
    looks = (*known.attributes, *(f"look {n}" for n in range(525 - len(known.attributes))))
    image = FasterRCNN.Config(proposals=8)
    system = RegionDetector(paper().system.model_copy(update={"image": image, "names": names, "attributes": looks}), TOKENIZER)
    before = system.image.attribute["predictor"]["fc_attr"].weight.clone()
    terms = system(case.batch(system))
    sum(term.weight * term.sum / term.count for term in terms.values()).backward()
    learnt = [p for p in system.parameters() if p.requires_grad]
    assert all(torch.isfinite(p.grad).all() for p in learnt)
    torch.optim.SGD(learnt, 1e-3).step()
    assert not torch.equal(before, system.image.attribute["predictor"]["fc_attr"].weight)
