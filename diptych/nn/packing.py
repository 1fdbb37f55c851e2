"""Packed tokens: the real ones of many sequences in one list, so that nothing is computed on padding.

    x_BTD, mask_BT --pack--> x_PD       what concerns one token at a time (norms, linear layers, perceptrons) works on the list
                             x_PD --seat--> benches [S, N, D] --attention--> benches --rise--> x_PD

Where tokens meet others, those that meet the same others sit on one bench: a row's tokens for self-attention; for a look at a
picture all tokens of all rows that share it, so that its keys and values are neither copied nor met twice. Benches of about one
length stand together, so one long text among short ones does not make all benches long. Exact: a token's result is what it would
be in its own padded row.

No two batches have as many real tokens, and that is dear where shapes are compiled: on CPUs oneDNN multiplies bf16, and takes 0.5
to 7 ms for a shape that it has not met, 5 to 25 times as long as for the product. So lists, benches and seats come in few lengths
(`rounded`): a list goes on with its first token again, a bench with empty seats, and what is computed for those is never read.

Laying out costs a fifth of a narrow model's step. Where rows have hardly any padding they are their own list and their own benches
(`where_it_pays`), and the little padding is computed and never read.

Letters: P packed tokens, S benches, N seats of a bench, G tokens of a group of benches, R tokens that are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FULL = 0.9  # share of real tokens from which on rows are left as they are
STEPS_OF_LISTS, STEPS_OF_BENCHES = 16, 8  # lengths between n and 2 n: 3 % of a list are spare on average, 6 % of seats


def rounded(length: int, steps: int = STEPS_OF_LISTS) -> int:
    """`length`, or the next of few: at most `steps` of them between one power of two and the next, and all divisible by 4."""
    unit = max((1 << length.bit_length()) // (2 * steps), 4)
    return -(-length // unit) * unit


def at_length(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`work` on tokens [..., D], done at a length that recurs: for heads, which see as many tokens as happen to be asked about."""
    x_PD = x.reshape(-1, x.shape[-1])
    done_PK = work(F.pad(x_PD, (0, 0, 0, rounded(len(x_PD)) - len(x_PD))))[: len(x_PD)]
    return done_PK.reshape(*x.shape[:-1], done_PK.shape[-1])


class Some(NamedTuple):
    """Which tokens of a list: `real` of them, then the first again up to a length that recurs."""

    index_R: Tensor  # int64
    real: int
    is_all: bool = False  # all in their order: nothing has to be moved

    @staticmethod
    def all(length: int, device: torch.device) -> Some:
        return Some(torch.arange(length, device=device), length, is_all=True)

    @staticmethod
    def of(index_R: Tensor) -> Some:
        real = len(index_R)
        return Some(torch.cat([index_R, index_R[:1].expand(rounded(real) - real)]), real)

    def of_list(self, x_PD: Tensor) -> Tensor:
        """[R, D]"""
        return x_PD if self.is_all else x_PD.index_select(0, self.index_R)

    def back(self, x_RD: Tensor, length: int) -> Tensor:
        """[length, D] with the real ones where they came from; the rest is zero."""
        if self.is_all:
            return x_RD
        return x_RD.new_zeros(length, *x_RD.shape[1:]).index_copy_(0, self.index_R[: self.real], x_RD[: self.real])


class Group(NamedTuple):
    """Benches of about one length, and the tokens on them."""

    token_G: Tensor  # int64, which of the packed tokens; after `Benches.reading`, which of those that are read
    bench_S: Tensor  # int64, which of all benches
    seat_G: Tensor  # int64, place on these S benches of N seats: bench * N + place
    mask_SN: (
        Tensor  # bool, True where somebody sits; on a spare bench everywhere: a softmax over nothing is none, over zeros harmless
    )

    is_all: bool = False  # every seat of every bench has the token of its number: nobody has to move

    def seat(self, x_PD: Tensor) -> Tensor:
        """[S, N, D] of the whole list; empty seats are zero, or hold what nobody looks at."""
        benches, width = self.mask_SN.shape
        if self.is_all:
            return x_PD.unflatten(0, (benches, width))
        # index_select, not x_PD[token_G]: the backward pass of that is four times as slow
        x_GD = x_PD.index_select(0, self.token_G)
        seated = x_PD.new_zeros(benches * width, *x_PD.shape[1:]).index_copy_(0, self.seat_G, x_GD)
        return seated.unflatten(0, (benches, width))

    def rise(self, x_SND: Tensor) -> Tensor:
        """[G, D]"""
        return x_SND.flatten(0, 1) if self.is_all else x_SND.flatten(0, 1).index_select(0, self.seat_G)


