"""What a detector teaches a grid (OMVM, PRA) against loops over rows, cells, regions and phrases."""

import math
from dataclasses import replace

import pytest
import torch

from diptych.contracts import IGNORE, Phrase
from diptych.draw import Draw
from diptych.objectives import example_rows, omvm, pra


def common(a: list[float], b: list[float]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def under(fused, b: int, box: list[float]) -> torch.Tensor:
    """Mean of a row's cells under a box, by the share of each cell that lies there."""
    total, weights = 0.0, 0.0
    for v in fused.image_mask_BV[b].nonzero()[:, 0].tolist():
        cell = fused.box_BV4[b, v].tolist()
        size = (cell[2] - cell[0]) * (cell[3] - cell[1])
        total, weights = total + common(cell, box) / size * fused.image_BVD[b, v], weights + common(cell, box) / size
    return total / weights


def test_an_object_is_hidden_whole_and_its_feature_and_class_asked_for():
    _, fused, batch = omvm.example()
    objective = omvm.OMVM(omvm.OMVM.Config(feature_weight=2.0), example_rows.WIDTH, 10, 6)
    batch = objective.corrupt(batch, Draw(4))
    hidden_BVD = objective.hide(fused.image_BVD, fused.image_mask_BV, fused.box_BV4, batch)
    term, expected, drawn = objective(fused, batch), 0.0, set()
    for b in range(len(batch)):
        (r,) = (batch.labels["omvm"][b] == omvm.ASKED).nonzero()[:, 0].tolist()
        picture = int(batch.image_of_BN[b, 0])
        assert batch.regions.mask_IR[picture, r]
        drawn.add(r)
        box = batch.regions.box_IR4[picture, r].tolist()
        for v in range(fused.image_BVD.shape[1]):
            x1, y1, x2, y2 = cell = fused.box_BV4[b, v].tolist()
            touched = bool(fused.image_mask_BV[b, v]) and common(cell, box) > 0.01 * (x2 - x1) * (y2 - y1)
            wanted_D = objective.hidden_D if touched else fused.image_BVD[b, v]
            assert torch.equal(hidden_BVD[b, v], wanted_D), (b, v)
        state_D = under(fused, b, box)
        feature_F, q_K = batch.regions.feature_IRD[picture, r], batch.regions.soft_label_IRK[picture, r]
        expected += 2 * (objective.feature(state_D) - feature_F).square().mean().item()
        p_K = torch.distributions.Categorical(logits=objective.of_class(state_D))
        expected += torch.distributions.kl_divergence(torch.distributions.Categorical(probs=q_K), p_K).item()
    assert term.sum.item() == pytest.approx(expected, rel=1e-4)
    assert len(drawn) > 1


def test_what_is_hidden_and_not_asked_for_is_hidden():
    objective, fused, batch = omvm.example()
    batch = objective.corrupt(batch, Draw(4))
    label_BR = torch.where(batch.labels["omvm"] == omvm.ASKED, omvm.HIDDEN, IGNORE)
    quiet = replace(batch, labels={**batch.labels, "omvm": label_BR}, counts={**batch.counts, "omvm": 0.0})
    hide = [objective.hide(fused.image_BVD, fused.image_mask_BV, fused.box_BV4, rows) for rows in (batch, quiet)]
    assert torch.equal(*hide)
    assert objective(fused, quiet).sum.item() == 0


@pytest.mark.parametrize("target_temperature", [1.0, 0.1])
def test_phrases_are_drawn_to_regions_of_like_names(target_temperature: float):
    example, fused, batch = pra.example()
    objective = pra.PRA(pra.PRA.Config(target_temperature=target_temperature), example._name_KL)
    marked = tuple((Phrase(1, 3, "object"), Phrase(3, 4, "colour"), Phrase(3, 5, "object", 0))[: 1 + 2 * (b % 2)] for b in range(6))
    batch = objective.corrupt(replace(batch, phrases=marked), Draw(0))
    word_KD = torch.randn(example_rows.VOCAB, 16, generator=torch.Generator().manual_seed(8))
    term, expected, phrases = objective(fused, batch, word_KD), 0.0, 0
    for b in range(6):
        picture = int(batch.image_of_BN[b, 0])
        for phrase in marked[b]:
            if phrase.kind != "object" or batch.labels["itm"][b] != 1:
                continue
            phrases += 1
            state_D = fused.text_BTD[b, phrase.start : phrase.end].mean(0)
            said_D = word_KD[batch.text_BT[b, phrase.start : phrase.end]].mean(0)
            scores, likes = [], []
            for r in batch.regions.mask_IR[picture].nonzero()[:, 0].tolist():
                name = max(range(1, 6), key=lambda k: batch.regions.soft_label_IRK[picture, r, k].item())
                name_D = word_KD[[t for t in objective._name_KL[name].tolist() if t >= 0]].mean(0)
                cosine = torch.cosine_similarity(state_D, under(fused, b, batch.regions.box_IR4[picture, r].tolist()), dim=0)
                scores.append(cosine.item() / 0.1)
                likes.append(torch.cosine_similarity(said_D, name_D, dim=0).item() / target_temperature)
            s, t = (torch.tensor(x).softmax(0).tolist() for x in (scores, likes))
            expected += sum(q * math.log(q / p) for q, p in zip(t, s, strict=True))
    assert term.count == phrases == batch.counts["pra"] > 2
    assert term.sum.item() == pytest.approx(expected, rel=1e-4)


def test_unmarked_texts_are_searched_for_names_the_longest_first():
    names = [(11, 12), (15, 16), (11,), (9,)]
    assert pra.found([1, 11, 12, 9, 2], [-1, 0, 1, 2, -1], names) == [(1, 3), (3, 4)]
    assert pra.found([1, 11, 13, 15, 2], [-1, 0, 1, 2, -1], names) == [(1, 2)]
    assert pra.found([1, 9, 30, 2], [-1, 0, 0, -1], names) == [], "only the first piece of a longer word"
    assert pra.found([1, 30, 9, 2], [-1, 0, 0, -1], names) == [], "only its last piece"
