"""What SOHO does beside what every system keeps: two optimisers, what it asks, the published sizes."""

import pytest
import torch
from pydantic import ValidationError
from test_every_system import TOKENIZER, Case
from torch.optim import SGD, AdamW

from diptych.contracts import IGNORE
from diptych.systems.soho import SOHO, paper, released
from diptych.train.optim import Optimizers


@pytest.fixture
def case() -> Case:
    return Case("soho")


def test_the_cnn_learns_by_sgd_and_the_rest_by_adamw(case):
    system = case.build()
    sgd, adamw = Optimizers(system, case.recipe.train).optimizers
    assert isinstance(sgd, SGD)
    assert isinstance(adamw, AdamW)
    of_sgd = [id(p) for group in sgd.param_groups for p in group["params"]]
    assert of_sgd == [id(p) for p in system.image.parameters()]
    assert {group["weight_decay"] for group in sgd.param_groups} == {1e-4}
    assert {group["weight_decay"] for group in adamw.param_groups} == {case.recipe.train.weight_decay, 0}


def test_cells_of_one_word_are_hidden_together_and_by_row(case):
    """What reaches the fusion encoder: as a whole pass, but for the hidden cells, which tell their place alone."""
    system = case.build().eval()
    batch = case.batch(system)
    reached = []
    system.fusion.register_forward_pre_hook(lambda _, given: reached.append(given[2].token_IVD))
    with torch.no_grad():
        system(batch)
        system.fuse(batch)
        mixed, index_IV = system.spell(batch)
        place_BVD = system.neck.placed(mixed._replace(token_IVD=system.mvm.hidden_D.expand_as(mixed.token_IVD))).token_IVD
    of_B = batch.image_of_BN[:, 0]
    hidden_BVD, whole_IVD = reached
    differs_BV = (hidden_BVD != whole_IVD[of_B]).any(2) & mixed.mask_IV[of_B]
    for b, i in enumerate(of_B.tolist()):
        words = index_IV[i][differs_BV[b]].unique()
        assert len(words) == 1
        assert torch.equal(differs_BV[b], index_IV[i] == words)
        torch.testing.assert_close(hidden_BVD[b][differs_BV[b]], place_BVD[i][differs_BV[b]])
    pairs = [b for b in range(1, len(of_B)) if of_B[b] == of_B[b - 1]]
    assert any(not torch.equal(differs_BV[b], differs_BV[b - 1]) for b in pairs), "captions of one picture hide different cells"


def test_mismatched_pairs_are_asked_for_words_and_cells_or_not(case):
    batches = []
    for asks in (True, False):
        case.recipe = case.recipe.model_copy(update={"system": case.recipe.system.model_copy(update={"mask_on_negatives": asks})})
        system = case.build()
        batches.append(case.batch(system))
        assert {name: term.count for name, term in system(batches[-1]).items()} == batches[-1].counts
    both, matches = batches
    is_match_B = both.labels["itm"] == 1
    assert 0 < is_match_B.sum() < len(is_match_B)
    assert torch.equal(both.text_BT, matches.text_BT)
    assert torch.equal(both.labels["mlm"][is_match_B], matches.labels["mlm"][is_match_B])
    assert (matches.labels["mlm"][~is_match_B] == IGNORE).all()
    assert (both.labels["mlm"][~is_match_B] != IGNORE).any()
    assert torch.equal(both.labels["mvm"], matches.labels["mvm"]), "what is hidden must not tell matches from mismatches"
    assert matches.counts["mvm"] == is_match_B.sum() < both.counts["mvm"]


def test_without_masked_visual_words(case):
    case.recipe = case.recipe.model_copy(update={"system": case.recipe.system.model_copy(update={"mvm": None})})
    system = case.build()
    assert list(system(case.batch(system))) == ["mlm", "itm"]


def test_without_a_dictionary_cells_go_into_the_stream_as_they_are(case):
    bare = case.recipe.system.model_copy(update={"mvm": None, "dictionary": None})
    case.recipe = case.recipe.model_copy(update={"system": bare})
    system = case.build().eval()
    batch = case.batch(system)
    assert list(system(batch)) == ["mlm", "itm"]
    assert not any("dictionary" in name or "neck.align" in name for name in system.state_dict())
    with torch.no_grad():
        cells = system.image(batch.images)
        assert torch.equal(system.see(batch).token_IVD, system.neck.placed(cells).token_IVD)
    system.train()(batch)
    system.after_step()
    with pytest.raises(ValidationError, match="set mvm=null too"):
        SOHO.Config.model_validate({**bare.model_dump(), "mvm": {}})


def test_a_step_that_fails_leaves_dictionary_and_norms(case):
    system = case.build().train()
    before = {name: buffer.clone() for name, buffer in system.named_buffers()}
    system(case.batch(system))
    system.discard_step()
    system.after_step()
    assert all(torch.equal(buffer, before[name]) for name, buffer in system.named_buffers())


def test_published_sizes():
    """ResNet-101 (42.5 M without its classifier) and BERT-base's 12 layers (85.1 M), and what joins them."""
    with torch.device("meta"):
        systems = [SOHO(preset().system, TOKENIZER) for preset in (paper, released)]
    of_part = [{name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()} for system in systems]
    project = 2048 * 768 + 2 * 768
    norms = 2 * sum(m.weight.numel() for m in systems[0].image.modules() if type(m).__name__ == "FrozenBatchNorm2d")
    resnet101 = 44_549_160 - 2_049_000  # torchvision's count, less fc; its norms have parameters
    assert of_part[0]["image"] + norms == resnet101 + project
    assert of_part[0]["fusion"] == 12 * 7_087_872 + 2 * 768
    assert of_part[1]["fusion"] == 3 * 7_087_872 + 2 * 768
    assert systems[0].dictionary.word_KD.shape == (2048, 768)
    assert of_part[0]["mlm"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", [paper, released])
def test_the_published_system_takes_a_step(preset):
    """On pictures of 128 px: finite, and everything that learns has a gradient."""
    recipe = preset()
    image = recipe.data.image.model_copy(update={"short": 128, "long": 128})
    dictionary = recipe.system.dictionary.model_copy(update={"collapsed": 0})  # three pictures have few cells for 2048 words
    mvm = recipe.system.mvm.model_copy(update={"rate": 1.0})
    system = recipe.system.model_copy(update={"mvm": mvm, "dictionary": dictionary})
    case = Case("soho")
    case.recipe = recipe.model_copy(update={"system": system, "data": recipe.data.model_copy(update={"image": image})})
    model = case.build().train()
    batch = case.batch(model, range(3))
    terms = model(batch)
    torch.stack([term.sum / term.count for term in terms.values()]).sum().backward()
    model.after_step()
    for name, p in model.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.isfinite().all()), name
