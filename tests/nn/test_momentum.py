"""The copy is the published moving average of parameters, and no parameter itself."""

import torch
from torch import nn

from diptych.nn.batch_norm import BatchNorm
from diptych.nn.momentum import Momentum


def original() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm(4))


def test_it_starts_at_the_first_use_and_follows_parameters_alone():
    part = original()
    copy = Momentum({"image": part}, m=0.9)
    assert not list(copy.parameters())
    with torch.no_grad():
        part[0].weight.add_(1)  # as `--init` does after both were built
    copy.begin({"image": part})
    expected = {name: p.detach().clone() for name, p in part.named_parameters()}
    for _ in range(3):
        copy.begin({"image": part})
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter))
            part[1].running_mean_C.add_(1)
        copy.commit({"image": part})
        expected = {name: 0.9 * expected[name] + 0.1 * p.detach() for name, p in part.named_parameters()}
    found = copy.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[f"image.{name}"], tensor)
    assert not found["image.1.running_mean_C"].any(), "what batch normalisation keeps running is the copy's own"
    x = torch.randn(2, 3, 5, 5)
    part[1].eval(), copy.eval()
    assert not torch.equal(copy.get_submodule("image")(x), part(x))
    assert not copy.get_submodule("image")(x).requires_grad


def test_it_stages_for_itself():
    part = original().train()
    copy = Momentum({"image": part}, m=0.9).train()
    copy.get_submodule("image")(torch.randn(2, 3, 5, 5))
    assert not part[1]._staged and len(copy.get_submodule("image")[1]._staged) == 1
