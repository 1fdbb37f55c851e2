"""Power laws over levers, fitted in logarithms, with their uncertainty.

    log L_c = a - sum over levers k of e_k log x_ck + noise      c a cell; e_k the exponents; least squares

There is no floor that L tends to: a grid of a few cells cannot tell one from a small exponent. So exponents are slopes within the
range that was looked at, and say nothing beyond it.

Two things are uncertain, and a replicate draws both. The questions: batches of held-out samples are drawn with replacement, the
same for all cells. The cells: another training would end elsewhere; noise is drawn for each as in the t test of a regression, with
the residuals' own scale s over C - k - 1 degrees of freedom,

    L* = fit(L of the drawn questions) + s sqrt(df / chi2_df) N(0, 1),  fitted again

so with noise that is normal and no noise of questions the interval is the textbook's. Noise of questions that cells do not share
shows in the residuals, too: it is counted twice, which widens intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.train.evaluate import REPLICATES, Interval, interval

Array = NDArray[np.float64]


class Law(NamedTuple):
    """L = scale x product over levers of x^-exponent."""

    scale: float
    exponents: tuple[Interval, ...]  # one a lever
    spread: float  # deviation of cells from the law, as a share of L
    degrees: int  # cells beyond what the law has numbers

    def at(self, *levers: float) -> float:
        return self.scale * float(np.prod([x**-e.value for x, e in zip(levers, self.exponents, strict=True)]))


def fit(value_RC: Array, lever_CK: Array, seed: int = 0) -> Law | None:
    """`value_RC`: the cells' values, first with all questions, then with drawn ones. None where the cells do not decide a law."""
    cells, levers = lever_CK.shape
    x_CK = np.concatenate([np.ones((cells, 1)), -np.log(lever_CK)], 1)
    degrees = cells - levers - 1
    if degrees < 1 or np.linalg.matrix_rank(x_CK) <= levers or not (value_RC > 0).all():
        return None
    solve_KC, y_RC = np.linalg.pinv(x_CK), np.log(value_RC)
    found_RK = np.asarray(y_RC @ solve_KC.T, np.float64)
    variance = ((y_RC[0] - found_RK[0] @ x_CK.T) ** 2).sum() / degrees
    draws = np.random.default_rng(seed)
    deviation_R1 = np.sqrt(variance * degrees / draws.chisquare(degrees, (len(y_RC) - 1, 1)))
    found_RK[1:] += deviation_R1 * draws.standard_normal((len(y_RC) - 1, cells)) @ solve_KC.T
    return Law(
        float(np.exp(found_RK[0, 0])), tuple(interval(found_RK[:, 1 + k]) for k in range(levers)), float(np.sqrt(variance)), degrees
    )


def ratio(ours_RC: Array, theirs_RC: Array, seed: int = 0) -> Interval:
    """Ours over theirs, minus one, in percent: the geometric mean over pairs of cells, which are drawn with replacement."""
    log_RC = np.log(ours_RC) - np.log(theirs_RC)
    replicates, cells = log_RC.shape
    drawn_RC = np.random.default_rng(seed).integers(cells, size=(replicates, cells))
    drawn_RC[0] = np.arange(cells)
    return interval(100 * np.expm1(np.take_along_axis(log_RC, drawn_RC, axis=1).mean(1)))


def means(sums: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Array:
    """[1 + REPLICATES, C] of each cell's (sum, count) by batch: over all batches, then over drawn ones, the same for all cells."""
    part_CB, count_CB = (np.array([pair[n] for pair in sums], dtype=float) for n in (0, 1))
    batches = part_CB.shape[1]
    weight_RB = np.random.default_rng(seed).multinomial(batches, np.full(batches, 1 / batches), REPLICATES)
    weight_RB = np.concatenate([np.ones((1, batches)), weight_RB])
    return np.asarray((weight_RB @ part_CB.T) / (weight_RB @ count_CB.T), np.float64)
