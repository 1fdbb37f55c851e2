"""Against torch's BatchNorm. That two ranks equal one process is in tests/contract/test_two_ranks.py."""

import torch
from torch import nn

from diptych.nn import batch_norm
from diptych.nn.batch_norm import BatchNorm


def pair():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    for one in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(one.weight)
        nn.init.normal_(one.bias)
    return ours, theirs


def running(theirs):
    return {"running_mean_C": theirs.running_mean, "running_var_C": theirs.running_var}


def test_training_and_evaluation_equal_torch_with_and_without_padding():
    """Padding, by torch on the real pixels alone: pictures of other sizes are one long line of pixels."""
    ours, theirs = pair()
    x, mask = torch.randn(3, 5, 6, 7) * 3 + 1, torch.zeros(3, 6, 7, dtype=torch.bool)
    for one, (height, width) in zip(mask, ((6, 4), (2, 7), (5, 5)), strict=True):
        one[:height, :width] = True
    for mask_IHW in (None, torch.ones_like(mask), mask):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        found = ours(a, mask_IHW)
        kept = torch.ones_like(mask) if mask_IHW is None else mask_IHW
        line_1CP1 = b.movedim(1, -1)[kept].T[None, :, :, None].contiguous()  # torch's gradient is wrong for other strides
        expected = theirs(line_1CP1)[0, :, :, 0].T
        torch.testing.assert_close(found.movedim(1, -1)[kept], expected)
        weight = torch.randn_like(expected)
        (found.movedim(1, -1)[kept] * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
        for name in ("weight", "bias"):
            torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad, atol=1e-4, rtol=1e-4)
        ours.commit()
        for name, buffer in running(theirs).items():
            torch.testing.assert_close(getattr(ours, name), buffer)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_running_statistics_move_once_a_step_and_only_if_it_succeeded():
    ours, _ = pair()
    parts = torch.randn(2, 4, 5, 3, 3) + torch.tensor([1.0, -2.0])[:, None, None, None, None]
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    module = nn.Sequential(ours)
    ours(parts[0])
    batch_norm.discard(module)
    batch_norm.commit(module)
    assert all(torch.equal(buffer, before[name]) for name, buffer in ours.named_buffers())
    for part in parts:
        ours(part)
    batch_norm.commit(module)
    mean_C = parts.mean((0, 1, 3, 4))
    torch.testing.assert_close(ours.running_mean_C, 0.1 * mean_C)
    var_C = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    torch.testing.assert_close(ours.running_var_C, 0.9 + 0.1 * var_C)
    ours.eval()(parts[0])
    batch_norm.commit(module)
    torch.testing.assert_close(ours.running_mean_C, 0.1 * mean_C)
