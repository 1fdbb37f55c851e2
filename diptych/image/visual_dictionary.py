"""A visual dictionary (SOHO, section 3.2): every cell of a picture is the nearest of K learned words.

    h_i = argmin_j |v_i - d_j|            v_i a cell, d_j a word
    f(v_i) = sg(d_h_i - v_i) + v_i        the word forward, the cell's own gradient backward ("straight-through")

Words learn no gradients; they follow the cells that chose them, by moving counts and sums (as in VQ-VAE), over all ranks:

    n_j <- decay n_j + (1 - decay) count_j        a_j <- decay a_j + (1 - decay) sum of the v_i with h_i = j
    d_j = a_j / n~_j,    n~_j = (n_j + eps) / (N + K eps) N,    N = sum of n_j

A training step reads the words as the step before left them: `forward` only stages counts and sums, `commit` folds them in when
the step has succeeded, `discard` drops them. The released code moves the words within the forward pass, so that places and words
are of two dictionaries. It also starts n and a at zero, which makes a zero vector of every word that the first step does not use:
here they start at 1 and the word, unless `start="zero"`. A picture counts once, however many captions it has: with as many
captions for every picture, as published, only the smoothing would differ.

A word that no cell chooses stays behind, and few words may end up with all the cells. `revive` (ours; off as published) moves the
most forgotten words of a step to the cells that their words describe worst, as k-means refills an empty cluster. Where
perplexity, the number of words in even use that would be as hard to guess, falls below `collapsed` of K, a warning says so once.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from diptych import config, dist
from diptych.contracts import IGNORE
from diptych.nn.exact import exact

EPS = 1e-5
FORGOTTEN = 0.01  # a word is, when its moving count falls below this share of the mean one


class Spelled(NamedTuple):
    """Cells as words."""

    word_IVD: Tensor
    index_IV: Tensor  # int64; IGNORE in the padding


class VisualDictionary(nn.Module):
    word_KD: Tensor
    count_K: Tensor
    sum_KD: Tensor

    class Config(config.Config):
        words: PositiveInt = 2048
        decay: float = Field(default=0.99, ge=0, lt=1)
        start: Literal["word", "zero"] = "word"  # of the moving counts and sums
        revive: NonNegativeInt = 0  # at most so many forgotten words a step
        frozen: bool = False  # words stay as they are, for fine-tuning
        collapsed: float = Field(default=0.01, ge=0, lt=1)

        def build(self, width: int) -> VisualDictionary:
            return VisualDictionary(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config
        self.register_buffer("word_KD", torch.randn(config.words, width))
        is_warm = float(config.start == "word")
        self.register_buffer("count_K", torch.full((config.words,), is_warm))
        self.register_buffer("sum_KD", self.word_KD * is_warm)
        self._staged: list[Tensor] = []  # of each micro-step [K, 1 + D]: counts and sums
        self._odd: list[Tensor] = []  # of each micro-step [revive, 1 + D]: distances and the cells that have them
        self._has_warned = False

    def forward(self, cell_IVD: Tensor, mask_IV: Tensor) -> Spelled:
        with exact(cell_IVD):  # distances of bf16 cells tie, and sums lose their small parts
            real_PD = cell_IVD[mask_IV].float()
            away_PK = torch.cdist(real_PD.detach(), self.word_KD, compute_mode="use_mm_for_euclid_dist")
            distance_P, index_P = away_PK.min(1)
            if self.training and not self.config.frozen:
                self.stage(real_PD.detach(), index_P, distance_P)
            word_PD = (self.word_KD[index_P] - real_PD).detach() + real_PD
        index_IV = torch.full_like(mask_IV, IGNORE, dtype=torch.int64).masked_scatter(mask_IV, index_P)
        word_IVD = torch.zeros_like(cell_IVD, dtype=torch.float32).masked_scatter(mask_IV[..., None], word_PD)
        return Spelled(word_IVD.to(cell_IVD.dtype), index_IV)

    def stage(self, cell_PD: Tensor, index_P: Tensor, distance_P: Tensor) -> None:
        # a product, not index_add_, whose order of additions on GPUs is not the same twice
        chosen_PK = F.one_hot(index_P, self.config.words).to(cell_PD.dtype)
        self._staged.append(torch.cat([chosen_PK.sum(0)[:, None], chosen_PK.T @ cell_PD], 1))
        if self.config.revive:
            found = distance_P.topk(min(self.config.revive, len(distance_P)))
            odd_RD = torch.cat([found.values[:, None], cell_PD[found.indices]], 1)
            self._odd.append(F.pad(odd_RD, (0, 0, 0, self.config.revive - len(odd_RD))))  # a distance of 0 is last in any order

    @torch.no_grad()
    def commit(self) -> None:
        if not self._staged:
            return
        seen_KD = dist.sum_tensor(torch.stack(self._staged).sum(0))
        self.count_K.lerp_(seen_KD[:, 0], 1 - self.config.decay)
        self.sum_KD.lerp_(seen_KD[:, 1:], 1 - self.config.decay)
        if self.config.revive:
            self.revive()
        total = self.count_K.sum()
        smooth_K = (self.count_K + EPS) / (total + self.config.words * EPS) * total
        self.word_KD.copy_(self.sum_KD / smooth_K[:, None])
        self.discard()
        self.warn()

    def discard(self) -> None:
        self._staged.clear()
        self._odd.clear()

    def revive(self) -> None:
        """The farthest cells of all ranks become words, in the place of the most forgotten ones, with a mean count to live on."""
        mine_RD = torch.cat(self._odd)
        odd_SRD = mine_RD.new_zeros(dist.size(), *mine_RD.shape)
        odd_SRD[dist.rank()] = mine_RD
        odd_RD = dist.sum_tensor(odd_SRD).flatten(0, 1)
        odd_RD = odd_RD[odd_RD[:, 0].argsort(descending=True, stable=True)[: self.config.revive]]
        mean = self.count_K.mean()
        place_R = self.count_K.argsort(stable=True)[: len(odd_RD)]
        place_R = place_R[self.count_K[place_R] < FORGOTTEN * mean]
        self.count_K[place_R] = mean
        self.sum_KD[place_R] = odd_RD[: len(place_R), 1:] * mean

    def perplexity(self) -> Tensor:
        p_K = self.count_K / self.count_K.sum().clamp(min=EPS)
        return torch.special.entr(p_K).sum().exp()

    def metrics(self) -> dict[str, tuple[Tensor, float]]:
        """For the log: which share of the words is in use, and how many words in even use that amounts to."""
        used = (self.count_K >= FORGOTTEN * self.count_K.mean()).float().mean()
        return {"words_used": (used, 1.0), "word_perplexity": (self.perplexity(), 1.0)}

    def warn(self) -> None:
        perplexity = self.perplexity().item()
        if perplexity < self.config.collapsed * self.config.words and not self._has_warned and dist.is_first():
            self._has_warned = True
            warnings.warn(
                f"the visual dictionary collapses: its {self.config.words} words are used as {perplexity:.1f} would be. "
                "Move idle words with system.dictionary.revive, or ask for fewer with system.dictionary.words",
                stacklevel=2,
            )
