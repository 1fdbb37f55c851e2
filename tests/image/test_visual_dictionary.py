"""The dictionary against the loop one would write first, and what it does when words are idle."""

import threading

import pytest
import torch

from diptych import dist
from diptych.contracts import IGNORE
from diptych.image.visual_dictionary import EPS, VisualDictionary

WORDS, WIDTH = 6, 4


def dictionary(seed: int = 0, **settings) -> VisualDictionary:
    torch.manual_seed(seed)
    return VisualDictionary.Config(**{"words": WORDS, "collapsed": 0, **settings}).build(WIDTH)


def cells(seed: int = 0, pictures: int = 3, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mask_IV = torch.arange(5) < torch.randint(2, 6, (pictures, 1), generator=random)
    return torch.randn(pictures, 5, WIDTH, generator=random) * spread, mask_IV


class Slow:
    """One cell, one word, one number at a time."""

    def __init__(self, like: VisualDictionary):
        self.decay = like.config.decay
        self.words, self.counts, self.sums = (part.clone().tolist() for part in (like.word_KD, like.count_K, like.sum_KD))

    def nearest(self, cell: list[float]) -> int:
        away = [sum((a - b) ** 2 for a, b in zip(cell, word, strict=True)) for word in self.words]
        return away.index(min(away))

    def learn(self, real: list[list[float]]) -> None:
        chosen = [self.nearest(cell) for cell in real]
        for j in range(WORDS):
            mine = [cell for cell, h in zip(real, chosen, strict=True) if h == j]
            self.counts[j] = self.decay * self.counts[j] + (1 - self.decay) * len(mine)
            for d in range(WIDTH):
                self.sums[j][d] = self.decay * self.sums[j][d] + (1 - self.decay) * sum(cell[d] for cell in mine)
        total = sum(self.counts)
        smooth = [(n + EPS) / (total + WORDS * EPS) * total for n in self.counts]
        self.words = [[a / n for a in row] for row, n in zip(self.sums, smooth, strict=True)]


@pytest.mark.parametrize("settings", [{"decay": 0.7}, {"decay": 0.4, "start": "zero"}, {"decay": 0.0}], ids=str)
def test_words_and_their_movement_are_those_of_a_loop(settings):
    """Two steps of two micro-steps; a micro-step reads the words as the last step left them."""
    fast = dictionary(**settings)
    slow = Slow(fast)
    for step in (0, 2):
        real = []
        for seed in (step, step + 1):
            cell_IVD, mask_IV = cells(seed)
            spelled = fast(cell_IVD, mask_IV)
            real += cell_IVD[mask_IV].tolist()
            assert spelled.index_IV[mask_IV].tolist() == [slow.nearest(cell) for cell in cell_IVD[mask_IV].tolist()]
            assert (spelled.index_IV[~mask_IV] == IGNORE).all()
            torch.testing.assert_close(spelled.word_IVD[mask_IV], fast.word_KD[spelled.index_IV[mask_IV]])
        fast.commit()
        slow.learn(real)
        for found, expected in ((fast.count_K, slow.counts), (fast.sum_KD, slow.sums), (fast.word_KD, slow.words)):
            torch.testing.assert_close(found, torch.tensor(expected))


def test_without_memory_a_word_is_the_mean_of_its_cells_and_idle_ones_vanish_if_they_start_at_zero():
    for start in ("word", "zero"):
        words = dictionary(decay=0.0 if start == "word" else 0.5, start=start)
        cell_IVD, mask_IV = cells()
        index_IV = words(cell_IVD, mask_IV).index_IV
        words.commit()
        for j in range(WORDS):
            mine = cell_IVD[index_IV == j]
            expected = mine.mean(0) if len(mine) else torch.zeros(WIDTH)
            torch.testing.assert_close(words.word_KD[j], expected, atol=1e-4, rtol=1e-4)
    kept = dictionary(decay=0.5)
    before = kept.word_KD.clone()
    idle = torch.bincount(kept(*cells()).index_IV[cells()[1]], minlength=WORDS) == 0
    kept.commit()
    assert idle.any()
    torch.testing.assert_close(kept.word_KD[idle], before[idle], atol=1e-3, rtol=1e-3)


def test_the_gradient_goes_past_the_word_to_the_cell():
    words = dictionary()
    cell_IVD, mask_IV = cells()
    cell_IVD.requires_grad_()
    slope_IVD = torch.randn(cell_IVD.shape)
    (words(cell_IVD, mask_IV).word_IVD * slope_IVD).sum().backward()
    torch.testing.assert_close(cell_IVD.grad, slope_IVD * mask_IV[..., None])


def test_nothing_moves_before_commit_after_discard_in_evaluation_or_when_frozen():
    words = dictionary(revive=2)
    before = {name: buffer.clone() for name, buffer in words.named_buffers()}
    words(*cells())
    words.discard()
    words.commit()
    words.eval()(*cells())
    words.commit()
    frozen = dictionary(frozen=True)
    frozen(*cells())
    frozen.commit()
    for part in (words, frozen):
        assert all(torch.equal(buffer, before[name]) for name, buffer in part.named_buffers())
    words.train()(*cells())
    assert all(torch.equal(buffer, before[name]) for name, buffer in words.named_buffers())
    words.commit()
    assert not torch.equal(words.word_KD, before["word_KD"])


def test_two_ranks_commit_what_one_does(monkeypatch):
    """Idle words come back too, at the same cells, whichever rank saw them. Sums differ in their last bits at most."""
    settings = {"decay": 0.5, "revive": 2}
    alone, ranks = dictionary(**settings), [dictionary(**settings) for _ in range(2)]
    me, meet, parts = threading.local(), threading.Barrier(2), [torch.empty(0)] * 2

    def sum_tensor(tensor: torch.Tensor) -> torch.Tensor:
        parts[me.rank] = tensor
        meet.wait(10)
        total = parts[0] + parts[1]
        meet.wait(10)
        return total

    def train(rank: int) -> None:
        me.rank = rank
        for step in range(12):
            ranks[rank](*(part[rank::2] for part in cells(step, pictures=5, spread=0.1)))
            ranks[rank].commit()

    with monkeypatch.context() as patched:
        patched.setattr(dist, "size", lambda: 2)
        patched.setattr(dist, "rank", lambda: me.rank)
        patched.setattr(dist, "sum_tensor", sum_tensor)
        threads = [threading.Thread(target=train, args=(rank,)) for rank in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    start = alone.word_KD.clone()
    for step in range(12):
        alone(*cells(step, pictures=5, spread=0.1))
        alone.commit()
    for (name, one), other, expected in zip(ranks[0].named_buffers(), ranks[1].buffers(), alone.buffers(), strict=True):
        assert torch.equal(one, other), name
        torch.testing.assert_close(one, expected, msg=name)
    assert (start.norm(dim=1) > 1).any(), "some start far from all cells"
    assert (alone.word_KD.norm(dim=1) < 0.5).all(), "and have come back to where cells are"


def test_idle_words_move_to_the_cells_described_worst():
    words = dictionary(decay=0.0, revive=1)
    with torch.no_grad():
        words.word_KD.copy_(torch.eye(WORDS)[:, :WIDTH] * 100)
        words.word_KD[0] = 0
    cell_1VD = torch.tensor([[[0.0, 0, 0, 0], [0.1, 0, 0, 0], [3.0, 0, 0, 0]]])
    words(cell_1VD, torch.ones(1, 3, dtype=torch.bool))
    words.commit()
    assert [row for row in words.word_KD.tolist() if row[0] == pytest.approx(3.0, rel=1e-3)], "one word stands at the odd cell"


def test_a_collapse_is_told_once():
    words = dictionary(words=64, decay=0.5, collapsed=0.1)

    def learn(steps: int) -> None:
        for _ in range(steps):
            words(torch.ones(1, 5, WIDTH), torch.ones(1, 5, dtype=torch.bool))
            words.commit()

    with pytest.warns(
        UserWarning, match=r"dictionary collapses: its 64 words are used as \d\.\d would be.*dictionary\.revive"
    ) as told:
        learn(20)
    assert len(told) == 1
    (used, _), (perplexity, _) = words.metrics().values()
    assert used == pytest.approx(1 / 64)
    assert perplexity == pytest.approx(1, abs=0.01)
