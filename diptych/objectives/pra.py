"""Phrase-region alignment (KD-VLP, 2021): which of the things that a detector saw does a phrase mean?

    p_j  mean of the encoded tokens of phrase j;   b_n  mean of the encoded cells under region n, by area
    prediction  s_jn = softmax over n of cos(p_j, b_n) / temperature
    target      t_jn = softmax over n of cos(E(p_j), E(l_n)) / target_temperature,   E(.) the mean of word embeddings, no gradient
    L = mean over phrases of true pairs of KL(t_j || s_j)

l_n is what the detector most likely calls region n. Phrases are those that the data marks as objects; a text without any is
searched for the detector's own class names, the longest first. Nobody says which region a phrase means: names that are near the
phrase say it, and where two regions have one name, both are meant. So `accuracy` is the share of phrases that are taken for a
region of the likeliest name, whichever of several it is.

A reconstruction: the paper's text and code were not at hand. The space E is ours (the system's own word vectors; the paper's is
unknown), and so are both temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from diptych import config
from diptych.contracts import IGNORE, Batch, Fused, LossTerm
from diptych.draw import Draw
from diptych.nn.box import pool
from diptych.objectives import example_rows, hidden_regions


class Taken(NamedTuple):
    """P phrases of a batch and the regions of their pictures."""

    row_P: Tensor
    picture_P: Tensor
    part_PT: Tensor  # each token's share of the phrase
    log_s_PR: Tensor
    hidden_PR: Tensor  # bool: no region there


class PRA(nn.Module):
    _name_KL: Tensor

    class Config(config.Config):
        kinds: tuple[str, ...] = ("object", "")  # of marked phrases, those that name a thing; "": marked without a kind
        temperature: PositiveFloat = 0.1
        target_temperature: PositiveFloat = 1.0
        weight: PositiveFloat = 1.0

        def build(self, name_KL: Tensor) -> PRA:
            """`name_KL`: tokens of the detector's class names, "background" first, -1 after the last of each."""
            return PRA(self, name_KL)

    def __init__(self, config: Config, name_KL: Tensor):
        super().__init__()
        self.config = config
        self.register_buffer("_name_KL", name_KL, persistent=False)
        names = ((tuple(t for t in name if t >= 0)) for name in name_KL[1:].tolist())
        self._names = sorted(set(names), key=lambda name: (-len(name), name))

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """`labels["pra"]` [B, T]: the number of a token's phrase. After texts are swapped, before words are hidden."""
        label_BT = torch.full_like(batch.text_BT, IGNORE)
        phrases = 0
        picture_B = None if batch.image_of_BN is None else batch.image_of_BN[:, 0]
        is_match_B = batch.labels["itm"] == 1 if "itm" in batch.labels else torch.ones(len(batch), dtype=torch.bool)
        for b, is_match in enumerate(is_match_B.tolist()):
            picture = -1 if picture_B is None else int(picture_B[b])
            if not is_match or picture < 0 or batch.regions is None or batch.regions.mask_IR[picture].sum() < 2:
                continue  # of one region nothing is to be chosen
            for j, (start, end) in enumerate(self.phrases(batch, b)):
                label_BT[b, start:end] = j
                phrases += 1
        return replace(batch, labels={**batch.labels, "pra": label_BT}, counts={**batch.counts, "pra": float(phrases)})

    def phrases(self, batch: Batch, b: int) -> list[tuple[int, int]]:
        """Token spans of one row that do not overlap."""
        spans: list[tuple[int, int]] = []
        for phrase in sorted(batch.phrases[b] if batch.phrases else (), key=lambda phrase: (phrase.start, phrase.end)):
            if phrase.kind in self.config.kinds and (not spans or phrase.start >= spans[-1][1]):
                spans.append((phrase.start, phrase.end))
        return spans or found(batch.text_BT[b].tolist(), batch.word_BT[b].tolist(), self._names)

    def taken(self, fused: Fused, batch: Batch) -> Taken:
        """Which region each phrase is taken for."""
        regions, label_BT = batch.regions, batch.labels["pra"]
        assert regions is not None and batch.image_of_BN is not None
        most = int(label_BT.max()) + 1 if (label_BT >= 0).any() else 1
        is_part_BJT = (label_BT[:, None] == torch.arange(most, device=label_BT.device)[:, None]).to(fused.text_BTD.dtype)
        b_P, j_P = is_part_BJT.any(2).nonzero(as_tuple=True)
        part_PT = is_part_BJT[b_P, j_P]
        part_PT = part_PT / part_PT.sum(1, keepdim=True)
        phrase_PD = (part_PT[:, None] @ fused.text_BTD[b_P])[:, 0]
        picture_B = batch.image_of_BN[:, 0].clamp(min=0)
        region_BRD = pool(fused.image_BVD, fused.image_mask_BV, fused.box_BV4, regions.box_IR4[picture_B])
        hidden_PR = ~regions.mask_IR[picture_B[b_P]]
        cosine_PR = F.cosine_similarity(phrase_PD[:, None].float(), region_BRD[b_P].float(), dim=2)
        log_s_PR = (cosine_PR / self.config.temperature).masked_fill(hidden_PR, -torch.inf).log_softmax(1)
        return Taken(b_P, picture_B[b_P], part_PT, log_s_PR, hidden_PR)

    def forward(self, fused: Fused, batch: Batch, word_KD: Tensor) -> LossTerm:
        """`word_KD`: the word embeddings."""
        b_P, picture_P, part_PT, log_s_PR, hidden_PR = self.taken(fused, batch)
        assert batch.regions is not None and batch.regions.soft_label_IRK is not None
        with torch.no_grad():
            text_BT = batch.text_BT  # words that are hidden from the system are not from its teacher
            if "mlm" in batch.labels:
                text_BT = torch.where(batch.labels["mlm"] != IGNORE, batch.labels["mlm"], text_BT)
            word_PD = (part_PT[:, None].float() @ word_KD[text_BT[b_P]].float())[:, 0]
            name_KD = self.names(word_KD)
            class_PR = batch.regions.soft_label_IRK[picture_P][..., 1:].argmax(-1) + 1
            alike_PR = F.cosine_similarity(word_PD[:, None], name_KD[class_PR], dim=2)
            t_PR = (alike_PR / self.config.target_temperature).masked_fill(hidden_PR, -torch.inf).softmax(1)
        divergence = torch.special.xlogy(t_PR, t_PR) - t_PR * log_s_PR.masked_fill(hidden_PR, 0.0)
        likeliest_P1 = log_s_PR.detach().argmax(1, keepdim=True) if len(b_P) else b_P[:, None]
        right = (t_PR.gather(1, likeliest_P1)[:, 0] >= t_PR.amax(1) - 1e-6).sum()
        count = batch.counts["pra"]
        return LossTerm(divergence.sum() + 0 * fused.text_BTD.sum(), count, self.config.weight, {"accuracy": (right, count)})

    def names(self, word_KD: Tensor) -> Tensor:
        """[classes, D] the mean word vector of each class name."""
        is_token_KL1 = (self._name_KL >= 0)[..., None]
        return (word_KD[self._name_KL.clamp(min=0)].float() * is_token_KL1).sum(1) / is_token_KL1.sum(1)


def found(tokens: Sequence[int], words: Sequence[int], names: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Spans of whole words that spell a name, from the left, the longest name first. A special token, of no word, stands first."""
    spans, start = [], 0
    while start < len(tokens):
        end = next((start + len(name) for name in names if tuple(tokens[start : start + len(name)]) == name), start)
        is_whole = end > start and words[start] >= 0 and words[start - 1] != words[start]
        if is_whole and (end == len(tokens) or words[end] != words[end - 1]):
            spans.append((start, end))
            start = end
        else:
            start += 1
    return spans


class _Example(PRA):
    """With word vectors that stay."""

    def forward(self, fused: Fused, batch: Batch) -> LossTerm:  # pyright: ignore[reportIncompatibleMethodOverride]
        random = torch.Generator().manual_seed(6)
        return super().forward(fused, batch, torch.randn(example_rows.VOCAB, example_rows.WIDTH, generator=random))


def example() -> tuple[PRA, Fused, Batch]:
    name_KL = torch.tensor([[9, -1], [10, -1], [11, 12], [13, -1], [14, -1], [15, 16]])
    assert len(name_KL) == hidden_regions.CLASSES
    return _Example(PRA.Config(), name_KL), example_rows.fused(), hidden_regions.rows()
