import math

import pytest
import torch
from torch import nn

from diptych.nn.attention import Attention, attend, record
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


def test_self_and_cross_attention_equal_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(16, heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x, source = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    x_mask, source_mask = torch.arange(5) < torch.tensor([[5], [3]]), torch.arange(7) < torch.tensor([[4], [7]])
    expected, _ = theirs(x, x, x, key_padding_mask=~x_mask)
    torch.testing.assert_close(ours(x, x_mask), expected)
    expected, prob = theirs(x, source, source, key_padding_mask=~source_mask, average_attn_weights=False)
    with record() as seen:
        found = ours(x, x_mask, source, source_mask)
    torch.testing.assert_close(found, expected)
    assert seen[0].module is ours
    torch.testing.assert_close(seen[0].prob_BHTS, prob)
    ours(x)
    assert len(seen) == 1, "nothing is recorded outside the block"


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("cross", [False, True])
def test_layers_equal_torch_layers(norm, cross):
    """torch's encoder layer; with cross-attention, its decoder layer."""
    torch.manual_seed(0)
    config = Layer.Config(heads=2, norm=norm, eps=1e-5, dropout=0)
    ours = Layer(config, 16, cross)
    kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    theirs = kind(16, 2, 64, dropout=0, activation="gelu", batch_first=True, norm_first=norm == "pre")
    pairs = [("self_attn", ours.attention), *([("multihead_attn", ours.cross)] if cross else [])]
    norms = [ours.attention_norm, *([ours.cross_norm] if cross else []), ours.ffn_norm]
    state = {}
    for name, attention in pairs:
        state |= {f"{name}.in_proj_{end}": getattr(attention.qkv, end) for end in ("weight", "bias")}
        state |= {f"{name}.out_proj.{end}": getattr(attention.out, end) for end in ("weight", "bias")}
    for n, module in enumerate(norms, 1):
        module.weight.data.normal_()
        state |= {f"norm{n}.{end}": getattr(module, end) for end in ("weight", "bias")}
    for n, module in ((1, ours.ffn.up), (2, ours.ffn.down)):
        state |= {f"linear{n}.{end}": getattr(module, end) for end in ("weight", "bias")}
    theirs.load_state_dict(state)
    x, source = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    mask, source_mask = torch.arange(5) < torch.tensor([[5], [3]]), torch.arange(7) < torch.tensor([[4], [7]])
    if cross:
        expected = theirs(x, source, tgt_key_padding_mask=~mask, memory_key_padding_mask=~source_mask)
        found = ours(x, mask, source, source_mask)
    else:
        expected, found = theirs(x, src_key_padding_mask=~mask), ours(x, mask)
    torch.testing.assert_close(found[mask], expected[mask])


def test_pre_norm_is_closed_by_a_norm_and_post_norm_is_not():
    x = torch.randn(2, 5, 16) * 7
    for norm in ("pre", "post"):
        model = Transformer(Transformer.Config(layers=2, heads=2, norm=norm, dropout=0), 16)
        torch.testing.assert_close(model(x).std(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=1e-3)
        assert any(name.startswith("norm") for name in model.state_dict()) == (norm == "pre")
