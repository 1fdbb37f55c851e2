"""Against one box, one token, one class at a time."""

from dataclasses import replace

import pytest
import torch

from diptych.config import UserError
from diptych.contracts import IGNORE, Box, Sample
from diptych.objectives import example_rows, naming
from diptych.objectives.naming import Naming, names_of
from diptych.text.tokenizer import wordpiece

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "do", "##g", "red", "big"])


def share_under(box, token) -> float:
    width = min(box[2], token[2]) - max(box[0], token[0])
    height = min(box[3], token[3]) - max(box[1], token[1])
    return max(width, 0) * max(height, 0) / ((token[2] - token[0]) * (token[3] - token[1]))


def loss_of_token(objective, state_D, name, attributes, class_KD) -> torch.Tensor:
    """-log p(name) - mean over its attributes of log p(attribute), each among its own kind."""
    score = torch.stack([state_D @ vector_D for vector_D in class_KD]) + objective.bias
    names, words = objective.config.names, objective.config.attributes
    loss = -(score[names.index(name)] - score[: len(names)].logsumexp(0))
    for attribute in attributes:
        asked = score[len(names) + words.index(attribute)] - score[len(names) :].logsumexp(0)
        loss = loss - objective.config.attribute_weight * asked / len(attributes)
    return loss


@pytest.mark.parametrize("by", ["classes", "words"])
def test_dense_naming_is_a_mean_over_boxes_of_the_mean_over_their_tokens(by):
    torch.manual_seed(0)
    _, visual, batch = naming.example()
    config = Naming.Config(names=("cat", "dog"), attributes=("red", "big"), by=by, attribute_weight=0.7)
    objective = config.build(example_rows.WIDTH, TOKENIZER)
    word_KD = torch.randn(TOKENIZER.vocab_size, example_rows.WIDTH)
    torch.nn.init.normal_(objective.bias)
    if by == "classes":
        class_KD = objective.vector.weight
    else:
        torch.nn.init.constant_(objective.log_scale, 0.3)
        pieces = [TOKENIZER.ids_of(name) for name in ("cat", "dog", "red", "big")]
        assert len(pieces[1]) == 2
        class_KD = torch.stack([torch.stack([word_KD[i] for i in ids]).mean(0) for ids in pieces]) * objective.log_scale.exp()
    boxes_of = {
        0: [((0, 0, 9 / 16, 1), "dog", ("red",)), ((9 / 16, 0, 1, 1), "cat", ())],
        1: [((3 / 16, 0, 5 / 16, 1), "cat", ("big", "red"))],  # too narrow for half of any of its seven tokens, but one
    }
    expected, asked = torch.zeros(()), 0
    for i, boxes in boxes_of.items():
        for box, name, attributes in boxes:
            cover = {v: share_under(box, visual.box_IV4[i, v].tolist()) for v in visual.mask_IV[i].nonzero()[:, 0].tolist()}
            tokens = [v for v, share in cover.items() if share >= 0.5] or [max(cover, key=lambda v: cover[v])]
            losses = [loss_of_token(objective, visual.token_IVD[i, v], name, attributes, class_KD) for v in tokens]
            expected, asked = expected + torch.stack(losses).mean(), asked + 1
    term = objective(visual, objective.label(batch), word_KD)
    torch.testing.assert_close(term.sum, expected)
    assert term.count == asked == 3


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_a_picture_with_several_names_is_asked_for_each_in_equal_parts(pool):
    _, visual, batch = naming.example()
    config = Naming.Config(unit="picture", pool=pool, names=("cat", "dog"))
    objective = config.build(example_rows.WIDTH)
    labelled = objective.label(batch)
    assert labelled.image_labels["naming"].tolist() == [[1, 0], [0, IGNORE], [IGNORE, IGNORE]]
    assert labelled.counts == {"naming": 2}
    expected = torch.zeros(())
    for i, names in enumerate((("dog", "cat"), ("cat",))):
        real = visual.token_IVD[i, visual.mask_IV[i]]
        state_D = real[0] if pool == "first" else real.mean(0)
        losses = [loss_of_token(objective, state_D, name, (), objective.vector.weight) for name in names]
        expected = expected + torch.stack(losses).mean()
    torch.testing.assert_close(objective(visual, labelled).sum, expected)


def test_a_box_without_area_is_not_asked_and_a_text_without_a_picture_takes_no_part():
    objective, visual, batch = naming.example()
    batch.regions.mask_IR[0, 0] = False
    assert objective.label(batch).image_labels["naming"].tolist() == [[IGNORE, 0], [0, IGNORE], [IGNORE, IGNORE]]
    alone = replace(
        batch,
        image_of_BN=batch.image_of_BN.clone(),
        samples=(*batch.samples[:-1], Sample("text", boxes=(Box((0, 0, 1, 1), "dog"),))),
    )
    alone.image_of_BN[-1] = -1
    assert torch.equal(objective.label(alone).image_labels["naming"], objective.label(batch).image_labels["naming"])
    assert objective(visual, objective.label(batch)).count == 2


def test_names_come_from_the_training_data_most_frequent_first():
    readers = [[naming.example()[2].samples[0], naming.example()[2].samples[2], Sample("c", labels={"label": "fish"})]]
    dense = Naming.prepare(Naming.Config(), readers)
    assert dense.names == ("cat", "dog", "something else")
    assert dense.attributes == ("red", "big")
    assert Naming.prepare(Naming.Config(most_names=2, most_attributes=1), readers).names == ("cat", "dog")
    whole = Naming.prepare(Naming.Config(unit="picture"), readers)
    assert whole.names == ("cat", "dog", "fish", "something else")
    assert whole.attributes == (), "a picture as a whole is asked for none"
    assert Naming.prepare(whole, []) is whole, "a saved configuration keeps its names"
    with pytest.raises(UserError, match=r"naming needs boxes with names, of two names at least; the training data has 0 "):
        Naming.prepare(Naming.Config(), [[Sample("d", texts=("a text",))]])


def test_a_picture_is_called_by_its_label_or_its_things_or_its_texts():
    boxes = (Box((0, 0, 1, 1), "cat"), Box((0, 0, 1, 1), "cat"), Box((0, 0, 1, 1)))
    assert names_of(Sample("a", texts=("t",), boxes=boxes, labels={"label": 3})) == ["3"]
    assert names_of(Sample("b", texts=("t",), boxes=boxes)) == ["cat"]
    assert names_of(Sample("c", texts=("t", "u"))) == ["t", "u"]
