"""What every objective keeps, found by looking: each module of diptych/objectives that has an `example()`."""

import importlib
import math
import pkgutil
from dataclasses import replace

import pytest
import torch

import diptych.objectives
from diptych.contracts import IGNORE, Batch, Fused, Images, Regions, Towers, Visual
from diptych.draw import Draw

MODULES = [
    module
    for found in pkgutil.iter_modules(diptych.objectives.__path__)
    if hasattr(module := importlib.import_module(f"diptych.objectives.{found.name}"), "example")
]
every_objective = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])


def name_of(module) -> str:
    return module.__name__.rpartition(".")[2]


def asked(objective, batch: Batch) -> Batch:
    """The batch as the loader hands it on: labelled, corrupted, counted."""
    if hasattr(objective, "label"):
        batch = objective.label(batch)
    if hasattr(objective, "corrupt"):
        batch = objective.corrupt(batch, Draw(seed=7))
    return batch


def pad(tensor: torch.Tensor, amount: int, value) -> torch.Tensor:
    """Dimension 1 longer by `amount`."""
    tail = torch.full((len(tensor), amount, *tensor.shape[2:]), value, dtype=tensor.dtype)
    return torch.cat([tensor, tail], 1)


def rows(encoded, batch: Batch, index: list[int]):
    """A part of the batch, before anything was drawn: by rows, or by pictures where the objective reads pictures."""
    at = torch.tensor(index)
    part = type(encoded)(*(None if tensor is None else tensor[at] for tensor in encoded))
    if isinstance(encoded, Fused):
        return part, batch.rows(at)
    images, regions = batch.images, batch.regions
    place = {picture: n for n, picture in enumerate(index)}
    kept = [b for b, picture in enumerate(batch.image_of_BN[:, 0].tolist()) if picture in place]
    shown = batch.rows(torch.tensor(kept))
    return part, replace(
        shown,
        image_of_BN=torch.tensor([[place[picture]] for picture in shown.image_of_BN[:, 0].tolist()]),
        images=images and Images(images.pixel_I3HW[at], images.mask_IHW[at]),
        regions=regions and Regions(*(None if t is None else t[at] for t in vars(regions).values())),
        image_labels={name: label[at] for name, label in batch.image_labels.items()},
    )


@every_objective
def test_loss_is_a_finite_sum_with_the_announced_count_and_reaches_everything(module):
    objective, encoded, batch = module.example()
    encoded = type(encoded)(*(t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in encoded))
    batch = asked(objective, batch)
    term = objective(encoded, batch)
    assert torch.isfinite(term.sum)
    assert term.sum.ndim == 0
    assert term.count == batch.counts[name_of(module)] > 0
    assert all(math.isfinite(float(total)) and count >= 0 for total, count in term.metrics.values())
    term.sum.backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    gradients = [t.grad for t in encoded if t is not None and t.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_objective
def test_without_labels_the_loss_is_zero_and_still_has_a_gradient(module):
    objective, encoded, batch = module.example()
    encoded = type(encoded)(*(t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in encoded))
    batch = asked(objective, batch)

    def nothing(label):
        return torch.zeros_like(label) if label.is_floating_point() or label.dtype == torch.bool else torch.full_like(label, IGNORE)

    batch = replace(
        batch,
        labels={name: nothing(label) for name, label in batch.labels.items()},
        image_labels={name: nothing(label) for name, label in batch.image_labels.items()},
        counts=dict.fromkeys(batch.counts, 0.0),
    )
    term = objective(encoded, batch)
    assert term.sum.item() == 0
    assert term.count == 0
    term.sum.backward()
    for parameter in objective.parameters():
        assert parameter.grad is None or not parameter.grad.any()


@every_objective
def test_padding_changes_nothing(module):
    objective, encoded, batch = module.example()
    batch = asked(objective, batch)
    expected = objective(encoded, batch)
    if isinstance(encoded, Fused):
        encoded = encoded._replace(
            text_BTD=pad(encoded.text_BTD, 3, 50.0),
            text_mask_BT=pad(encoded.text_mask_BT, 3, False),
            image_BVD=pad(encoded.image_BVD, 2, -50.0),
            image_mask_BV=pad(encoded.image_mask_BV, 2, False),
            image_slot_BV=pad(encoded.image_slot_BV, 2, 0),
            box_BV4=pad(encoded.box_BV4, 2, 0.5),
        )
        length = batch.text_BT.shape[1]
        batch = replace(
            batch,
            text_BT=pad(batch.text_BT, 3, 0),
            text_mask_BT=pad(batch.text_mask_BT, 3, False),
            segment_BT=pad(batch.segment_BT, 3, 0),
            word_BT=pad(batch.word_BT, 3, -1),
            labels={n: pad(x, 3, IGNORE) if x.ndim > 1 and x.shape[1] == length else x for n, x in batch.labels.items()},
        )
    elif isinstance(encoded, Visual):
        encoded = Visual(pad(encoded.token_IVD, 2, 50.0), pad(encoded.mask_IV, 2, False), pad(encoded.box_IV4, 2, 0.5))
        visual = encoded.token_IVD.shape[1] - 2
        labels = {n: pad(x, 2, IGNORE) if x.ndim > 1 and x.shape[1] == visual else x for n, x in batch.image_labels.items()}
        batch = replace(batch, image_labels=labels)
    torch.testing.assert_close(objective(encoded, batch).sum, expected.sum)


@every_objective
def test_two_halves_are_the_whole(module):
    """What is drawn for a row does not depend on its neighbours, and losses add up: ranks and micro-steps rest on both."""
    objective, encoded, batch = module.example()
    if isinstance(encoded, Towers):
        pytest.skip("its rows are each other's negatives; ranks exchange them (test_contrast.py)")
    whole_batch = asked(objective, batch)
    whole = objective(encoded, whole_batch)
    size = len(encoded[0])
    order = list(range(0, size, 2)), list(range(1, size, 2))
    terms = []
    for index in order:
        part, part_batch = rows(encoded, batch, index)
        part_batch = asked(objective, part_batch)
        terms.append(objective(part, part_batch))
        for name, label in part_batch.labels.items():
            if isinstance(encoded, Fused):
                assert torch.equal(label, whole_batch.labels[name][torch.tensor(index)]), name
        if isinstance(encoded, Fused):
            assert torch.equal(part_batch.text_BT, whole_batch.text_BT[torch.tensor(index)])
    torch.testing.assert_close(terms[0].sum + terms[1].sum, whole.sum)
    assert terms[0].count + terms[1].count == whole.count