class Benches(NamedTuple):
    """Where packed tokens sit, group by group; every real token sits once."""

    bench_P: Tensor  # int64, the bench that each real token sits on
    groups: tuple[Group, ...]
    back: Some  # the tokens' places in the groups laid one after the other

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
            bench_S = is_here_S.nonzero()[:, 0]
            spare_S = bench_S[:1].expand(rounded(len(bench_S), STEPS_OF_BENCHES) - len(bench_S))
            groups.append(_group(token_G, torch.cat([bench_S, spare_S]), local_S[bench_P[token_G]]))
        groups = groups or [_group(bench_P, bench_P.new_zeros(1), bench_P)]  # nobody anywhere: one bench, empty
        return Benches(bench_P, tuple(groups), _back(groups))

    def reading(self, read: Some) -> Benches:
        """Only the tokens that `read` names, on the same groups of benches, without gaps; `token_G` counts among the read."""
        read_R = read.index_R[: read.real]
        place_P = torch.full_like(self.bench_P, -1).index_copy(0, read_R, torch.arange(read.real, device=read_R.device))
        groups = []
        for group in self.groups:
            is_read_G = place_P[group.token_G] >= 0
            local_G = group.seat_G[is_read_G] // group.mask_SN.shape[1]
            groups.append(_group(place_P[group.token_G[is_read_G]], group.bench_S, local_G))
        return Benches(self.bench_P[read_R], tuple(groups), _back(groups))

    def gather(self, parts: list[Tensor]) -> Tensor:
        """[P, D] from what each group gave."""
        return self.back.of_list(parts[0] if len(parts) == 1 else torch.cat(parts))


def _back(groups: list[Group]) -> Some:
    """Groups one after the other hold the tokens in the order `token_G`; sorting that undoes it."""
    return Some.of(torch.cat([group.token_G for group in groups]).argsort())


def _group(token_G: Tensor, bench_S: Tensor, local_G: Tensor) -> Group:
    """Tokens, in order, on the benches that `local_G` counts from 0, as many seats each as the fullest needs."""
    order_G = local_G.argsort(stable=True)
    count_S = local_G.bincount(minlength=len(bench_S))
    first_S = count_S.cumsum(0) - count_S
    place_G = torch.empty_like(local_G)
    place_G[order_G] = torch.arange(len(local_G), device=local_G.device) - first_S[local_G[order_G]]
    width = rounded(max(int(count_S.max()), 1), STEPS_OF_BENCHES)
    mask_SN = (torch.arange(width, device=local_G.device) < count_S[:, None]) | (count_S == 0)[:, None]
    return Group(token_G, bench_S, local_G * width + place_G, mask_SN)


class Packing(NamedTuple):
    """Between padded rows and packed tokens."""

    place: Some  # row * T + position
    mask_BT: Tensor

    @staticmethod
    def of(mask_BT: Tensor) -> Packing:
        return Packing(Some.of(mask_BT.flatten().nonzero()[:, 0]), mask_BT)

    @staticmethod
    def where_it_pays(mask_BT: Tensor) -> Packing:
        """Rows with little padding stay as they are, padding in the list: laying them out would cost more than computing on it."""
        if mask_BT.sum() >= FULL * mask_BT.numel():
            return Packing(Some.all(mask_BT.numel(), mask_BT.device), mask_BT)
        return Packing.of(mask_BT)

    @property
    def row_P(self) -> Tensor:
        """Of the real tokens."""
        return self.place.index_R[: self.place.real] // self.mask_BT.shape[1]

    def benches(self, by_length: bool = True) -> Benches:
        """Each row its own bench. Without `by_length` all rows are one group, padded as they were."""
        if self.place.is_all:
            rows_B, is_empty_B1 = torch.arange(len(self.mask_BT), device=self.mask_BT.device), ~self.mask_BT.any(1, keepdim=True)
            seats = self.place.index_R
            return Benches(self.row_P, (Group(seats, rows_B, seats, self.mask_BT | is_empty_B1, is_all=True),), self.place)
        if by_length:
            return Benches.of(self.row_P, len(self.mask_BT))
        place_P, device = self.place.index_R[: self.place.real], self.mask_BT.device
        token_P, row_B = torch.arange(len(place_P), device=device), torch.arange(len(self.mask_BT), device=device)
        return Benches(self.row_P, (Group(token_P, row_B, place_P, self.mask_BT),), Some.of(token_P))

    def pack(self, x_BTD: Tensor) -> Tensor:
        """[P, D]"""
        return self.place.of_list(x_BTD.flatten(0, 1))

    def unpack(self, x_PD: Tensor) -> Tensor:
        """[B, T, D]; zero in the padding."""
        x_BTD = self.place.back(x_PD, self.mask_BT.numel()).unflatten(0, tuple(self.mask_BT.shape))
        return x_BTD.masked_fill(~self.mask_BT[..., None], 0) if self.place.is_all else x_BTD

    def which(self, is_meant_BT: Tensor) -> Some:
        """Which of the packed tokens are meant."""
        return Some.of(is_meant_BT.flatten()[self.place.index_R[: self.place.real]].nonzero()[:, 0])

    def only(self, some: Some) -> Packing:
        return Packing(Some(self.place.index_R[some.index_R], some.real), self.mask_BT)
