"""The order of samples: a permutation in every epoch, a pure function of (seed, n), in proportion between sources."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data.mixture import Mixture, Source
from diptych.data.sampler import Order
from diptych.draw import Draw


class Numbers:
    fingerprint = "0"

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), epoch=st.integers(0, 10**9), seed=st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(size, epoch, seed):
    index_N = Order(size, Draw(seed))(np.arange(epoch * size, (epoch + 1) * size))
    assert sorted(index_N) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 10**12), n=st.integers(0, 2**62))
def test_seeking_needs_no_walking_there(size, n):
    """Alone or among others, in any order, far out in a huge source."""
    order = Order(size, Draw(1))
    together = order(np.array([n, 0, n // 2]))
    assert together[0] == order(np.array([n]))[0]
    assert ((together >= 0) & (together < size)).all()


def test_orders_look_random():
    """Over epochs every sample takes every place equally often, and neighbours are not kept together (chi square, 5 sigma)."""
    size, epochs = 6, 6000
    index_EN = Order(size, Draw(0))(np.arange(size * epochs)).reshape(epochs, size)
    for table in (
        [[(index_EN[:, place] == sample).sum() for sample in range(size)] for place in range(size)],
        [[((index_EN[:, 0] == a) & (index_EN[:, 1] == b)).sum() for b in range(size) if b != a] for a in range(size)],
    ):
        observed = np.array(table, dtype=float).ravel()
        expected = observed.sum() / observed.size
        chi2 = ((observed - expected) ** 2 / expected).sum()
        assert chi2 < observed.size + 5 * np.sqrt(2 * observed.size)
    orders = {tuple(row) for row in index_EN.tolist()}
    assert len(orders) > 0.95 * len(list(itertools.permutations(range(size))))  # of 720, odd ones among them


def test_one_source_is_its_order():
    source_N, index_N = Mixture([Source("a", Numbers(7))], Draw(3)).locate(np.arange(14))
    assert (source_N == 0).all()
    assert sorted(index_N[:7]) == sorted(index_N[7:]) == list(range(7))
    assert index_N[:7].tolist() != index_N[7:].tolist()


@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=5), n=st.integers(0, 10**9))
def test_a_mixture_keeps_proportions_and_counts(weights, n):
    sizes = [5 + 3 * i for i in range(len(weights))]
    mixture = Mixture([Source(str(i), Numbers(size), w) for i, (size, w) in enumerate(zip(sizes, weights, strict=True))], Draw(9))
    source_N, index_N = mixture.locate(np.arange(n, n + 600))
    share_S = np.array(weights) / sum(weights)
    assert np.abs(np.bincount(source_N, minlength=len(weights)) - 600 * share_S).max() <= 2 + len(weights)
    before, after = mixture.drawn(n), mixture.drawn(n + 600)
    assert [after[str(i)] - before[str(i)] for i in range(len(weights))] == np.bincount(source_N, minlength=len(weights)).tolist()
    for place, size in enumerate(sizes):  # within a source, draws go on through its own permutations: none twice in an epoch
        drawn = index_N[source_N == place]
        start = -before[str(place)] % size
        for first in range(start, len(drawn) - size + 1, size):
            assert sorted(drawn[first : first + size]) == list(range(size))


def test_without_weights_all_samples_are_seen_equally():
    mixture = Mixture([Source("small", Numbers(100)), Source("large", Numbers(900))], Draw(0))
    assert mixture.drawn(16384) == {"small": 1638, "large": 14746}


def test_data_that_cannot_be_drawn_is_named():
    with pytest.raises(UserError, match="no training data"):
        Mixture([], Draw(0))
    with pytest.raises(UserError, match="empty: no samples"):
        Mixture([Source("empty", Numbers(0))], Draw(0))
    with pytest.raises(UserError, match="a: weight 0"):
        Mixture([Source("a", Numbers(3), 0.0)], Draw(0))
