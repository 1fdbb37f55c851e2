"""The decoder against transformers' DETR on the same weights, against torch's own layers, and what a causal one may see."""

import pytest
import torch
from torch import nn
from transformers import DetrConfig
from transformers.models.detr.modeling_detr import DetrDecoder

from diptych.nn.attention import record
from diptych.nn.decoder import Decoder, Source

WIDTH, HEADS, LAYERS = 16, 4, 3
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
SOURCE_MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
OF = torch.tensor([1, 0, 1])


def build(norm: str) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder.Config(layers=LAYERS, heads=HEADS, norm=norm, eps=1e-5, dropout=0, ffn_ratio=2).build(WIDTH).eval()
    for parameter in decoder.parameters():  # as after some training: norms and biases count
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return decoder


def example() -> tuple[torch.Tensor, Source, torch.Tensor]:
    torch.manual_seed(1)
    memory, where = torch.randn(2, 6, WIDTH), torch.randn(2, 6, WIDTH)
    return torch.randn(3, 5, WIDTH), Source(memory + where, memory, SOURCE_MASK), torch.randn(3, 5, WIDTH)


def test_it_is_detrs_decoder_layer_by_layer():
    ours = build("post")
    sizes = {"d_model": WIDTH, "decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "decoder_ffn_dim": 2 * WIDTH}
    theirs = DetrDecoder(DetrConfig(**sizes, dropout=0.0, activation_function="gelu")).eval()
    state = ours.state_dict()
    names = {"attention_norm": "self_attn_layer_norm", "look_norm": "encoder_attn_layer_norm", "ffn_norm": "final_layer_norm"}
    names |= {"attention.out": "self_attn.o_proj", "ffn.up": "mlp.fc1", "ffn.down": "mlp.fc2"}
    names |= {
        f"look.{our}": f"encoder_attn.{their}_proj" for our, their in zip(("query", "key", "value", "out"), "qkvo", strict=True)
    }
    renamed = {f"layernorm.{end}": state[f"norm.{end}"] for end in ("weight", "bias")}
    for i in range(LAYERS):
        for end in ("weight", "bias"):
            renamed |= {f"layers.{i}.{their}.{end}": state[f"layers.{i}.{our}.{end}"] for our, their in names.items()}
            for letter, part in zip("qkv", state[f"layers.{i}.attention.qkv.{end}"].chunk(3), strict=True):
                renamed[f"layers.{i}.self_attn.{letter}_proj.{end}"] = part
    theirs.load_state_dict(renamed)
    _, source, queries = example()
    source, zeros = Source(*(part[OF] for part in source)), torch.zeros_like(queries)
    outputs = []
    for layer in theirs.layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(theirs.layernorm(output)))
    with torch.no_grad():
        found = ours(zeros, torch.ones_like(MASK), source, torch.arange(3), queries)
        theirs(
            inputs_embeds=zeros,
            encoder_hidden_states=source.value_SVD,
            encoder_attention_mask=source.mask_SV,
            spatial_position_embeddings=source.key_SVD - source.value_SVD,
            object_queries_position_embeddings=queries,
        )
    assert len(outputs) == LAYERS
    for mine, other in zip(found, outputs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_it_is_torchs_causal_decoder_on_padded_rows(norm):
    """Without places; rows that share a source share its keys."""
    ours = build(norm)
    theirs = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=norm == "pre"), LAYERS
    ).eval()
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        look = mine.look
        pairs = [
            (other.self_attn.in_proj_weight, mine.attention.qkv.weight),
            (other.self_attn.in_proj_bias, mine.attention.qkv.bias),
            (other.multihead_attn.in_proj_weight, torch.cat([look.query.weight, look.key.weight, look.value.weight])),
            (other.multihead_attn.in_proj_bias, torch.cat([look.query.bias, look.key.bias, look.value.bias])),
        ]
        for module, linear in (
            (other.self_attn.out_proj, mine.attention.out),
            (other.multihead_attn.out_proj, look.out),
            (other.linear1, mine.ffn.up),
            (other.linear2, mine.ffn.down),
            (other.norm1, mine.attention_norm),
            (other.norm2, mine.look_norm),
            (other.norm3, mine.ffn_norm),
        ):
            pairs += [(module.weight, linear.weight), (module.bias, linear.bias)]
        for to, value in pairs:
            to.data.copy_(value.data)
    x, source, _ = example()
    memory = Source(source.value_SVD, source.value_SVD, source.mask_SV)
    with torch.no_grad():
        found = ours(x, MASK, memory, OF, is_causal=True)[-1]
        expected = ours.norm(
            theirs(
                x,
                memory.value_SVD[OF],
                tgt_mask=torch.ones(5, 5).triu(1).bool(),
                tgt_is_causal=True,
                tgt_key_padding_mask=~MASK,
                memory_key_padding_mask=~SOURCE_MASK[OF],
            )
        )
        torch.testing.assert_close(found[MASK], expected[MASK], atol=1e-5, rtol=1e-4)
        assert not found[~MASK].any()
        with record() as seen:
            again = ours(x, MASK, memory, OF, is_causal=True)[-1]
    torch.testing.assert_close(again, found)
    assert len(seen) == 2 * LAYERS
    for _, prob_BHTS in seen[::2]:
        assert not prob_BHTS.triu(1).any()


def test_what_comes_later_is_not_seen():
    decoder, (x, source, _) = build("pre"), example()
    later = x.clone()
    later[:, 3:] = torch.randn(3, 2, WIDTH)
    with torch.no_grad():
        before, after = (decoder(part, torch.ones_like(MASK), source, OF, is_causal=True)[-1] for part in (x, later))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])
