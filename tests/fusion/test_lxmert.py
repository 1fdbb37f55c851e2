"""The parts of our two streams against transformers' LXMERT: in its order, on its weights, they compute its cross-modality layers.

What differs, on purpose: LXMERT looks across before it attends to its own side, norms stand behind each part, and both directions
of looking share one set of weights. So the parts are put in that order here; what a stream looks at, the other one as it was before
the layer, is the same in both.
"""

import torch
from torch import Tensor, nn
from transformers import LxmertConfig
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from diptych.nn.decoder import DecoderLayer, Source
from diptych.nn.packing import Packing
from diptych.nn.transformer import Layer

WIDTH, HEADS, LAYERS = 24, 4, 3
TEXT_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()


def layer_of(theirs: LxmertXLayer, side: str) -> DecoderLayer:
    ours = DecoderLayer(Layer.Config(heads=HEADS, ffn_ratio=2, norm="post", eps=1e-12, dropout=0), WIDTH)
    across, own = theirs.visual_attention, getattr(theirs, f"{side}_self_att")
    up, down = getattr(theirs, f"{side}_inter"), getattr(theirs, f"{side}_output")
    pairs = [(ours.look.query, across.att.query), (ours.look.key, across.att.key), (ours.look.value, across.att.value)]
    pairs += [(ours.look.out, across.output.dense), (ours.look_norm, across.output.LayerNorm)]
    pairs += [(ours.attention.out, own.output.dense), (ours.attention_norm, own.output.LayerNorm)]
    pairs += [(ours.ffn.up, up.dense), (ours.ffn.down, down.dense), (ours.ffn_norm, down.LayerNorm)]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    for end in ("weight", "bias"):
        three = torch.cat([getattr(getattr(own.self, part), end) for part in ("query", "key", "value")])
        getattr(ours.attention.qkv, end).data.copy_(three)
    return ours


def in_their_order(layer: DecoderLayer, x_PD: Tensor, packing: Packing, other_BSD: Tensor, other_mask_BS: Tensor) -> Tensor:
    own = packing.benches(by_length=True)
    x_PD = layer.look_norm(x_PD + layer.look(x_PD, Source(other_BSD, other_BSD, other_mask_BS), own))
    x_PD = layer.attention_norm(x_PD + layer.attention(x_PD, own))
    return layer.ffn_norm(x_PD + layer.ffn(x_PD))


def test_three_layers_of_lxmert_and_their_gradients():
    torch.manual_seed(0)
    config = LxmertConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=2 * WIDTH)
    theirs = nn.ModuleList(LxmertXLayer(config) for _ in range(LAYERS)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    text_BTD = torch.randn(3, 5, WIDTH, requires_grad=True)
    image_BSD = torch.randn(3, 4, WIDTH, requires_grad=True)

    words, regions = text_BTD, image_BSD
    for layer in theirs:
        no_text, no_image = ((~mask[:, None, None]) * -1e9 for mask in (TEXT_MASK, IMAGE_MASK))
        words, regions = layer(words, no_text, regions, no_image)
    text, image = Packing.of(TEXT_MASK), Packing.of(IMAGE_MASK)
    x_PD, y_QD = text.pack(text_BTD), image.pack(image_BSD)
    for layer in theirs:
        x_BTD, y_BSD = text.unpack(x_PD), image.unpack(y_QD)
        x_PD = in_their_order(layer_of(layer, "lang"), x_PD, text, y_BSD, IMAGE_MASK)
        y_QD = in_their_order(layer_of(layer, "visn"), y_QD, image, x_BTD, TEXT_MASK)

    mine = (text.unpack(x_PD)[TEXT_MASK], image.unpack(y_QD)[IMAGE_MASK])
    expected = (words[TEXT_MASK], regions[IMAGE_MASK])
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    weights = [torch.randn_like(part) for part in mine]
    gradients = [torch.autograd.grad(parts, (text_BTD, image_BSD), weights) for parts in (mine, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
