"""Packed tokens: the real ones of many sequences in one list, so that nothing is computed on padding.

    x_BTD, mask_BT --pack--> x_PD       what concerns one token at a time (norms, linear layers, perceptrons) works on the list
                             x_PD --seat--> benches [S, N, D] --attention--> benches --rise--> x_PD

Where tokens meet others, those that meet the same others sit on one bench: a row's tokens for self-attention; for a look at a
picture all tokens of all rows that share it, so that its keys and values are neither copied nor met twice. Benches of about one
length stand together, so one long text among short ones does not make all benches long. Exact: a token's result is what it would
be in its own padded row.

Letters: P packed tokens, S benches, N seats of a bench, G tokens of a group of benches, R tokens that are read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Group(NamedTuple):
    """Benches of about one length, and the tokens on them."""

    token_G: Tensor  # int64, which of the packed tokens
    bench_S: Tensor  # int64, which of all benches
    seat_G: Tensor  # int64, place on these S benches of N seats: bench * N + place
    mask_SN: Tensor  # bool, True where somebody sits

    def seat(self, x_GD: Tensor) -> Tensor:
        """[S, N, D]; empty seats are zero."""
        benches, width = self.mask_SN.shape
        seated = x_GD.new_zeros(benches * width, *x_GD.shape[1:]).index_copy(0, self.seat_G, x_GD)
        return seated.unflatten(0, (benches, width))

    def rise(self, x_SND: Tensor) -> Tensor:
        """[G, D]"""
        return x_SND.flatten(0, 1).index_select(0, self.seat_G)


class Benches(NamedTuple):
    """Where packed tokens sit, group by group; every token sits once."""

    bench_P: Tensor  # int64, the bench that each token sits on
    groups: tuple[Group, ...]
    back_P: Tensor  # int64: the tokens' places in the groups laid one after the other

    @staticmethod
    def of(bench_P: Tensor, benches: int) -> Benches:
        """Tokens on the benches that `bench_P` names, in order. Lengths of a group differ by less than a factor of two."""
        count_S = bench_P.bincount(minlength=benches)
        class_S = count_S.clamp(min=1).log2().floor().long()
        groups = []
        for octave in class_S[count_S > 0].unique().tolist():
            is_here_S = (class_S == octave) & (count_S > 0)
            token_G = is_here_S[bench_P].nonzero()[:, 0]
            local_S = is_here_S.cumsum(0) - 1
            groups.append(_group(token_G, is_here_S.nonzero()[:, 0], local_S[bench_P[token_G]]))
        return Benches(bench_P, tuple(groups), torch.cat([g.token_G for g in groups]).argsort() if groups else bench_P)

    def reading(self, read_R: Tensor) -> Benches:
        """Only the tokens that `read_R` names, on the same groups of benches, without gaps; `token_G` counts among the R."""
        place_P = torch.full_like(self.bench_P, -1).index_copy(0, read_R, torch.arange(len(read_R), device=read_R.device))
        groups = []
        for group in self.groups:
            is_read_G = place_P[group.token_G] >= 0
            local_G = group.seat_G[is_read_G] // group.mask_SN.shape[1]
            read = _group(place_P[group.token_G[is_read_G]], group.bench_S, local_G)
            groups.append(read)
        return Benches(self.bench_P[read_R], tuple(groups), torch.cat([g.token_G for g in groups]).argsort())

    def gather(self, parts: list[Tensor]) -> Tensor:
        """[P, D] from what each group gave."""
        return torch.cat(parts).index_select(0, self.back_P)


def _group(token_G: Tensor, bench_S: Tensor, local_G: Tensor) -> Group:
    """Tokens, in order, on the benches that `local_G` counts from 0, as many seats each as the fullest needs."""
    order_G = local_G.argsort(stable=True)
    count_S = local_G.bincount(minlength=len(bench_S))
    first_S = count_S.cumsum(0) - count_S
    place_G = torch.empty_like(local_G)
    place_G[order_G] = torch.arange(len(local_G), device=local_G.device) - first_S[local_G[order_G]]
    width = max(int(count_S.max()), 1)
    return Group(token_G, bench_S, local_G * width + place_G, torch.arange(width, device=local_G.device) < count_S[:, None])


class Packing(NamedTuple):
    """Between padded rows and packed tokens."""

    place_P: Tensor  # int64, row * T + position
    mask_BT: Tensor

    @staticmethod
    def of(mask_BT: Tensor) -> Packing:
        return Packing(mask_BT.flatten().nonzero()[:, 0], mask_BT)

    @property
    def row_P(self) -> Tensor:
        return self.place_P // self.mask_BT.shape[1]

    def benches(self, by_length: bool = True) -> Benches:
        """Each row its own bench. Without `by_length` all rows are one group, padded as they were."""
        if by_length:
            return Benches.of(self.row_P, len(self.mask_BT))
        device = self.place_P.device
        token_P, row_B = torch.arange(len(self.place_P), device=device), torch.arange(len(self.mask_BT), device=device)
        return Benches(self.row_P, (Group(token_P, row_B, self.place_P, self.mask_BT),), token_P)

    def pack(self, x_BTD: Tensor) -> Tensor:
        """[P, D]"""
        return x_BTD.flatten(0, 1).index_select(0, self.place_P)

    def unpack(self, x_PD: Tensor) -> Tensor:
        """[B, T, D]; zero in the padding."""
        rows, length = self.mask_BT.shape
        padded = x_PD.new_zeros(rows * length, *x_PD.shape[1:]).index_copy(0, self.place_P, x_PD)
        return padded.unflatten(0, (rows, length))

    def which(self, is_meant_BT: Tensor) -> Tensor:
        """[R] which of the packed tokens are meant."""
        return is_meant_BT.flatten()[self.place_P].nonzero()[:, 0]

    def only(self, index_R: Tensor) -> Packing:
        return Packing(self.place_P[index_R], self.mask_BT)
