"""Packed tokens: the real ones of many sequences in one list, so that nothing is computed on padding.

    x_BTD, mask_BT --pack--> x_PD       what concerns one token at a time (norms, linear layers, perceptrons) works on the list
                             x_PD --seat--> benches [S, N, D] --attention--> benches --rise--> x_PD

Where tokens meet others, those that meet the same others sit on one bench: a row's tokens for self-attention; for a look at a
picture all tokens of all rows that share it, so that its keys and values are neither copied nor met twice. Exact: a token's result
is what it would be in its own padded row. Letters: P packed tokens, S benches, N seats of a bench, R tokens that are read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Seats(NamedTuple):
    seat_P: Tensor  # int64, bench * N + place; no two tokens on one seat
    mask_SN: Tensor  # bool, True where somebody sits

    @staticmethod
    def of_mask(mask_BT: Tensor) -> Seats:
        """Each row its own bench, places as they are."""
        return Seats(mask_BT.flatten().nonzero()[:, 0], mask_BT)

    @staticmethod
    def of_bench(bench_P: Tensor, benches: int) -> Seats:
        """Tokens on the benches that `bench_P` names, in order, as many seats as the fullest needs."""
        order_P = bench_P.argsort(stable=True)
        count_S = bench_P.bincount(minlength=benches)
        first_S = count_S.cumsum(0) - count_S
        place_P = torch.empty_like(bench_P)
        place_P[order_P] = torch.arange(len(bench_P), device=bench_P.device) - first_S[bench_P[order_P]]
        width = max(int(count_S.max()), 1)
        return Seats(bench_P * width + place_P, torch.arange(width, device=bench_P.device) < count_S[:, None])

    @property
    def bench_P(self) -> Tensor:
        return self.seat_P // self.mask_SN.shape[1]

    def places(self, is_meant_SN: Tensor) -> Tensor:
        """[R] which of the packed tokens sit on the seats that are meant."""
        return is_meant_SN.flatten()[self.seat_P].nonzero()[:, 0]

    def only(self, index_R: Tensor) -> Seats:
        """The seats of the tokens that `index_R` names; the others are empty."""
        seat_R = self.seat_P[index_R]
        return Seats(seat_R, torch.zeros_like(self.mask_SN).flatten().index_fill(0, seat_R, True).view_as(self.mask_SN))

    def some(self, index_R: Tensor) -> Seats:
        """The tokens that `index_R` names on shorter benches, moved up."""
        return Seats.of_bench(self.bench_P[index_R], len(self.mask_SN))

    def seat(self, x_PD: Tensor) -> Tensor:
        """[S, N, D]; empty seats are zero."""
        benches, width = self.mask_SN.shape
        return x_PD.new_zeros(benches * width, *x_PD.shape[1:]).index_copy(0, self.seat_P, x_PD).unflatten(0, (benches, width))

    def rise(self, x_SND: Tensor) -> Tensor:
        """[P, D]"""
        return x_SND.flatten(0, 1).index_select(0, self.seat_P)
