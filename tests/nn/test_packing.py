"""Packed attention equals padded attention, row by row, whatever the lengths; benches hold every token once."""

import pytest
import torch

from diptych.nn.attention import Attention
from diptych.nn.packing import Benches, Packing

LENGTHS = (3, 17, 1, 9, 4, 0, 8)


def rows(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(*mask_BT.shape, width), mask_BT


@pytest.mark.parametrize("by_length", [True, False])
def test_packed_attention_is_padded_attention(by_length):
    torch.manual_seed(0)
    attention, (x_BTD, mask_BT) = Attention(8, 2), rows(8)
    packing = Packing.of(mask_BT)
    benches = packing.benches(by_length)
    padded = attention(x_BTD, mask_BT)[mask_BT]
    torch.testing.assert_close(attention.packed(packing.pack(x_BTD), benches), padded)
    read_R = packing.which(mask_BT & (torch.rand(mask_BT.shape) < 0.4))
    some = attention.packed(packing.pack(x_BTD), benches, read_R, benches.reading(read_R))
    torch.testing.assert_close(some, padded[read_R])


def test_short_benches_are_not_padded_to_long_ones():
    groups = Packing.of(rows(1)[1]).benches().groups
    assert [sorted(group.mask_SN.sum(1).tolist()) for group in groups] == [[1], [3], [4], [8, 9], [17]]
    assert sum(group.mask_SN.numel() for group in groups) == 1 + 3 + 4 + 2 * 9 + 17


def test_what_goes_in_comes_back():
    x_BTD, mask_BT = rows(2)
    packing = Packing.of(mask_BT)
    x_PD = packing.pack(x_BTD)
    torch.testing.assert_close(packing.unpack(x_PD), x_BTD * mask_BT[..., None])
    benches = Benches.of(torch.randint(0, 5, (len(x_PD),)), 5)
    risen = [group.rise(group.seat(x_PD[group.token_G])) for group in benches.groups]
    torch.testing.assert_close(benches.gather(risen), x_PD)
