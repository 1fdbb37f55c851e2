"""The detector against the parts of torchvision's Faster R-CNN, and against a loop over the parts of a region."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_every_system import Case
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, sigmoid_focal_loss

from diptych.contracts import IGNORE
from diptych.image.detector import LARGEST, change_to, changed
from diptych.nn.box import pool

CODER = BoxCoder((1.0, 1.0, 1.0, 1.0), bbox_xform_clip=LARGEST)


@pytest.fixture(scope="module")
def seen():
    """A detector after a few steps, pictures of three sizes with annotated boxes, and what it makes of them at first sight."""
    case = Case("detector")
    system = case.build()
    batch = case.batch(system)
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for _ in range(12):
        terms = system(batch)
        torch.stack([term.weight * term.sum / term.count for term in terms.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        system.after_step()
    system.eval()
    with torch.no_grad():
        return system, batch, system.image(batch.images)


def boxes(count: int, seed: int) -> torch.Tensor:
    corner_R22 = 60 * torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corner_R22.amin(1), corner_R22.amax(1) + 2], 1)


def test_changes_of_boxes_are_those_of_torchvision():
    here_R4, there_R4 = boxes(40, 0), boxes(40, 1)
    change_R4 = CODER.encode_single(there_R4, here_R4)
    torch.testing.assert_close(change_to(here_R4, there_R4), change_R4)
    wild_R4 = 3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(changed(here_R4, wild_R4), CODER.decode_single(wild_R4, here_R4))
    torch.testing.assert_close(changed(here_R4, change_R4), there_R4, atol=1e-4, rtol=1e-4)


def test_anchors_are_those_of_torchvision_moved_to_the_middle_of_their_cells(seen):
    system, batch, found = seen
    cell, sides = system.config.image.image.cell, system.config.image.anchors
    height, width = batch.images.pixel_I3HW.shape[-2:]
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    theirs_A4 = AnchorGenerator(((*map(int, sides),),), ((1.0,),))(images, [torch.zeros(1, 1, height // cell, width // cell)])[0]
    torch.testing.assert_close(found.anchor_A4, theirs_A4 + cell / 2)


def test_proposals_are_chosen_as_torchvision_does(seen):
    system, batch, found = seen
    most = system.config.image.proposals
    top = {"training": 8 * most, "testing": 8 * most}, {"training": most, "testing": most}
    rpn = RegionProposalNetwork(AnchorGenerator(((8,),)), RPNHead(1, 1), 0.5, 0.4, 1, 0.5, *top, nms_thresh=0.7).eval()
    rpn.min_size = 1.0
    for i, own_P4 in enumerate(system.image.propose(found)):
        real_A = found.is_real_IA[i]
        box_1A4 = CODER.decode_single(found.change_IA4[i, real_A], found.anchor_A4[real_A])[None]
        size = tuple(batch.images.size_I2[i].tolist())
        theirs, _ = rpn.filter_proposals(box_1A4, found.score_IA[i, real_A][None], [size], [int(real_A.sum())])
        torch.testing.assert_close(own_P4, theirs[0])


def test_a_region_is_read_as_the_mean_under_each_of_its_parts(seen):
    system, _, found = seen
    image, side = system.image, found.side_I14
    boxes_of = [boxes(5 - i, i) / 64 * side[i] for i in range(len(side))]
    start = 0
    with torch.no_grad():
        together = image.read(found, boxes_of).feature_PD
    for i, own_P4 in enumerate(boxes_of):
        for x1, y1, x2, y2 in (own_P4 / side[i]).tolist():
            parts, n = [], system.config.image.cells
            for row in range(n):
                for col in range(n):
                    parts.append(
                        [
                            x1 + (x2 - x1) * col / n,
                            y1 + (y2 - y1) * row / n,
                            x1 + (x2 - x1) * (col + 1) / n,
                            y1 + (y2 - y1) * (row + 1) / n,
                        ]
                    )
            token_1VD, mask_1V, box_1V4 = (part[i : i + 1] for part in found.visual)
            part_CD = pool(token_1VD, mask_1V, box_1V4, torch.tensor([parts]))[0]
            with torch.no_grad():
                expected = F.relu(image.region(part_CD.flatten()))
            torch.testing.assert_close(together[start], expected, atol=1e-4, rtol=1e-4)
            start += 1


def test_losses_are_those_of_torchvision_matching_and_of_focal_loss(seen):
    system, batch, found = seen
    class_IR = batch.image_labels["detector"].clone()
    class_IR[1, 1] = IGNORE  # one box of a name that is not known
    batch = replace(batch, image_labels={**batch.image_labels, "detector": class_IR})
    attribute_IRK = batch.image_labels["detector_attributes"]
    expected = {"proposal": 0.0, "region": 0.0, "attributes": 0.0}
    of_anchors, of_boxes = Matcher(0.5, 0.4, allow_low_quality_matches=True), Matcher(0.5, 0.5)
    with torch.no_grad():
        for i, proposal_P4 in enumerate(system.image.propose(found)):
            is_box_R = class_IR[i] != IGNORE
            true_R4, class_R = (batch.regions.box_IR4[i] * found.side_I14[i])[is_box_R], class_IR[i, is_box_R]
            real_A = found.is_real_IA[i]
            anchor_A4, score_A, change_A4 = found.anchor_A4[real_A], found.score_IA[i, real_A], found.change_IA4[i, real_A]
            match_A = of_anchors(box_iou(true_R4, anchor_A4))
            is_thing_A, is_asked_A = match_A >= 0, match_A != Matcher.BETWEEN_THRESHOLDS
            focal = sigmoid_focal_loss(score_A[is_asked_A], is_thing_A[is_asked_A].float(), 0.25, 2, "sum")
            wanted_A4 = CODER.encode_single(true_R4[match_A[is_thing_A]], anchor_A4[is_thing_A])
            away = F.smooth_l1_loss(change_A4[is_thing_A], wanted_A4, beta=0.1, reduction="sum")
            expected["proposal"] += float(2 * focal + away / 4)

            box_P4 = torch.cat([true_R4, proposal_P4])
            match_P = of_boxes(box_iou(true_R4, box_P4))
            label_P = class_R[match_P.clamp(min=0)].where(match_P >= 0, 0)
            named = system.image.read(
                found._replace(
                    visual=type(found.visual)(*(part[i : i + 1] for part in found.visual)), side_I14=found.side_I14[i : i + 1]
                ),
                [box_P4],
            )
            loss_P = F.cross_entropy(named.class_PK, label_P, reduction="none")
            for p in (match_P >= 0).nonzero()[:, 0].tolist():
                wanted_4 = CODER.encode_single(true_R4[match_P[p], None], box_P4[p, None])[0]
                loss_P[p] += (named.change_P4[p] - wanted_4).abs().sum()
            expected["region"] += float(loss_P.mean())

            each = []
            for r in range(len(true_R4)):
                wanted = attribute_IRK[i, is_box_R][r].nonzero()[:, 0].tolist()
                if wanted:
                    log_p_K = system.image.attributes(named.feature_PD[r : r + 1], label_P[r : r + 1])[0].log_softmax(0)
                    each.append(-sum(log_p_K[k].item() for k in wanted) / len(wanted))
            expected["attributes"] += sum(each) / len(each)
        found_terms = system(batch)
    for name, total in expected.items():
        assert found_terms[name].sum.item() == pytest.approx(total, rel=1e-4), name


def test_what_is_detected_is_what_torchvision_would_keep_without_classes(seen):
    system, batch, found = seen
    config = system.config.image
    for threshold, least in ((0.0, 1), (0.4, 1), (0.999, 2)):
        system.image.config = config.model_copy(update={"threshold": threshold, "least": least})
        with torch.no_grad():
            detected = system.detect(batch)
            for i, box_P4 in enumerate(system.image.propose(found)):
                named = system.image.read(
                    found._replace(
                        visual=type(found.visual)(*(part[i : i + 1] for part in found.visual)), side_I14=found.side_I14[i : i + 1]
                    ),
                    [box_P4],
                )
                height, width = batch.images.size_I2[i].tolist()
                box_P4 = clip_boxes_to_image(CODER.decode_single(named.change_P4, box_P4), (height, width))
                sure_P = named.class_PK.softmax(1)[:, 1:].amax(1)
                kept = batched_nms(box_P4, sure_P, torch.zeros(len(box_P4)), config.overlap)[: config.most]
                kept = [p for n, p in enumerate(kept.tolist()) if n < least or sure_P[p] >= threshold]
                torch.testing.assert_close(detected.box_IR4[i, detected.mask_IR[i]] * found.side_I14[i], box_P4[kept])
                described = system.describe(batch, detected)
                torch.testing.assert_close(
                    described.feature_IRD[i, detected.mask_IR[i]], detected.feature_IRD[i, detected.mask_IR[i]]
                )
    system.image.config = config
