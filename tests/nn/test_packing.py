"""Lists, benches and seats: every token once, few lengths, and back to where it came from. Attention on them: test_attention.py."""

import pytest
import torch

from diptych.nn.packing import STEPS_OF_BENCHES, Benches, Packing, Some, at_length, rounded
from diptych.nn.transformer import Transformer

LENGTHS = (3, 17, 1, 9, 4, 0, 8)


def rows(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(*mask_BT.shape, width), mask_BT


def test_short_benches_are_not_padded_to_long_ones():
    groups = Packing.of(rows(1)[1]).benches().groups
    assert [group.seat_G.div(group.mask_SN.shape[1], rounding_mode="floor").bincount().tolist() for group in groups] == [
        [1],
        [3],
        [4],
        [9, 8],
        [17],
    ]
    assert [tuple(group.mask_SN.shape) for group in groups] == [(4, 4), (4, 4), (4, 4), (4, 12), (4, 20)]


def test_what_goes_in_comes_back():
    x_BTD, mask_BT = rows(2)
    packing = Packing.of(mask_BT)
    x_PD = packing.pack(x_BTD)
    torch.testing.assert_close(packing.unpack(x_PD), x_BTD * mask_BT[..., None])
    benches = Benches.of(torch.randint(0, 5, (sum(LENGTHS),)), 5)
    risen = [group.rise(group.seat(x_PD)) for group in benches.groups]
    torch.testing.assert_close(benches.gather(risen)[: sum(LENGTHS)], x_PD[: sum(LENGTHS)])


def test_nobody_is_a_list_too():
    packing = Packing.of(torch.zeros(2, 3, dtype=torch.bool))
    benches, x_PD = packing.benches(), packing.pack(torch.randn(2, 3, 4))
    risen = [group.rise(group.seat(x_PD)) for group in benches.groups]
    assert not packing.unpack(benches.gather(risen)).any()


@pytest.mark.parametrize(("steps", "most_spare"), [(16, 1 / 16), (STEPS_OF_BENCHES, 1 / 8)])
def test_lengths_are_few_and_little_longer(steps, most_spare):
    found = [rounded(n, steps) for n in range(5000)]
    assert all(n <= at < n + max(4, n * most_spare + 1) for n, at in enumerate(found))
    assert all(len({at for at in found if low < at <= 2 * low}) <= steps for low in (4, 16, 64, 256, 1024, 2048))
    assert found == sorted(found) and found == [rounded(at, steps) for at in found], "a length that recurs stays"


def test_what_is_spare_gets_no_gradient_and_changes_nothing():
    torch.manual_seed(0)
    x_PD, linear = torch.randn(37, 3, requires_grad=True), torch.nn.Linear(3, 2)
    some = Some.of(torch.tensor([5, 2, 30, 7, 11]))
    assert len(some.of_list(x_PD)) == 8
    back_PD = some.back(linear(some.of_list(x_PD)), 37)
    expected_PD = torch.zeros(37, 2)
    for index in (5, 2, 30, 7, 11):
        expected_PD[index] = linear(x_PD[index])
    torch.testing.assert_close(back_PD, expected_PD)
    torch.testing.assert_close(at_length(linear, x_PD), linear(x_PD))
    gradient = torch.autograd.grad(back_PD.sum(), x_PD, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected_PD.sum(), x_PD)[0])


@pytest.mark.parametrize("is_read", [False, True])
def test_rows_with_little_padding_are_left_as_they_are_and_their_tokens_are_the_same(is_read, monkeypatch):
    """Result and gradients, whatever stands in the padding; one row is all padding."""
    torch.manual_seed(0)
    mask_BT = torch.arange(8) < torch.tensor([8] * 18 + [5, 0])[:, None]
    read_BT = torch.rand(mask_BT.shape) < 0.3 if is_read else None
    model, x_BTD = Transformer(Transformer.Config(layers=2, heads=2, dropout=0), 8), torch.randn(*mask_BT.shape, 8)
    found = []
    for share, padding in ((0.9, 0.0), (0.9, 7.0), (2.0, 0.0)):  # as rows, as rows, as a list
        monkeypatch.setattr("diptych.nn.packing.FULL", share)
        assert Packing.where_it_pays(mask_BT).place.is_all == (share < 1)
        given_BTD = x_BTD.masked_fill(~mask_BT[..., None], padding).requires_grad_()
        out_BTD = model(given_BTD, mask_BT, None if read_BT is None else read_BT & mask_BT)
        assert not out_BTD[~mask_BT].any()
        model.zero_grad()
        out_BTD.square().sum().backward()
        assert not given_BTD.grad[~mask_BT].any()
        found.append([out_BTD.detach(), given_BTD.grad, *(parameter.grad for parameter in model.parameters())])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
