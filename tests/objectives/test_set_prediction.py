"""Set prediction against transformers' DETR loss on the same heads, against every assignment there is, and by its own rules."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from diptych.contracts import IGNORE, Batch, Box, Images, Regions, Sample
from diptych.nn.box import giou, to_cxcywh, to_xyxy
from diptych.objectives.set_prediction import SetPrediction, assign

NAMES, ATTRIBUTES, QUERIES, LAYERS, WIDTH = ("cat", "dog", "owl"), ("red", "big"), 6, 3, 16
THINGS = (
    (Box((0, 0, 40, 30), "dog", ("red",)), Box((20, 10, 64, 48), "cat", ("red", "big")), Box((5, 5, 9, 40), "owl")),
    (Box((10, 0, 20, 48), "owl", ("big",)),),
)


def built(things=THINGS, attributes=(), **settings):
    """Objective, states of every layer, labelled batch."""
    torch.manual_seed(0)
    objective = SetPrediction(SetPrediction.Config(names=NAMES, attributes=attributes, queries=QUERIES, **settings), WIDTH)
    pictures, most = len(things), max(1, *map(len, things))
    box_IR4 = torch.zeros(pictures, most, 4)
    for i, boxes in enumerate(things):
        for r, box in enumerate(boxes):
            box_IR4[i, r] = torch.tensor(box.xyxy) / torch.tensor([64, 48, 64, 48])
    token_B1 = torch.ones(pictures, 1, dtype=torch.int64)
    batch = Batch(
        token_B1,
        token_B1.bool(),
        token_B1,
        token_B1,
        torch.arange(pictures),
        image_of_BN=torch.arange(pictures)[:, None],
        images=Images(torch.zeros(pictures, 3, 48, 64, dtype=torch.uint8), torch.ones(pictures, 48, 64, dtype=torch.bool)),
        regions=Regions(box_IR4, (box_IR4[..., 2:] > box_IR4[..., :2]).all(-1)),
        samples=tuple(Sample(str(i), boxes=tuple(boxes)) for i, boxes in enumerate(things)),
    )
    states = [torch.randn(pictures, QUERIES, WIDTH) * 2 for _ in range(LAYERS)]
    return objective, states, objective.label(batch)


def test_it_is_detrs_loss():
    """Class, box and auxiliary losses and their gradients, as transformers computes them from the same outputs."""
    objective, states, batch = built()
    states = [state.requires_grad_() for state in states]
    outputs = [(objective.classes(state), objective.boxes(state)) for state in states]
    targets = [
        {
            "class_labels": torch.tensor([NAMES.index(box.name) for box in boxes]),
            "boxes": to_cxcywh(batch.regions.box_IR4[i, : len(boxes)]),
        }
        for i, boxes in enumerate(THINGS)
    ]
    settings = DetrConfig(auxiliary_loss=True, num_labels=len(NAMES))
    expected, parts, _ = ForObjectDetectionLoss(
        outputs[-1][0],
        targets,
        "cpu",
        outputs[-1][1],
        settings,
        torch.stack([logits for logits, _ in outputs]),
        torch.stack([boxes for _, boxes in outputs]),
    )
    terms = objective(states, batch)
    ours = {name: term.sum / term.count for name, term in terms.items()}
    ends = ["", *(f"_{layer}" for layer in range(LAYERS - 1))]
    torch.testing.assert_close(ours["object_class"], sum(parts[f"loss_ce{end}"] for end in ends))
    torch.testing.assert_close(ours["object_box"], sum(5 * parts[f"loss_bbox{end}"] + 2 * parts[f"loss_giou{end}"] for end in ends))
    torch.testing.assert_close(sum(ours.values()), expected)
    gradients = [torch.autograd.grad(loss, states, retain_graph=True) for loss in (sum(ours.values()), expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def slow(objective, states, things):
    """Sums of the three losses: every assignment is tried, and queries and boxes are gone through one by one."""
    settings, sums = objective.config, {"object_box": 0.0, "object_class": 0.0, "object_attribute": 0.0}
    for state in states:
        for i, boxes in enumerate(things):
            if not boxes:
                continue
            log_p = objective.classes(state[i]).log_softmax(-1)
            log_a = objective.attributes(state[i]).log_softmax(-1)
            found = objective.boxes(state[i])
            true = [torch.tensor(box.xyxy) / torch.tensor([64, 48, 64, 48]) for box in boxes]
            owns = [[ATTRIBUTES.index(a) for a in box.attributes] for box in boxes]

            def away(q, r, found=found, true=true):
                far = (found[q] - to_cxcywh(true[r])).abs().sum()
                return 5 * far, 2 * giou(to_xyxy(found[q])[None], true[r][None])[0, 0]

            def cost(q, r, log_p=log_p, log_a=log_a, owns=owns, boxes=boxes, away=away):
                likely = sum(log_a[q, a].exp() for a in owns[r]) / max(len(owns[r]), 1)
                far, near = away(q, r)
                return float(far - near - log_p[q, NAMES.index(boxes[r].name)].exp() - likely)

            best = min(
                itertools.permutations(range(QUERIES), len(boxes)),
                key=lambda qs: sum(cost(q, r) for r, q in enumerate(qs)),
            )
            for q in range(QUERIES):
                if q in best:
                    r = best.index(q)
                    far, near = away(q, r)
                    sums["object_box"] += far + 2 - near
                    sums["object_class"] -= log_p[q, NAMES.index(boxes[r].name)]
                    sums["object_attribute"] -= sum(log_a[q, a] for a in owns[r]) / max(len(owns[r]), 1)
                else:
                    sums["object_class"] -= settings.nothing * log_p[q, -1]
                    sums["object_attribute"] -= settings.nothing * log_a[q, -1]
    return sums


def test_it_is_the_loop_over_every_assignment():
    """With attributes, a picture that nobody annotated, and a weight of "nothing" of its own."""
    things = (*THINGS, ())
    objective, states, batch = built(things, ATTRIBUTES, nothing=0.25)
    with torch.no_grad():
        terms = objective(states, batch)
        for name, expected in slow(objective, states, things).items():
            torch.testing.assert_close(terms[name].sum, expected)
    assert {name: term.count for name, term in terms.items()} == batch.counts
    assert batch.counts == {"object_box": 4, "object_class": 4 + 0.25 * 8, "object_attribute": 3 + 0.25 * 8}
    alone = SetPrediction(objective.config.model_copy(update={"auxiliary": False}), WIDTH)
    alone.load_state_dict(objective.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(alone(states, batch)["object_class"].sum, slow(objective, states[-1:], things)["object_class"])


def test_more_boxes_than_queries_unknown_names_and_boxes_without_area():
    many = tuple(Box((n, 0, n + 20, 30), "dog", ("red",)) for n in range(QUERIES + 3))
    odd = (Box((0, 0, 30, 30), "zebra", ("red",)), Box((5, 5, 5, 40), "dog"), Box((0, 0, 9, 9), "cat"))
    objective, states, batch = built((many, odd), ATTRIBUTES)
    assert batch.counts["object_box"] == QUERIES + 1
    assert batch.image_labels["object_class"][1].tolist()[:3] == [IGNORE, IGNORE, 0]
    terms = objective(states, batch)
    assert {name: term.count for name, term in terms.items()} == batch.counts
    assert all(term.sum.isfinite() for term in terms.values())
    nowhere = replace(batch, regions=None, image_labels={}, samples=tuple(Sample(str(i)) for i in range(2)))
    nowhere = objective.label(nowhere)
    terms = objective(states, nowhere)
    assert all(term.sum.item() == 0 == term.count for term in terms.values())


def test_what_is_no_number_is_assigned_last_and_told_by_the_loss():
    cost = torch.zeros(1, 1, 3, 2)
    cost[0, 0, 1] = float("nan")
    *_, q_P, r_P = assign(cost, torch.ones(1, 2, dtype=torch.bool))
    assert sorted(q_P.tolist()) == [0, 2] and sorted(r_P.tolist()) == [0, 1]
    objective, states, batch = built()
    states[-1][0] = float("nan")
    assert objective(states, batch)["object_box"].sum.isnan()


@pytest.mark.parametrize("seed", range(3))
def test_generalised_iou_is_torchvisions(seed):
    from torchvision.ops import generalized_box_iou

    random = torch.Generator().manual_seed(seed)
    a, b = (to_xyxy(torch.rand(n, 4, generator=random) + torch.tensor([0, 0, 0.01, 0.01])) for n in (5, 7))
    torch.testing.assert_close(giou(a, b), generalized_box_iou(a, b))
