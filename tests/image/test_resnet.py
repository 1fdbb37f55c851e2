import torch
import torch.nn.functional as F
from torchvision import models

from diptych.contracts import Images
from diptych.image.resnet import ResNet
from diptych.nn.batch_norm import commit


def test_cells_are_torchvision_s_features_pooled_and_projected():
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    grid = ResNet.Config(depth=18, norm="frozen", frozen=2, pool=True, project=True).build(12).eval()
    weights = {name: w for name, w in theirs.state_dict().items() if not name.startswith("fc.") and "num_batches" not in name}
    assert grid.trunk.state_dict().keys() == weights.keys(), "their names, so their files fit"
    grid.trunk.load_state_dict(weights)
    pixel_I3HW = torch.randint(0, 256, (2, 3, 128, 192), dtype=torch.uint8)
    mask_IHW = torch.ones(2, 128, 192, dtype=torch.bool)
    mask_IHW[1, :, 128:] = False
    mean, std = torch.tensor(grid.config.mean)[:, None, None], torch.tensor(grid.config.std)[:, None, None]
    with torch.no_grad():
        visual = grid(Images(pixel_I3HW, mask_IHW))
        x = (pixel_I3HW[:1] / 255 - mean) / std
        for name, module in theirs.named_children():
            x = module(x) if name not in ("avgpool", "fc") else x
        expected = F.conv2d(F.max_pool2d(x, 2), grid.project.weight) * (1 + grid.norm.eps) ** -0.5
    torch.testing.assert_close(visual.token_IVD[0], expected[0].flatten(1).T, atol=1e-4, rtol=1e-4)
    assert visual.mask_IV.tolist() == [[True] * 6, [True, True, False] * 2]
    torch.testing.assert_close(visual.box_IV4[0, 4], torch.tensor([1 / 3, 0.5, 2 / 3, 1]))


def test_stem_and_first_stage_do_not_learn():
    grid = ResNet.Config(depth=18, norm="frozen", frozen=2, pool=True, project=True).build(12)
    frozen = {name.split(".")[1] for name, p in grid.named_parameters() if not p.requires_grad}
    learning = {name.split(".")[1] for name, p in grid.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert learning == {"layer2", "layer3", "layer4", "weight", "bias"}


def test_learned_norms_are_ours_and_the_rest_is_torchvision_s():
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).train()
    grid = ResNet.Config(depth=18).build(512).train()
    grid.trunk.load_state_dict({n: w for n, w in theirs.state_dict().items() if n in grid.trunk.state_dict()}, strict=False)
    pixel_I3HW = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    mean, std = torch.tensor(grid.config.mean)[:, None, None], torch.tensor(grid.config.std)[:, None, None]
    with torch.no_grad():
        visual = grid(Images(pixel_I3HW, torch.ones(3, 64, 96, dtype=torch.bool)))
        x = (pixel_I3HW / 255 - mean) / std
        for name, module in theirs.named_children():
            x = module(x) if name not in ("avgpool", "fc") else x
    torch.testing.assert_close(visual.token_IVD, x.flatten(2).mT, atol=1e-4, rtol=1e-4)
    commit(grid)
    torch.testing.assert_close(grid.trunk.bn1.running_mean_C, theirs.bn1.running_mean)
    torch.testing.assert_close(grid.trunk.bn1.running_var_C, theirs.bn1.running_var)
    assert all(p.requires_grad for p in grid.parameters())
