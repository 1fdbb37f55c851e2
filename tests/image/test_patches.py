import pytest
import torch
import torch.nn.functional as F

from diptych.contracts import Images
from diptych.image.patches import Patches


def images(*sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    pixel = torch.randint(0, 256, (len(sizes), 3, height, width), generator=random, dtype=torch.uint8)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    for one, (h, w) in zip(mask, sizes, strict=True):
        one[:h, :w] = True
    return Images(pixel, mask)


@pytest.fixture(scope="module")
def patches():
    torch.manual_seed(0)
    return Patches.Config(patch=8, grid=4, dropout=0).build(12).eval()


def test_each_patch_is_a_projection_of_its_pixels_plus_its_stretched_position(patches):
    """Token by token: cut the patch out, flatten it, multiply; the position by hand from the four grid points around it."""
    sizes = ((32, 32), (16, 40), (40, 24))
    batch = images(*sizes)
    visual = patches(batch)
    weight = patches.project.weight.flatten(1)
    for i, (height, width) in enumerate(sizes):
        rows, cols = height // 8, width // 8
        torch.testing.assert_close(visual.token_IVD[i, 0], patches.cls + patches.position[0])
        assert visual.box_IV4[i, 0].tolist() == [0, 0, 1, 1]
        for r in range(rows):
            for c in range(cols):
                place = 1 + r * cols + c
                cut = batch.pixel_I3HW[i, :, r * 8 : r * 8 + 8, c * 8 : c * 8 + 8] / 127.5 - 1
                y, x = r * 3 / (rows - 1), c * 3 / (cols - 1)
                y0, x0 = min(int(y), 2), min(int(x), 2)
                dy, dx = y - y0, x - x0
                grid = patches.position[1:].unflatten(0, (4, 4))
                top = grid[y0, x0] * (1 - dx) + grid[y0, x0 + 1] * dx
                bottom = grid[y0 + 1, x0] * (1 - dx) + grid[y0 + 1, x0 + 1] * dx
                expected = weight @ cut.flatten() + patches.project.bias + top * (1 - dy) + bottom * dy
                torch.testing.assert_close(visual.token_IVD[i, place], expected, atol=1e-5, rtol=1e-5)
                box = torch.tensor([c * 8 / width, r * 8 / height, (c + 1) * 8 / width, (r + 1) * 8 / height])
                torch.testing.assert_close(visual.box_IV4[i, place], box)
        assert visual.mask_IV[i].sum() == 1 + rows * cols
        assert visual.mask_IV[i, : 1 + rows * cols].all()
    assert visual.token_IVD.shape[1] == 1 + 16, "as long as the picture with most patches, not as the common canvas (25)"


def test_company_and_padding_change_nothing(patches):
    batch = images((32, 32), (16, 40), (30, 21))  # the last one ends inside a patch
    together = patches(batch)
    for i, (height, width) in enumerate(batch.size_I2.tolist()):
        alone = patches(Images(batch.pixel_I3HW[i : i + 1, :, :height, :width], batch.mask_IHW[i : i + 1, :height, :width]))
        length = alone.token_IVD.shape[1]
        torch.testing.assert_close(together.token_IVD[i, :length], alone.token_IVD[0])
        torch.testing.assert_close(together.box_IV4[i, :length], alone.box_IV4[0])
    black = Images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.ones(1, 32, 32, dtype=torch.bool))
    assert patches(black).mask_IV.all()


def test_the_cap_samples_in_training_only_and_keeps_reading_order():
    torch.manual_seed(0)
    patches = Patches.Config(patch=8, grid=4, dropout=0, max_patches=10).build(12)
    batch = images((32, 32), (16, 24))
    full = patches.eval()(batch)
    assert full.mask_IV.sum(1).tolist() == [17, 7]
    patches.train()
    torch.manual_seed(5)
    capped = patches(batch)
    torch.manual_seed(5)
    again = patches(batch)
    assert torch.equal(capped.token_IVD, again.token_IVD)
    assert capped.mask_IV.sum(1).tolist() == [11, 7]
    places = [(full.box_IV4[0] == kept).all(-1).nonzero().item() for kept in capped.box_IV4[0]]
    assert places == sorted(places)
    assert places[0] == 0
    torch.testing.assert_close(capped.token_IVD[0], full.token_IVD[0, places])


def test_a_square_grid_of_positions_is_used_as_it_is(patches):
    visual = patches(images((32, 32)))
    pixels = images((32, 32)).pixel_I3HW / 127.5 - 1
    expected = F.conv2d(pixels, patches.project.weight, patches.project.bias, stride=8).flatten(2).mT[0] + patches.position[1:]
    torch.testing.assert_close(visual.token_IVD[0, 1:], expected, atol=1e-5, rtol=1e-5)
