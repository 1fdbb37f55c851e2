"""Views are torchvision's operations, and depend on the sample alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as theirs

from diptych.contracts import ROWS_PER_SAMPLE, Images
from diptych.data.views import Recipe, Views, drawn, two_views, view
from diptych.draw import Draw
from diptych.objectives import example_rows

ADJUST = {
    "brightness": theirs.adjust_brightness,
    "contrast": theirs.adjust_contrast,
    "saturation": theirs.adjust_saturation,
    "hue": theirs.adjust_hue,
}


def picture(height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("seed", range(8))
def test_operations_are_torchvisions(seed: int):
    recipe = drawn(Views(size=32, jitter=1, grey=0.5), 60, 40, np.random.default_rng(seed))._replace(blur=None)
    left, top, right, bottom = recipe.crop
    bilinear = InterpolationMode.BILINEAR
    expected = theirs.resized_crop(picture(), top, left, bottom - top, right - left, [32, 32], bilinear, antialias=True)
    assert {name for name, _ in recipe.colours} == ADJUST.keys()
    for name, amount in recipe.colours:
        expected = ADJUST[name](expected, amount)
    if recipe.is_grey:
        expected = theirs.rgb_to_grayscale(expected, 3)
    if recipe.is_flipped:
        expected = theirs.hflip(expected)
    assert np.array_equal(np.asarray(view(picture(), recipe, 32)), np.asarray(expected))


def test_blur_is_close_to_a_gaussian():
    recipe = Recipe((0, 0, 60, 40), (), False, 1.5, False)
    exact = theirs.gaussian_blur(picture().resize((40, 40), Image.Resampling.BILINEAR), [15, 15], [1.5, 1.5])
    assert np.abs(np.asarray(view(picture(), recipe, 40), int) - np.asarray(exact, int)).mean() < 2


def test_draws_have_the_ranges_that_were_asked_for():
    views = Views(size=224, least_crop=0.2, strength=0.5)
    some = [drawn(views, 60, 40, np.random.default_rng(seed)) for seed in range(2000)]
    for left, top, right, bottom in (recipe.crop for recipe in some):
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        area, ratio = (right - left) * (bottom - top) / 2400, (right - left) / (bottom - top)
        assert 0.17 < area <= 1 and 0.68 < ratio < 1.45, "to within a rounded pixel"
    shares = [np.mean([bool(r.colours) for r in some]), *(np.mean([r[n] for r in some]) for n in (2, 4))]
    assert shares == pytest.approx([0.8, 0.2, 0.5], abs=0.04)
    assert np.mean([r.blur is not None for r in some]) == pytest.approx(0.5, abs=0.04)
    amounts = {name: [dict(r.colours)[name] for r in some if r.colours] for name in ADJUST}
    assert 0.6 <= min(amounts["brightness"]) < 0.61 and 1.39 < max(amounts["saturation"]) <= 1.4
    assert -0.1 <= min(amounts["hue"]) < -0.099


def test_a_samples_views_do_not_depend_on_its_company_or_padding():
    random = torch.Generator().manual_seed(0)
    pixel = torch.randint(0, 256, (3, 3, 40, 60), generator=random, dtype=torch.uint8)
    mask = torch.ones(3, 40, 60, dtype=torch.bool)
    mask[1, :, 50:] = False
    batch = example_rows.batch()
    rows = torch.tensor([0, 1, 2, 3, 4]) * ROWS_PER_SAMPLE
    batch = replace(batch.rows(torch.tensor([0, 1, 2, 3, 4])), row_B=rows, images=Images(pixel, mask))
    batch.image_of_BN = torch.tensor([[2], [0], [0], [-1], [1]])
    seen = two_views(batch, Views(size=24), Draw(5))
    assert seen.row_B.tolist() == [0, ROWS_PER_SAMPLE, 4 * ROWS_PER_SAMPLE], "one row for each picture"
    assert seen.image_of_BN.tolist() == [[0, 3], [1, 4], [2, 5]]
    alone = batch.rows(torch.tensor([4]))
    alone.images = Images(pixel[1:2, :, :, :50], mask[1:2, :, :50])
    alone.image_of_BN = torch.tensor([[0]])
    found = two_views(alone, Views(size=24), Draw(5)).images.pixel_I3HW
    assert torch.equal(found, seen.images.pixel_I3HW[[2, 5]])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, two_views(alone, Views(size=24), Draw(6)).images.pixel_I3HW)
