import torch

from diptych.contracts import IGNORE, Batch
from diptych.draw import Draw
from diptych.objectives import example_rows
from diptych.objectives.mvm import MVM

K = 4


def rows(count: int) -> Batch:
    text_BT = torch.zeros(count, 3, dtype=torch.int64)
    return Batch(text_BT, text_BT == 0, text_BT, text_BT, torch.arange(count), image_of_BN=torch.zeros(count, 1, dtype=torch.int64))


def pictures(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mask_BV = torch.rand(count, 9, generator=random) < 0.7
    mask_BV[:, 4] = True
    return torch.randn(count, 9, 5, generator=random), torch.randint(0, K, (count, 9), generator=random), mask_BV


def test_the_drawn_cell_and_all_of_its_word_are_hidden_and_nothing_else():
    objective = MVM(MVM.Config(), 5)
    batch = objective.corrupt(rows(200), Draw(0))
    token_BVD, word_BV, mask_BV = pictures(200)
    hidden_BVD, target_BV = objective.hide(token_BVD, word_BV, mask_BV, batch)
    for b in range(200):
        real = [v for v in range(9) if mask_BV[b, v]]
        drawn = word_BV[b, real[int(batch.labels["mvm"][b]) % len(real)]]
        for v in range(9):
            is_hidden = bool(mask_BV[b, v]) and word_BV[b, v] == drawn
            assert target_BV[b, v] == (drawn if is_hidden else IGNORE)
            assert torch.equal(hidden_BVD[b, v], objective.hidden_D if is_hidden else token_BVD[b, v])


def test_every_real_cell_is_drawn_alike_and_rows_take_part_at_the_rate():
    count = 8000
    batch = MVM(MVM.Config(rate=0.25), 5).corrupt(rows(count), Draw(0))
    taken = batch.labels["mvm"] != IGNORE
    assert batch.counts == {"mvm": taken.sum()}
    assert abs(taken.float().mean() - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    share_V = torch.bincount(batch.labels["mvm"][taken] % 9, minlength=9) / taken.sum()
    assert (share_V - 1 / 9).abs().max() < 4 * (1 / 9 / taken.sum()) ** 0.5
    few = rows(3)
    few.image_of_BN = torch.tensor([[0], [-1], [0]])
    assert (MVM(MVM.Config(), 5).corrupt(few, Draw(0)).labels["mvm"] != IGNORE).tolist() == [True, False, True]


def test_loss_is_the_mean_over_rows_of_the_mean_over_hidden_cells():
    torch.manual_seed(0)
    objective = MVM(MVM.Config(temperature=0.3, rate=0.8), example_rows.WIDTH)
    fused = example_rows.fused()
    batch = objective.corrupt(example_rows.batch(), Draw(1))
    word_BV = torch.randint(0, K, fused.image_mask_BV.shape)
    dictionary_KD = torch.randn(K, example_rows.WIDTH)
    _, target_BV = objective.hide(fused.image_BVD, word_BV, fused.image_mask_BV, batch)
    term = objective(fused, batch, target_BV, dictionary_KD)
    losses, rights = [], []
    for b in range(len(batch)):
        of_row, right = [], []
        for v in range(word_BV.shape[1]):
            if target_BV[b, v] != IGNORE:
                cosine_K = torch.stack([torch.cosine_similarity(fused.image_BVD[b, v], word_D, dim=0) for word_D in dictionary_KD])
                p_K = (cosine_K / 0.3).softmax(0)
                of_row.append(-p_K[target_BV[b, v]].log())
                right.append(float(p_K.argmax() == target_BV[b, v]))
        if of_row:
            losses.append(torch.stack(of_row).mean())
            rights.append(sum(right) / len(right))
    assert 0 < len(losses) < len(batch)
    assert term.count == len(losses)
    torch.testing.assert_close(term.sum / term.count, torch.stack(losses).mean())
    torch.testing.assert_close(term.metrics["accuracy"][0], torch.tensor(sum(rights)))


def test_no_row_that_hides_is_a_loss_of_zero():
    objective = MVM(MVM.Config(rate=0.0), example_rows.WIDTH)
    fused, batch = example_rows.fused(), objective.corrupt(example_rows.batch(), Draw(1))
    word_BV = torch.zeros(fused.image_mask_BV.shape, dtype=torch.int64)
    hidden_BVD, target_BV = objective.hide(fused.image_BVD, word_BV, fused.image_mask_BV, batch)
    assert torch.equal(hidden_BVD, fused.image_BVD)
    term = objective(fused, batch, target_BV, torch.randn(K, example_rows.WIDTH))
    assert (term.sum.item(), term.count, term.metrics["accuracy"]) == (0, 0, (0, 0))
