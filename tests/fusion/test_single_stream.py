import pytest
import torch

from diptych.config import UserError
from diptych.contracts import Visual
from diptych.fusion.single_stream import SingleStream


@pytest.fixture(scope="module")
def fusion():
    torch.manual_seed(0)
    return SingleStream.Config(layers=2, heads=2, pictures=2, dropout=0).build(8).eval()


def example():
    torch.manual_seed(1)
    text, text_mask = torch.randn(3, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    return text, text_mask, Visual(torch.randn(2, 5, 8), mask, torch.rand(2, 5, 4))


def test_one_row_by_hand(fusion):
    """Concatenate what is real of one row, encode it without any mask, split."""
    text, text_mask, visual = example()
    pictures = torch.tensor([[0, 1], [1, -1], [1, 0]])
    fused = fusion(text, text_mask, visual, pictures)
    for b in range(3):
        parts = [text[b, text_mask[b]] + fusion.modality.weight[0]]
        for n, i in enumerate(pictures[b].tolist()):
            if i >= 0:
                parts.append(visual.token_IVD[i, visual.mask_IV[i]] + fusion.modality.weight[1 + n])
        alone = torch.cat(parts)[None]
        out = fusion.encoder(alone, torch.ones_like(alone[..., 0], dtype=torch.bool))[0]
        found = torch.cat([fused.text_BTD[b, text_mask[b]], fused.image_BVD[b, fused.image_mask_BV[b]]])
        torch.testing.assert_close(found, out)
        torch.testing.assert_close(fused.pooled_BD[b], torch.tanh(fusion.pooler.dense(out[0])))
        assert fused.image_mask_BV[b].sum() == sum(int(visual.mask_IV[i].sum()) for i in pictures[b].tolist() if i >= 0)
    assert fused.image_slot_BV[0].tolist() == [0] * 5 + [1] * 5
    torch.testing.assert_close(fused.box_BV4[0, 5:], visual.box_IV4[1])


def test_more_pictures_than_places_is_an_error_that_says_what_to_set(fusion):
    text, text_mask, visual = example()
    with pytest.raises(UserError, match=r"fusion\.pictures=3"):
        fusion(text, text_mask, visual, torch.zeros(3, 3, dtype=torch.int64))


def test_attention_that_starts_as_a_comparison():
    """A token finds those that resemble it, and what it finds comes back as it is."""
    layers = SingleStream.Config(layers=2, heads=1, start="match").build(8).encoder.layers
    for attention in (layer.attention for layer in layers):
        query, key, value = attention.qkv.weight.chunk(3)
        x_TD = torch.randn(5, 8)
        torch.testing.assert_close(x_TD @ query.T @ (x_TD @ key.T).T, x_TD @ x_TD.T)
        torch.testing.assert_close(x_TD @ value.T @ attention.out.weight.T, x_TD)
