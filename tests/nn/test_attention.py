import math

import pytest
import torch
from torch import nn

from diptych.nn.attention import Attention, attend, record
from diptych.nn.packing import Packing
from diptych.nn.transformer import Layer, Transformer


def slow_attention(q, k, v, mask):
    """One query at a time, over the keys it may see."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                real = [s for s in range(k.shape[2]) if mask[b, s]]
                if not real:
                    continue
                weights = torch.stack([q[b, h, t] @ k[b, h, s] / math.sqrt(q.shape[-1]) for s in real]).exp()
                out[b, h, t] = sum(w * v[b, h, s] for w, s in zip(weights / weights.sum(), real, strict=True))
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attend_is_softmax_over_real_keys_and_zero_where_there_are_none(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 6, 8), torch.randn(3, 2, 6, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    parts = [part.to(dtype).requires_grad_() for part in (q, k, v)]
    found = attend(*parts, mask[:, None, None])
    torch.testing.assert_close(found.float(), slow_attention(q, k, v, mask), atol=tolerance, rtol=tolerance)
    found.float().square().sum().backward()
    assert all(part.grad.isfinite().all() for part in parts)


LENGTHS = (3, 17, 1, 9, 4, 0, 8)
MASK_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def multihead_of(attention: Attention) -> dict[str, torch.Tensor]:
    """By the names of torch's own."""
    ends = ("weight", "bias")
    return {f"in_proj_{e}": getattr(attention.qkv, e) for e in ends} | {f"out_proj.{e}": getattr(attention.out, e) for e in ends}


@pytest.mark.parametrize("by_length", [True, False])
def test_packed_attention_equals_torch_multihead_attention_whatever_the_lengths(by_length):
    torch.manual_seed(0)
    ours, theirs = Attention(16, heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(multihead_of(ours))
    x_BTD, packing = torch.randn(*MASK_BT.shape, 16), Packing.of(MASK_BT)
    benches, x_PD = packing.benches(by_length), packing.pack(x_BTD)
    expected, prob = theirs(x_BTD, x_BTD, x_BTD, key_padding_mask=~MASK_BT, average_attn_weights=False)
    torch.testing.assert_close(packing.unpack(ours(x_PD, benches))[MASK_BT], expected[MASK_BT])
    is_read_BT = MASK_BT & (torch.rand(MASK_BT.shape) < 0.4)
    read = packing.which(is_read_BT)
    some = packing.only(read).unpack(ours(x_PD, benches, read, benches.reading(read)))
    torch.testing.assert_close(some[is_read_BT], expected[is_read_BT])
    assert not some[~is_read_BT].any()
    if not by_length:
        with record() as seen:
            ours(x_PD, benches)
        assert [entry.module for entry in seen] == [ours]
        torch.testing.assert_close(seen[0].prob_BHTS.transpose(1, 2)[MASK_BT], prob.transpose(1, 2)[MASK_BT])


def layer_of(ours: Layer) -> dict[str, torch.Tensor]:
    state = {f"self_attn.{name}": tensor for name, tensor in multihead_of(ours.attention).items()}
    for name, module in (
        ("norm1", ours.attention_norm),
        ("norm2", ours.ffn_norm),
        ("linear1", ours.ffn.up),
        ("linear2", ours.ffn.down),
    ):
        state |= {f"{name}.{end}": getattr(module, end) for end in ("weight", "bias")}
    return state


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_transformer_equals_torch_layers_one_after_the_other_and_so_do_the_states_that_are_read(norm):
    torch.manual_seed(0)
    ours = Transformer(Transformer.Config(layers=3, heads=2, norm=norm, eps=1e-5, dropout=0), 16)
    expected_BTD = x_BTD = torch.randn(*MASK_BT.shape, 16)
    for layer in ours.layers:
        layer.attention_norm.weight.data.normal_()
        layer.ffn_norm.weight.data.normal_()
        theirs = nn.TransformerEncoderLayer(16, 2, 64, 0, "gelu", batch_first=True, norm_first=norm == "pre")
        theirs.load_state_dict(layer_of(layer))
        expected_BTD = theirs(expected_BTD, src_key_padding_mask=~MASK_BT)
    expected_BTD = ours.norm(expected_BTD)
    found_BTD, is_read_BT = ours(x_BTD, MASK_BT), torch.rand(MASK_BT.shape) < 0.3
    torch.testing.assert_close(found_BTD[MASK_BT], expected_BTD[MASK_BT])
    assert not found_BTD[~MASK_BT].any()
    some_BTD = ours(x_BTD, MASK_BT, is_read_BT)
    torch.testing.assert_close(some_BTD[MASK_BT & is_read_BT], expected_BTD[MASK_BT & is_read_BT])
    with record() as seen:
        assert torch.equal(ours(x_BTD, MASK_BT, is_read_BT)[MASK_BT].bool(), torch.ones(sum(LENGTHS), 16).bool()), "all are shown"
    assert [entry.prob_BHTS.shape for entry in seen] == [(len(LENGTHS), 2, 17, 17)] * 3


def test_pre_norm_is_closed_by_a_norm_and_post_norm_is_not():
    x, mask = torch.randn(2, 5, 16) * 7, torch.ones(2, 5, dtype=torch.bool)
    for norm in ("pre", "post"):
        model = Transformer(Transformer.Config(layers=2, heads=2, norm=norm, dropout=0), 16)
        torch.testing.assert_close(model(x, mask).std(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=1e-3)
        assert any(name.startswith("norm") for name in model.state_dict()) == (norm == "pre")
