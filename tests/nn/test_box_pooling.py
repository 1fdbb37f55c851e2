import torch
import torchvision.ops as ops

from diptych.nn import box


def boxes(*shape):
    low = torch.rand(*shape, 2)
    return torch.cat([low, low + torch.rand(*shape, 2)], -1)


def test_iou_and_formats_equal_torchvision():
    torch.manual_seed(0)
    a, b = boxes(6), boxes(9)
    b[0] = a[0]
    torch.testing.assert_close(box.iou(a, b), ops.box_iou(a, b))
    torch.testing.assert_close(box.to_cxcywh(a), ops.box_convert(a, "xyxy", "cxcywh"))
    torch.testing.assert_close(box.to_xyxy(box.to_cxcywh(a)), a)
    empty = torch.zeros(1, 4)
    assert box.iou(empty, empty).item() == 0


def test_pool_is_the_mean_of_tokens_weighted_by_the_share_of_each_under_the_box():
    """Four quarters of a picture and a token that covers all of it, whose share under a box is the box's own area."""
    token = torch.arange(5.0)[None, :, None]
    quarters = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])[None]
    mask = torch.tensor([[True, True, True, True, False]])
    asked = torch.tensor([[[0, 0, 0.5, 0.5], [0.25, 0, 1, 0.5], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]]])
    found = box.pool(token, mask, quarters, asked)[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, (0.5 * 0 + 1 * 1) / 1.5, 1.5, 0.0]))
    with_whole = box.pool(token, mask | True, quarters, asked)[0, 0, 0]
    torch.testing.assert_close(with_whole, torch.tensor(0.25 * 4 / 1.25))
