"""Against torchvision's own networks: sizes, names, and what comes out."""

import pytest
import torch
from torchvision import models

from diptych.config import UserError
from diptych.contracts import Images
from diptych.image.efficientnet import CELL, MULTIPLY, EfficientNet


def test_cells_are_torchvision_s_features():
    torch.manual_seed(0)
    theirs = models.efficientnet_b0(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    ours = EfficientNet.Config(size="b0", top=True).build(1280).eval()
    weights = {n.removeprefix("features."): w for n, w in theirs.state_dict().items() if n.startswith("features.")}
    weights = {n.replace("running_mean", "running_mean_C").replace("running_var", "running_var_C"): w for n, w in weights.items()}
    ours.trunk.load_state_dict({n: w for n, w in weights.items() if "num_batches" not in n})
    pixel_I3HW = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mask_IHW = torch.ones(2, 64, 96, dtype=torch.bool)
    mask_IHW[1, :, 64:] = False
    with torch.no_grad():
        visual = ours(Images(pixel_I3HW, mask_IHW))
        expected = theirs.features(pixel_I3HW[:1] / 127.5 - 1)
    torch.testing.assert_close(visual.token_IVD[0], expected[0].flatten(1).T, atol=1e-4, rtol=1e-4)
    assert visual.mask_IV.tolist() == [[True] * 6, [True, True, False] * 2]
    torch.testing.assert_close(visual.box_IV4[0, 4], torch.tensor([1 / 3, 0.5, 2 / 3, 1]))
    assert CELL == 32


@pytest.mark.parametrize("size", ["b1", "b5", "b7"])
def test_sizes_are_torchvision_s(size: str):
    with torch.device("meta"):
        theirs = getattr(models, f"efficientnet_{size}")(weights=None).features
        width = theirs[-1][0].out_channels
        ours = EfficientNet.Config.model_validate({"size": size, "top": True}).build(width)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


def test_a_width_that_is_not_the_network_s_is_told():
    assert len(MULTIPLY) == 9
    with torch.device("meta"), pytest.raises(UserError, match=r"system\.image_width=7, but EfficientNet-B0 is 320 wide"):
        EfficientNet.Config(size="b0").build(7)
