"""What every system that fuses keeps in rows of two pictures (NLVR2), whatever its hinge: each picture has its place, and counts."""

from dataclasses import replace

import pytest
import torch
from test_every_system import SPECS, TOKENIZER, Case, detected, picture, png, sample

from diptych import config, find
from diptych.contracts import Batch, Images, Regions, System
from diptych.data.collate import Collate
from diptych.draw import Draw

FUSING = [spec for spec in SPECS if "++" not in spec and find.system_class(spec.partition("+")[0]).fuse is not System.fuse]
PAIRS = ((0, 1), (1, 0), (0, 2), (3, 3), (4, 5))


@pytest.fixture(scope="module", params=FUSING)
def two(request) -> tuple[System, Batch]:
    """A system with room for two pictures a row, and rows of two: the second has the first one's pictures, swapped."""
    case = Case(request.param)
    if not case.cls.made_in_finetuning:  # a hinge made for tasks has room for two as it is
        case.recipe = config.resolve(case.recipe, config.from_setting("system.fusion.pictures=2"))
    samples = [replace(sample(0), key=f"{pair}", images=tuple(map(png, pair)), boxes=()) for pair in PAIRS]
    if case.cls.reads_regions:
        samples = [replace(one, regions=tuple(map(detected, pair))) for one, pair in zip(samples, PAIRS, strict=True)]
    samples = [replace(one, texts=one.texts[:1], false_texts=(), phrases=()) for one in samples]
    collate = Collate(TOKENIZER, case.recipe.text, case.recipe.data, training=False)
    batch = collate(samples, [[picture(i) for i in pair] for pair in PAIRS], range(len(PAIRS)), Draw(0))
    system = case.build(fusing=True).eval()
    for parameter in system.parameters():  # as after some training: what is small at the start counts
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return system, batch


def pooled(system: System, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return system.fuse(batch, read_BT=torch.zeros_like(batch.text_mask_BT)).pooled_BD


def test_both_pictures_and_their_order_are_seen(two):
    system, batch = two
    near = pooled(system, batch)[:3]
    assert batch.image_of_BN[0].flip(0).tolist() == batch.image_of_BN[1].tolist()
    for one, other in ((0, 1), (0, 2)):
        assert (near[one] - near[other]).abs().max() > 1e-4, "swapped; another second picture"
    swapped = pooled(system, replace(batch, image_of_BN=batch.image_of_BN.flip(1)))
    torch.testing.assert_close(swapped[[1, 0, 3]], pooled(system, batch)[[0, 1, 3]])


def test_a_place_without_a_picture_is_nothing(two):
    """A row with its first picture alone is what it is where rows have room for one; a second one alone is something else."""
    system, batch = two
    lone = replace(batch, image_of_BN=batch.image_of_BN[:, :1])
    first, second = (batch.image_of_BN.clone() for _ in range(2))
    first[:, 1] = -1
    second[:, 0], second[:, 1] = -1, batch.image_of_BN[:, 0]
    torch.testing.assert_close(pooled(system, replace(batch, image_of_BN=first)), pooled(system, lone))
    assert (pooled(system, replace(batch, image_of_BN=second)) - pooled(system, lone)).abs().amax(1).min() > 1e-4


def test_visual_tokens_know_whose_they_are(two):
    system, batch = two
    with torch.no_grad():
        visual, fused = system.see(batch), system.fuse(batch)
    for b, pictures in enumerate(batch.image_of_BN.tolist()):
        for slot, i in enumerate(pictures):
            is_own_V = fused.image_mask_BV[b] & (fused.image_slot_BV[b] == slot)
            torch.testing.assert_close(fused.box_BV4[b, is_own_V], visual.box_IV4[i, visual.mask_IV[i]])


def test_padding_changes_nothing(two):
    system, batch = two
    grown = {"text_BT": TOKENIZER.pad_id, "text_mask_BT": False, "segment_BT": 0, "word_BT": -1}
    pad, images, regions = torch.nn.functional.pad, batch.images, batch.regions
    padded = replace(
        batch,
        **{name: pad(getattr(batch, name), (0, 4), value=value) for name, value in grown.items()},
        images=Images(pad(images.pixel_I3HW, (0, 32, 0, 16), value=255), pad(images.mask_IHW, (0, 32, 0, 16), value=False)),
        regions=regions
        and Regions(
            pad(regions.box_IR4, (0, 0, 0, 2), value=0.5),
            pad(regions.mask_IR, (0, 2), value=False),
            pad(regions.feature_IRD, (0, 0, 0, 2), value=3.0),
            pad(regions.soft_label_IRK, (0, 0, 0, 2), value=0.3),
        ),
    )
    torch.testing.assert_close(pooled(system, padded), pooled(system, batch), atol=1e-5, rtol=1e-4)
