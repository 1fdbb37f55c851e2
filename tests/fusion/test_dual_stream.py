"""Against a loop over rows, heads, queries and keys, that knows no padding and no sharing."""

import math

import pytest
import torch

from diptych.config import UserError
from diptych.contracts import Visual
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.nn.attention import record

PICTURES = torch.tensor([[0, 1], [1, -1], [1, 0]])
TEXT_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()


def build(kind=DualStream, **settings):
    torch.manual_seed(0)
    fusion = kind.Config(layers=2, heads=2, dropout=0, **settings).build(8).eval()
    for parameter in fusion.parameters():  # as after some training: norms and biases count
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return fusion


def example():
    torch.manual_seed(1)
    return torch.randn(3, 4, 8), TEXT_MASK, Visual(torch.randn(2, 5, 8), IMAGE_MASK, torch.rand(2, 5, 4))


def slow_attention(heads, queries, keys, values):
    """One query, one head at a time; lists of vectors in, list of vectors out."""
    size = len(queries[0]) // heads
    found = []
    for query in queries:
        joined = []
        for part in (slice(n * size, (n + 1) * size) for n in range(heads)):
            weights = [math.exp(float(query[part] @ key[part]) / math.sqrt(size)) for key in keys]
            joined.append(sum(w / sum(weights) * value[part] for w, value in zip(weights, values, strict=True)))
        found.append(torch.cat(joined))
    return found


def slow_layer(layer, states, keys, values):
    normed = [layer.attention_norm(x) for x in states]
    q, k, v = zip(*(layer.attention.qkv(x).chunk(3) for x in normed), strict=True)
    states = [x + layer.attention.out(y) for x, y in zip(states, slow_attention(2, q, k, v), strict=True)]
    q = [layer.look.query(layer.look_norm(x)) for x in states]
    k, v = [layer.look.key(y) for y in keys], [layer.look.value(y) for y in values]
    states = [x + layer.look.out(y) for x, y in zip(states, slow_attention(2, q, k, v), strict=True)]
    return [x + layer.ffn(layer.ffn_norm(x)) for x in states]


