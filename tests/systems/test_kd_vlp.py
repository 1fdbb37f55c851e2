"""KD-VLP: a teacher in pre-training, none afterwards."""

from dataclasses import replace

import pytest
import torch
from test_every_system import TOKENIZER, Case, Samples

from diptych.config import UserError
from diptych.contracts import IGNORE
from diptych.draw import Draw
from diptych.objectives.omvm import ASKED, HIDDEN


def test_what_was_taught_needs_no_teacher():
    """The same states with the region store and without; and a system that never had one can be built."""
    case = Case("kd_vlp")
    system = case.build().eval()
    batch = case.batch(system)
    with torch.no_grad():
        with_store, without = system.fuse(batch), system.fuse(replace(batch, regions=None))
    for found, expected in zip(without, with_store, strict=True):
        assert found is None or torch.equal(found, expected)
    from_scratch = case.cls.prepare(
        case.cls.Config(**case.recipe.system.model_dump(exclude={"features", "names"})), [Samples(False)], None
    )
    assert from_scratch.features == 0
    untaught = case.cls(from_scratch, TOKENIZER).eval()
    with torch.no_grad():
        untaught.fuse(replace(batch, regions=None))
    with pytest.raises(UserError, match="--regions STORE"):
        untaught.corrupt(replace(batch, regions=None), Draw(0))


def test_mismatched_pairs_hide_as_much_and_are_asked_nothing_but_whether_they_match():
    case = Case("kd_vlp")
    system = case.build()
    batch = case.batch(system)
    is_match_B = batch.labels["itm"] == 1
    assert 0 < is_match_B.sum() < len(batch)
    assert torch.equal((batch.labels["omvm"] == ASKED).any(1), is_match_B)
    assert torch.equal((batch.labels["omvm"] == HIDDEN).any(1), ~is_match_B)
    assert not (batch.labels["mlm"] != IGNORE)[~is_match_B].any()
    assert not (batch.labels["pra"] != IGNORE)[~is_match_B].any()
    assert (batch.text_BT == TOKENIZER.mask_id)[~is_match_B].any(), "or the gaps would tell"


def test_teachers_of_another_kind_are_told():
    case = Case("kd_vlp")
    other = case.recipe.system.model_copy(update={"features": 2048, "names": ()})
    with pytest.raises(UserError, match=r"system.features: 2048 given, but the region store has 8"):
        case.cls.prepare(other, [case.samples], None)
