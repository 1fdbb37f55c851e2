import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diptych.contracts import Images
from diptych.image.grid_cnn import GridCNN
from diptych.nn.place import Place

SIZES = ((64, 64), (37, 64), (48, 21))  # the last two end inside a cell


def pictures() -> Images:
    random = torch.Generator().manual_seed(0)
    mask_IHW = torch.zeros(3, 64, 64, dtype=torch.bool)
    for mask_HW, (height, width) in zip(mask_IHW, SIZES, strict=True):
        mask_HW[:height, :width] = True
    return Images(torch.randint(0, 256, (3, 3, 64, 64), generator=random, dtype=torch.uint8), mask_IHW)


@pytest.fixture(scope="module", params=[False, True], ids=["no place", "place"])
def grid(request) -> GridCNN:
    """With running statistics and norms that are not those of the start."""
    torch.manual_seed(0)
    model = GridCNN.Config(channels=(6, 8, 8), strides=(4, 2, 2), place=request.param).build(12)
    for buffer in (*model.buffers(), *(p for p in model.parameters() if p.ndim == 1)):
        buffer.data.uniform_(0.5, 1.5)
    return model.eval()


def test_a_picture_alone_is_the_picture_among_others(grid):
    batch = pictures()
    together = grid(batch)
    for i, (height, width) in enumerate(SIZES):
        alone = grid(Images(batch.pixel_I3HW[i : i + 1, :, :height, :width], batch.mask_IHW[i : i + 1, :height, :width]))
        assert together.mask_IV[i].sum() == alone.mask_IV.sum() == -(-height // 16) * -(-width // 16)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[i, together.mask_IV[i]], expected[0, alone.mask_IV[0]], atol=1e-5, rtol=1e-5)


def test_cells_equal_a_plain_network_of_torch(grid):
    layers: list[nn.Module] = []
    for block in grid.blocks:
        norm = nn.BatchNorm2d(len(block.norm.weight))
        norm.load_state_dict(
            {
                "weight": block.norm.weight,
                "bias": block.norm.bias,
                "running_mean": block.norm.running_mean_C,
                "running_var": block.norm.running_var_C,
                "num_batches_tracked": torch.tensor(0),
            }
        )
        layers += [block.conv, norm, nn.ReLU()]
    batch = pictures()
    whole = Images(batch.pixel_I3HW[:1], batch.mask_IHW[:1])
    map_DHW = nn.Sequential(*layers).eval()(whole.pixel_I3HW / 127.5 - 1)[0]
    assert map_DHW.shape == (12, 4, 4)
    visual = grid(whole)
    for row in range(4):
        for col in range(4):
            box_4 = torch.tensor([col, row, col + 1, row + 1]) / 4
            expected = F.layer_norm(map_DHW[:, row, col], (12,), grid.norm.weight, grid.norm.bias, 1e-6)
            expected = expected if grid.place is None else expected + grid.place(box_4)
            torch.testing.assert_close(visual.token_IVD[0, 4 * row + col], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(visual.box_IV4[0, 4 * row + col], box_4)


def test_boxes_are_relative_to_the_picture_and_cut_to_it(grid):
    visual = grid(pictures())
    real = visual.mask_IV[2].unflatten(0, (4, 4))
    assert real.tolist() == [[True, True, False, False]] * 3 + [[False] * 4]
    torch.testing.assert_close(visual.box_IV4[2, 5], torch.tensor([16 / 21, 16 / 48, 1, 32 / 48]))


def test_place_is_read_from_the_box():
    """Eight waves and two straight numbers for each direction, by hand."""
    place = Place(7)
    box_4 = torch.tensor([0.1, 0.3, 0.5, 0.9])
    x, y = torch.tensor(0.1 + 0.5 - 1), torch.tensor(0.3 + 0.9 - 1)
    numbers = [x, y, torch.tensor(0.4), torch.tensor(0.6)]
    for periods in (0.5, 1.0, 2.0):
        numbers += [wave(torch.pi * periods * side) for wave in (torch.sin, torch.cos) for side in (x, y)]
    torch.testing.assert_close(place(box_4), place.project.weight @ torch.stack(numbers) + place.project.bias)
