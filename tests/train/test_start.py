"""More places for pictures than the run that is started from had: the last one's copies; or, where none was needed, nothing."""

import pytest
import torch

from diptych.checkpoint import weights_of
from diptych.config import UserError
from diptych.contracts import System
from diptych.fusion.dual_stream import DualStream
from diptych.fusion.single_stream import SingleStream
from diptych.text.tokenizer import wordpiece
from diptych.train import start

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


def hinge(kind: type, pictures: int) -> System:
    torch.manual_seed(pictures)
    system = System()
    system.fusion = kind.Config(layers=1, heads=2, pictures=pictures).build(8)
    return system


@pytest.mark.parametrize(
    ("kind", "name", "rows"),
    [(SingleStream, "fusion.modality.weight", lambda old: old[[0, 1, 1, 1]]), (DualStream, "fusion.slot.weight", None)],
)
def test_places_that_the_run_did_not_know(kind, name, rows, monkeypatch, tmp_path):
    run, system = hinge(kind, 1), hinge(kind, 3)
    monkeypatch.setattr(start, "weights_of_run", lambda path: weights_of(run))
    start.load_system(system, tmp_path)
    found, known = weights_of(system), weights_of(run)
    expected = torch.zeros(3, 8) if rows is None else rows(known[name])
    assert torch.equal(found.pop(name), expected)
    assert all(torch.equal(tensor, known[other]) for other, tensor in found.items())
    told = []
    start.copy_part(hinge(kind, 3), "fusion", tmp_path, TOKENIZER, told.append)
    assert "left as initialised" not in told[0]


def test_a_hinge_never_forgets_a_place(monkeypatch, tmp_path):
    monkeypatch.setattr(start, "weights_of_run", lambda path: weights_of(hinge(SingleStream, 2)))
    with pytest.raises(UserError, match=r"modality.weight has another shape: \[3, 8\] there, \[2, 8\] in the model"):
        start.load_system(hinge(SingleStream, 1), tmp_path)
    two = hinge(DualStream, 2)
    monkeypatch.setattr(start, "weights_of_run", lambda path: weights_of(two))
    grown = hinge(DualStream, 3)
    start.load_system(grown, tmp_path)
    assert torch.equal(grown.fusion.slot.weight, two.fusion.slot.weight[[0, 1, 1]])
