"""UNITER: what is drawn for a step, and what is hidden from whom."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_every_system import Case, Samples

from diptych.config import UserError
from diptych.contracts import IGNORE
from diptych.draw import Draw
from diptych.systems.uniter import OF_REGIONS, UNITER


def test_objectives_are_drawn_in_the_published_proportions():
    system = Case("uniter").build()
    drawn = Counter(system.drawn(step, Draw(0)) for step in range(6000))
    assert {name: round(6 * count / 6000, 1) for name, count in drawn.items()} == pytest.approx(
        {"mlm": 2, "itm": 2, "mrfr": 1, "mrc_kl": 1}, abs=0.11
    )


def test_a_step_hides_words_or_regions_and_never_both():
    case = Case("uniter")
    system, draw = case.build().eval(), Draw(3)
    clean = case.batch(Case("uniter++itm").build())
    clean = replace(clean, labels={}, counts={})
    for step in range(20):
        batch = system.corrupt(replace(clean, step=step), draw)
        names = set(batch.labels) & {"mlm", *OF_REGIONS}
        assert len(names) <= 1
        if names & set(OF_REGIONS):
            assert torch.equal(batch.text_BT, clean.text_BT), "all words are seen"


@pytest.mark.parametrize("name", OF_REGIONS)
def test_a_hidden_feature_cannot_be_seen(name: str):
    """Exchanging the features of hidden regions changes no encoded state; exchanging a seen one does."""
    case = Case(f"uniter++{name}")
    system = case.build().eval()
    batch = case.batch(system)
    is_hidden_BR = batch.labels[name] != IGNORE
    picture_B = batch.image_of_BN[:, 0]
    b = int((is_hidden_BR.sum(1) < batch.regions.mask_IR[picture_B].sum(1)).nonzero()[0, 0])

    def state(exchanged_R: torch.Tensor) -> torch.Tensor:
        feature_IRD = batch.regions.feature_IRD.clone()
        feature_IRD[picture_B[b], exchanged_R] += 7.0
        with torch.no_grad():
            return system.fuse_hiding(
                replace(batch, regions=replace(batch.regions, feature_IRD=feature_IRD)), is_hidden_BR
            ).text_BTD[b]

    nothing_R = torch.zeros_like(is_hidden_BR[b])
    seen_R = ~is_hidden_BR[b] & batch.regions.mask_IR[picture_B[b]]
    assert torch.equal(state(is_hidden_BR[b]), state(nothing_R))
    assert not torch.allclose(state(seen_R), state(nothing_R))


def test_what_is_missing_or_of_another_width_is_told():
    case = Case("uniter")
    with pytest.raises(UserError, match="--regions STORE"):
        UNITER.prepare(UNITER.Config(), [Samples(with_regions=False)], None)
    other = UNITER.Config(image={"features": 2048})
    with pytest.raises(UserError, match=r"system.image.features: 2048 given, but the region store has 8"):
        UNITER.prepare(other, [case.samples], None)
    with pytest.raises(UserError, match=r"system.classes: 1601 given, but the region store has 5"):
        UNITER.prepare(UNITER.Config(classes=1601), [case.samples], None)
    system = case.build()
    batch = case.batch(system)
    narrow = replace(batch.regions, feature_IRD=batch.regions.feature_IRD[..., :4])
    with pytest.raises(UserError, match=r"4 wide, but system.image.features=8"):
        system.see(replace(batch, regions=narrow))
    with pytest.raises(UserError, match="--regions STORE"):
        system.see(replace(batch, regions=None))


def test_joint_masking_hides_the_other_side_too_and_asks_nothing_there():
    case = Case("uniter")
    joint = case.recipe.system.model_copy(update={"masking": "joint"})
    conditional, draw = case.build().eval(), Draw(3)
    case.recipe = case.recipe.model_copy(update={"system": joint})
    system = case.build().eval()
    clean = replace(case.batch(Case("uniter++itm").build()), labels={}, counts={})
    asked = set()
    for step in range(20):
        batch, as_published = (one.corrupt(replace(clean, step=step), draw) for one in (system, conditional))
        (name,) = (name for name in ("itm", "mlm", *OF_REGIONS) if name in batch.counts)
        asked.add(name)
        assert batch.counts == as_published.counts
        assert torch.equal(batch.labels[name], as_published.labels[name])
        if name in OF_REGIONS:
            assert "mlm" not in batch.labels and not torch.equal(batch.text_BT, clean.text_BT)
        if name == "mlm":
            is_hidden_BR = batch.labels["hidden"] != IGNORE
            picture_B = batch.image_of_BN[:, 0]
            assert is_hidden_BR[batch.regions.mask_IR[picture_B].any(1)].any(1).all(), "a region of every row"
            with torch.no_grad():
                hidden, seen = (
                    system.fuse_hiding(batch, part, batch.labels["mlm"] != IGNORE) for part in (is_hidden_BR, is_hidden_BR & False)
                )
                assert torch.equal(system(batch)["mlm"].sum, system.mlm(hidden, batch, system.text.word.weight).sum)
                assert not torch.equal(hidden.text_BTD, seen.text_BTD)
    assert {"mlm", "itm"} < asked and asked & set(OF_REGIONS)
