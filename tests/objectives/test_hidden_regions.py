"""MRFR, MRC and MRC-KL against loops over rows and regions, and which regions are hidden."""

from dataclasses import replace

import pytest
import torch

from diptych.contracts import IGNORE
from diptych.draw import Draw
from diptych.objectives import hidden_regions, mrc, mrc_kl, mrfr


def hidden(module, name: str):
    """The example, and (row, place) of every hidden region with its state, feature and class probabilities."""
    objective, fused, batch = module.example()
    batch = objective.corrupt(batch, Draw(5))
    places = []
    for b in range(len(batch)):
        picture = batch.image_of_BN[b, 0]
        for r in range(batch.regions.mask_IR.shape[1]):
            if batch.labels[name][b, r] != IGNORE:
                seen = batch.regions.feature_IRD[picture, r], batch.regions.soft_label_IRK[picture, r]
                places.append((fused.image_BVD[b, r], *seen))
    return objective, objective(fused, batch), places


def through(head, x_D: torch.Tensor) -> torch.Tensor:
    return head.norm(torch.nn.functional.gelu(head.dense(x_D)))


def test_features_are_regressed():
    objective, term, places = hidden(mrfr, "mrfr")
    expected = 0.0
    for state_D, feature_F, _ in places:
        found_F = objective.decoder.weight @ through(objective, state_D) + objective.bias
        expected += sum(((found_F[d] - feature_F[d]) ** 2).item() for d in range(len(feature_F))) / len(feature_F)
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.count == len(places) > 6


def test_the_tied_decoder_is_the_matrix_that_embeds():
    objective, fused, batch = mrfr.example()
    batch = objective.corrupt(batch, Draw(5))
    tied = mrfr.MRFR(mrfr.MRFR.Config(), objective.dense.in_features, hidden_regions.FEATURES)
    tied.load_state_dict({name: tensor for name, tensor in objective.state_dict().items() if name != "decoder.weight"})
    embedding_DF = objective.decoder.weight.T
    torch.testing.assert_close(tied(fused, batch, embedding_DF).sum, objective(fused, batch).sum)


def test_hard_labels_leave_background_out():
    objective, term, places = hidden(mrc, "mrc")
    expected, right = 0.0, 0
    for state_D, _, soft_K in places:
        label = max(range(1, len(soft_K)), key=lambda k: soft_K[k].item())
        logits_K = objective.head.decoder.weight @ through(objective.head, state_D) + objective.head.bias
        expected -= logits_K.log_softmax(0)[label].item()
        right += max(range(1, len(soft_K)), key=lambda k: logits_K[k].item()) == label
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.metrics["accuracy"] == (right, len(places))


@pytest.mark.parametrize("per_class", [False, True])
def test_soft_labels_are_a_divergence(per_class: bool):
    objective, _, places = hidden(mrc_kl, "mrc_kl")
    objective.config = mrc_kl.MRCKL.Config(per_class=per_class)
    _, fused, batch = mrc_kl.example()
    term = objective(fused, objective.corrupt(batch, Draw(5)))
    expected = 0.0
    for state_D, _, soft_K in places:
        logits_K = objective.head.decoder.weight @ through(objective.head, state_D) + objective.head.bias
        p_K = torch.distributions.Categorical(logits=logits_K)
        expected += torch.distributions.kl_divergence(torch.distributions.Categorical(probs=soft_K), p_K).item()
    assert term.sum.item() == pytest.approx(expected / (len(soft_K) if per_class else 1), rel=1e-4)
    assert term.sum >= 0


def test_a_share_of_the_regions_is_hidden_and_at_least_one():
    batch = hidden_regions.rows()
    many = replace(
        batch.rows(torch.arange(6).repeat(500)),
        row_B=torch.arange(3000),
    )
    label_BR = hidden_regions.hide("mrc", 0.15, many, Draw(0)).labels["mrc"]
    is_hidden_BR = label_BR != IGNORE
    mask_BR = many.regions.mask_IR[many.image_of_BN[:, 0]]
    assert not (is_hidden_BR & ~mask_BR).any()
    assert is_hidden_BR.any(1).all()
    for regions in (5, 6, 8):  # a row of n hides n * rate, and one more where it would hide none
        of_size_B = mask_BR.sum(1) == regions
        share = is_hidden_BR[of_size_B].sum() / of_size_B.sum()
        assert share.item() == pytest.approx(0.15 * regions + 0.85**regions, abs=0.08)
    bare = replace(many, image_of_BN=torch.full_like(many.image_of_BN, -1))
    assert hidden_regions.hide("mrc", 0.15, bare, Draw(0)).counts["mrc"] == 0
