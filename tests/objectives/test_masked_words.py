from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from diptych.contracts import IGNORE, Batch, Phrase
from diptych.draw import Draw
from diptych.objectives.mlm import MLM

ROWS, LENGTH, VOCAB, MASK = 2000, 24, 1000, 3


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Texts of 20 words, the first of them in three pieces: [CLS] w0 w0 w0 w1 ... w19 [SEP]."""
    word_T = torch.tensor([-1, 0, 0, 0, *range(1, 20), -1])
    text_BT = torch.randint(10, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return Batch(
        text_BT=text_BT,
        text_mask_BT=torch.ones_like(text_BT, dtype=torch.bool),
        segment_BT=torch.zeros_like(text_BT),
        word_BT=word_T.expand(ROWS, -1),
        row_B=torch.arange(ROWS),
        phrases=tuple((Phrase(5, 7), Phrase(9, 10)) if row % 2 else () for row in range(ROWS)),
    )


def corrupted(batch: Batch, seed: int = 0, **settings) -> tuple[Batch, torch.Tensor]:
    after = MLM(MLM.Config(**settings), 8, VOCAB, MASK).corrupt(batch, Draw(seed))
    return after, after.labels["mlm"] != IGNORE


def test_whole_words_at_the_rate_and_every_word_alike(batch):
    after, chosen_BT = corrupted(batch)
    assert (chosen_BT[:, [0, -1]] == 0).all(), "special tokens are never asked"
    assert torch.equal(after.labels["mlm"][chosen_BT], batch.text_BT[chosen_BT])
    assert (chosen_BT[:, 1] == chosen_BT[:, 2]).all()
    assert (chosen_BT[:, 1] == chosen_BT[:, 3]).all(), "pieces of a word go together"
    firsts = chosen_BT[:, [1, *range(4, 23)]]
    assert (firsts.sum(1) == 3).all(), "15 % of 20 words"
    share = firsts.float().mean(0)
    assert (share - 0.15).abs().max() < 4 * (0.15 * 0.85 / ROWS) ** 0.5
    assert after.counts["mlm"] == chosen_BT.sum()


def test_eighty_ten_ten(batch):
    after, chosen_BT = corrupted(batch)
    assert torch.equal(after.text_BT[~chosen_BT], batch.text_BT[~chosen_BT])
    new, old = after.text_BT[chosen_BT], batch.text_BT[chosen_BT]
    shares = torch.stack([(new == MASK), (new == old), (new != MASK) & (new != old)]).float().mean(1)
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.1, 0.1]), atol=0.015, rtol=0)
    always, _ = corrupted(batch, mask=1.0, random=0.0)
    assert (always.text_BT[chosen_BT] == MASK).all()


def test_tokens_instead_of_words(batch):
    _, chosen_BT = corrupted(batch, unit="token")
    assert (chosen_BT.sum(1) == 3).all(), "15 % of 22 tokens"
    assert (chosen_BT[:, 1] != chosen_BT[:, 2]).any()


def test_phrases_restrict_the_choice_where_there_are_any(batch):
    _, chosen_BT = corrupted(batch, words="phrases", rate=0.5)
    marked, plain = chosen_BT[1::2], chosen_BT[::2]
    assert (marked.sum(1) == 2).all(), "half of three words, rounded up"
    assert not marked[:, [t for t in range(LENGTH) if t not in (5, 6, 9)]].any()
    assert (plain[:, [1, *range(4, 23)]].sum(1) == 10).all()


def test_favoured_kinds_are_drawn_in_proportion(batch):
    phrases = (Phrase(5, 6, "object"), Phrase(7, 8, "relation"), Phrase(9, 10, "object"))
    marked = replace(batch, phrases=(phrases,) * ROWS)
    _, chosen_BT = corrupted(marked, words="phrases", favour={"relation": 6.0})
    share = chosen_BT[:, [5, 7, 9]].float().mean(0)
    expected = torch.tensor([1 / 8, 6 / 8, 1 / 8])
    assert (chosen_BT.sum(1) == 1).all()
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / ROWS).sqrt()).all()


def test_short_texts_ask_at_least_one_word_and_empty_ones_none(batch):
    few = batch.rows(torch.arange(4))
    word_BT = torch.full((4, LENGTH), -1)
    word_BT[0, 1:3] = 0
    word_BT[1, 1:3] = torch.tensor([0, 1])
    _, chosen_BT = corrupted(replace(few, word_BT=word_BT))
    assert chosen_BT.sum(1).tolist() == [2, 1, 0, 0]


def test_a_row_draws_the_same_in_any_batch_and_differently_in_another_run(batch):
    after, _ = corrupted(batch)
    some = torch.tensor([77, 3, 1500])
    alone, _ = corrupted(batch.rows(some))
    assert torch.equal(alone.text_BT, after.text_BT[some])
    wider = replace(batch, text_BT=F.pad(batch.text_BT, (0, 9)), word_BT=F.pad(batch.word_BT, (0, 9), value=-1))
    padded, _ = corrupted(wider.rows(some))
    assert torch.equal(padded.text_BT[:, :LENGTH], after.text_BT[some])
    other, _ = corrupted(batch, seed=1)
    assert (other.labels["mlm"] != after.labels["mlm"]).any()


def test_loss_is_the_mean_over_asked_tokens_of_minus_log_p(batch):
    from diptych.objectives import example_rows

    torch.manual_seed(0)
    for tied in (False, True):
        objective = MLM(MLM.Config(tied=tied), example_rows.WIDTH, example_rows.VOCAB, MASK)
        word_KD = torch.randn(example_rows.VOCAB, example_rows.WIDTH)
        rows = objective.corrupt(example_rows.batch(), Draw(0))
        fused = example_rows.fused()
        term = objective(fused, rows, word_KD)
        losses, right = [], 0
        for b in range(len(rows)):
            for t in range(rows.text_BT.shape[1]):
                label = rows.labels["mlm"][b, t].item()
                if label != IGNORE:
                    p_K = objective.head(fused.text_BTD[b, t], word_KD).softmax(-1)
                    losses.append(-p_K[label].log())
                    right += int(p_K.argmax() == label)
        torch.testing.assert_close(term.sum / term.count, torch.stack(losses).mean())
        assert term.metrics["accuracy"][0] == right
