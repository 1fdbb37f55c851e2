"""Draws: pure functions of (seed, purpose, index), uniform, independent across purposes, rows and columns."""

import numpy as np

from diptych.draw import Draw, mix64


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator, one output at a time in Python integers."""
    mask = (1 << 64) - 1
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_mixer_is_splitmix64() -> None:
    counters = np.array([(i * 0x9E3779B97F4A7C15) & ((1 << 64) - 1) for i in range(1, 6)], dtype=np.uint64)
    assert mix64(counters).tolist() == splitmix64(0, 5)


def test_a_row_does_not_know_its_neighbours() -> None:
    draw = Draw(7)
    together = draw.uniform("mask", [3, 1 << 40, 5], 9)
    assert np.array_equal(together[1], draw.uniform("mask", 1 << 40, 9)[0])
    assert np.array_equal(together[:, :4], draw.uniform("mask", [3, 1 << 40, 5], 4))  # a longer row begins like a shorter one


def test_uniform_and_uncorrelated() -> None:
    draw, n = Draw(0), 200_000
    a = draw.uniform("a", np.arange(n))[:, 0]
    others = [
        draw.uniform("b", np.arange(n))[:, 0],
        Draw(1).uniform("a", np.arange(n))[:, 0],
        draw.uniform("a", np.arange(n) + 1)[:, 0],
        draw.uniform("a", np.arange(n), 2)[:, 1],
    ]
    counts = np.histogram(a, bins=100, range=(0, 1))[0]
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert 60 < chi2 < 150  # 99 degrees of freedom: mean 99, deviation 14
    for other in others:
        assert abs(np.corrcoef(a, other)[0, 1]) < 5 / np.sqrt(n)


def test_integers_cover_their_range_evenly() -> None:
    counts = np.bincount(Draw(3).integers("pick", np.arange(70_000), 7)[:, 0], minlength=7)
    assert len(counts) == 7
    assert abs(counts - 10_000).max() < 500