@pytest.mark.parametrize("image_stream", [True, False])
@pytest.mark.parametrize("place", ["none", "values"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_it_equals_the_obvious_loop(image_stream, place, pictures):
    fusion = build(image_stream=image_stream, place=place, pictures=pictures, start="match" if place == "values" else "random")
    text, text_mask, visual = example()
    image_of = PICTURES[:, :pictures]
    with torch.no_grad():
        fused = fusion(text, text_mask, visual, image_of)
        for b in range(3):
            words = list(text[b, text_mask[b]])
            seen, places = [], []
            for slot, i in enumerate(image_of[b].tolist()):
                for v in range(5):
                    if i >= 0 and visual.mask_IV[i, v]:
                        token = fusion.image_norm(visual.token_IVD[i, v])
                        seen.append(token if fusion.slot is None else token + fusion.slot.weight[slot])
                        places.append(0 if fusion.place is None else fusion.place(visual.box_IV4[i, v]))
            for n, layer in enumerate(fusion.text_layers):
                values = [x + p for x, p in zip(seen, places, strict=True)]
                before = words
                words = slow_layer(layer, words, seen, values)
                if image_stream:
                    seen = slow_layer(fusion.image_layers[n], seen, before, before)
            words = [fusion.text_norm(x) for x in words]
            if image_stream:
                seen = [fusion.image_final_norm(x) for x in seen]
            torch.testing.assert_close(fused.text_BTD[b, text_mask[b]], torch.stack(words), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(fused.image_BVD[b, fused.image_mask_BV[b]], torch.stack(seen), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(fused.pooled_BD[b], torch.tanh(fusion.pooler.dense(words[0])), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [SingleStream, DualStream])
@pytest.mark.parametrize("settings", [{"pictures": 2}, {"pictures": 1}, {"pictures": 1, "image_stream": False}], ids=str)
def test_what_is_masked_is_not_looked_at_and_changes_nothing(kind, settings):
    if kind is SingleStream and "image_stream" in settings:
        pytest.skip("a single stream has the one")
    fusion = build(kind, **settings)
    text, text_mask, visual = example()
    image_of = PICTURES[:, : settings["pictures"]]
    with torch.no_grad(), record() as seen:
        fused = fusion(text, text_mask, visual, image_of)
    real_of = {4: text_mask, fused.image_mask_BV.shape[1]: fused.image_mask_BV}
    real_of[sum(real_of)] = torch.cat([text_mask, fused.image_mask_BV], 1)
    assert len(seen) == 2 * (1 if kind is SingleStream else 4 if fusion.config.image_stream else 2)
    for _, prob_BHTS in seen:
        real_BS = real_of[prob_BHTS.shape[-1]]
        assert not prob_BHTS.movedim(-1, 1)[~real_BS].any()
        torch.testing.assert_close(prob_BHTS.sum(-1), torch.ones(prob_BHTS.shape[:-1]))
    noisy_text = torch.where(text_mask[..., None], text, 40.0)
    noisy = visual._replace(token_IVD=torch.where(visual.mask_IV[..., None], visual.token_IVD, -40.0))
    with torch.no_grad():
        again = fusion(noisy_text, text_mask, noisy, image_of)
    torch.testing.assert_close(again.text_BTD[text_mask], fused.text_BTD[text_mask])
    torch.testing.assert_close(again.image_BVD[again.image_mask_BV], fused.image_BVD[fused.image_mask_BV])
    torch.testing.assert_close(again.pooled_BD, fused.pooled_BD)


@pytest.mark.parametrize("kind", [SingleStream, DualStream])
@pytest.mark.parametrize("settings", [{}, {"image_stream": False, "place": "values"}], ids=str)
def test_rows_that_share_a_picture_have_the_states_and_gradients_of_rows_with_copies(kind, settings):
    if kind is SingleStream and settings:
        pytest.skip("a single stream has the one")
    fusion = build(kind, **settings)
    text, text_mask, visual = example()
    of_B = torch.tensor([1, 0, 1])
    weight = torch.randn(3, 8)
    gradients = []
    for shared in (True, False):
        token = visual.token_IVD.clone().requires_grad_()
        one = visual._replace(token_IVD=token)
        if shared:
            fused = fusion(text, text_mask, one, of_B[:, None])
        else:
            fused = fusion(text, text_mask, Visual(*(part[of_B] for part in one)), torch.arange(3)[:, None])
        (fused.pooled_BD * weight).sum().backward()
        gradients.append((fused.pooled_BD.detach(), token.grad))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_looking_starts_as_a_comparison():
    """What a word finds is what resembles it, and it comes back as it is."""
    torch.manual_seed(0)
    look = DualStream.Config(layers=1, heads=1, start="match").build(8).text_layers[0].look
    x, y = torch.randn(4, 8), torch.randn(5, 8)
    torch.testing.assert_close(look.query(x) @ look.key(y).T, x @ y.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(look.out(look.value(y)), y, atol=1e-5, rtol=1e-4)


def test_more_pictures_than_places_is_an_error_that_says_what_to_set():
    text, text_mask, visual = example()
    with pytest.raises(UserError, match=r"system\.fusion\.pictures=2"):
        build()(text, text_mask, visual, PICTURES)


@pytest.mark.parametrize("wanted", ["none", "rows", "all"])
def test_picture_tokens_that_are_read_are_those_of_a_whole_pass(wanted):
    """And so are the gradients of what is made of them; where none is read, the image stream's last layer is left out."""
    fusion = build(pictures=2)
    text, text_mask, visual = example()
    read_BT = torch.zeros_like(text_mask)
    rows_B1 = torch.tensor([wanted == "all", wanted != "none", wanted == "all"])[:, None]

    def gradients(*read):
        fusion.zero_grad()
        fused = fusion(text, text_mask, visual, PICTURES, *read)
        is_read_BV = fused.image_mask_BV & rows_B1
        (fused.pooled_BD.sum() + fused.image_BVD[is_read_BV].square().sum()).backward()
        return fused.image_BVD[is_read_BV], {name: p.grad for name, p in fusion.named_parameters() if p.grad is not None}

    whole, of_whole = gradients()
    some, of_some = gradients(read_BT, rows_B1)
    torch.testing.assert_close(some, whole)
    assert of_whole.keys() - of_some.keys() <= {name for name in of_whole if not of_whole[name].any()}
    for name, gradient in of_some.items():
        torch.testing.assert_close(gradient, of_whole[name], msg=name)
