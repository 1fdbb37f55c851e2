from dataclasses import replace

import torch

from diptych.contracts import IGNORE
from diptych.draw import Draw
from diptych.objectives import example_rows
from diptych.objectives.itm import ITM
from diptych.objectives.wpa import WPA


def many_rows():
    index = torch.arange(6).repeat(500)
    return replace(example_rows.batch().rows(index), row_B=torch.arange(len(index)))


def test_half_of_the_rows_get_their_false_text_whole_and_the_labels_say_which():
    batch = many_rows()
    after = ITM(ITM.Config(), example_rows.WIDTH).corrupt(batch, Draw(0))
    is_match_B = after.labels["itm"] == 1
    assert after.counts["itm"] == len(batch)
    has_false_B = batch.false_text.mask_BT.any(1)
    assert is_match_B[~has_false_B].all(), "a row without a false text stays a match"
    share = is_match_B[has_false_B].float().mean()
    assert abs(share - 0.5) < 4 * 0.5 / has_false_B.sum() ** 0.5
    for now, true, false in (
        (after.text_BT, batch.text_BT, batch.false_text.token_BT),
        (after.text_mask_BT, batch.text_mask_BT, batch.false_text.mask_BT),
        (after.word_BT, batch.word_BT, batch.false_text.word_BT),
        (after.segment_BT, batch.segment_BT, batch.false_text.segment_BT),
    ):
        assert torch.equal(now, torch.where(is_match_B[:, None], true, false))
    assert torch.equal(after.image_of_BN, batch.image_of_BN)
    assert all(bool(spans) == bool(match) for spans, match in zip(after.phrases, is_match_B, strict=True))


def test_share_of_negatives_is_a_setting():
    batch = many_rows()
    none = ITM(ITM.Config(negatives=0), example_rows.WIDTH).corrupt(batch, Draw(0))
    assert torch.equal(none.text_BT, batch.text_BT)
    assert (none.labels["itm"] == 1).all()
    without = ITM(ITM.Config(), example_rows.WIDTH).corrupt(replace(batch, false_text=None), Draw(0))
    assert (without.labels["itm"] == 1).all()


def test_loss_and_match_logit_by_hand():
    torch.manual_seed(0)
    objective, fused, batch = ITM(ITM.Config(), example_rows.WIDTH), example_rows.fused(), example_rows.batch()
    batch = replace(batch, counts={"itm": 5.0})  # one of the six labels is IGNORE
    losses = []
    for pooled_D, label in zip(fused.pooled_BD, batch.labels["itm"].tolist(), strict=True):
        if label != IGNORE:
            losses.append(-objective.head(pooled_D).softmax(-1)[label].log())
    term = objective(fused, batch)
    torch.testing.assert_close(term.sum / term.count, torch.stack(losses).mean())
    p_B = objective.head(fused.pooled_BD).softmax(-1)[:, 1]
    torch.testing.assert_close(objective.logit(fused).sigmoid(), p_B)


def test_word_patch_alignment_pulls_true_texts_and_pushes_false_ones():
    """Against `transport` row by row on the words and patches alone."""
    from diptych.nn.transport import transport

    objective, fused, batch = WPA(WPA.Config()), example_rows.fused(), example_rows.batch()
    batch = objective.corrupt(batch, Draw(0))
    total = torch.zeros(())
    for b, label in enumerate(batch.labels["itm"].tolist()):
        words_T = batch.word_BT[b] >= 0
        patches_V = fused.image_mask_BV[b].clone()
        patches_V[0] = False
        text, visual = fused.text_BTD[b, words_T][None], fused.image_BVD[b, patches_V][None]
        distance = transport(
            text, text.new_ones(text.shape[:2]).bool(), visual, visual.new_ones(visual.shape[:2]).bool()
        ).distance_B
        total += {1: 1, 0: -1, IGNORE: 0}[label] * distance[0]
    term = objective(fused, batch)
    torch.testing.assert_close(term.sum, total)
    assert term.count == 5
    assert term.weight == 0.1
