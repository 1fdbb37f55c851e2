"""Activations computed twice: the same gradients to the last bit, and much less kept between the passes."""

import pytest
import torch
from torch import Tensor, nn

from diptych.contracts import Visual
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.nn import recompute

WIDTH, LENGTHS, PATCHES = 64, (9, 17, 4), 16
LIVELY = {"layers": 4, "heads": 4, "dropout": 0.2, "attention_dropout": 0.1}
HINGES = [
    SingleStream.Config(**LIVELY),
    SingleStream.Config(**LIVELY, norm="post"),
    DualStream.Config(**LIVELY),
    DualStream.Config(**LIVELY, image_stream=False),
]


def one_pass(hinge: nn.Module, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Gradients of inputs and parameters, and the bytes that the forward pass kept for the backward one."""
    random = torch.Generator().manual_seed(1)
    text_BTD = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=random).requires_grad_()
    token_IVD = torch.randn(len(LENGTHS), PATCHES, WIDTH, generator=random).requires_grad_()
    mask_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    visual = Visual(token_IVD, torch.ones(len(LENGTHS), PATCHES, dtype=torch.bool), torch.rand(len(LENGTHS), PATCHES, 4))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = list(hinge.parameters())
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    torch.manual_seed(2)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        fused = hinge(text_BTD, mask_BT, visual, torch.arange(len(LENGTHS))[:, None])
        loss = fused.text_BTD.float().square().sum() + fused.image_BVD.float().square().sum() + fused.pooled_BD.float().sum()
    loss.backward()
    parts = [text_BTD, token_IVD, *parameters]
    gradients = [part.grad.clone() for part in parts if part.grad is not None]
    for part in parts:
        part.grad = None
    return gradients, sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("config", HINGES, ids=["pre", "post", "two streams", "one looks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradients_are_the_same_and_much_less_is_kept(config, dtype):
    hinge = config.build(WIDTH).train()
    gradients, kept = one_pass(hinge, dtype)
    assert recompute.switch_on(hinge) == (8 if getattr(config, "image_stream", False) else 4)
    again, still_kept = one_pass(hinge, dtype)
    for before, after in zip(gradients, again, strict=True):
        assert torch.equal(before, after)
    assert still_kept < kept / 5, (kept, still_kept)


def test_nothing_is_computed_twice_where_no_gradient_is_wanted(monkeypatch):
    hinge = SingleStream.Config(**LIVELY).build(WIDTH)
    recompute.switch_on(hinge)
    monkeypatch.setattr(recompute, "checkpoint", lambda *args, **kwargs: pytest.fail("no gradient is wanted"))
    with torch.no_grad():
        one = hinge.encoder(torch.randn(1, 5, WIDTH), torch.ones(1, 5, dtype=torch.bool))
    assert one.shape == (1, 5, WIDTH)
