"""What every table of published names keeps, found by looking: each `Table` of each module of diptych/weights."""

import importlib
import pkgutil

import pytest
import torch

import diptych.weights
from diptych import find
from diptych.config import UserError
from diptych.weights.rename import Table

MODULES = [importlib.import_module(f"diptych.weights.{found.name}") for found in pkgutil.iter_modules(diptych.weights.__path__)]
TABLES = [
    pytest.param(table, id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in MODULES
    for name, table in vars(module).items()
    if isinstance(table, Table)
]
KINDS = [module.__name__.rpartition(".")[2] for module in MODULES if hasattr(module, "convert")]
LAYERS = 3

every_table = pytest.mark.parametrize("table", TABLES)


@pytest.fixture
def theirs(table: Table) -> dict[str, torch.Tensor]:
    """A file that has everything the table knows, each tensor unlike any other."""
    torch.manual_seed(0)
    return {name: torch.randn((1,) * pair.units + (4, 3)) for pair in table.pairs(LAYERS) for name in pair.theirs}


@every_table
def test_names_on_both_sides_are_names_of_one_thing(table: Table):
    pairs = list(table.pairs(LAYERS))
    for names in ([pair.ours for pair in pairs], [name for pair in pairs for name in pair.theirs]):
        assert len(names) == len(set(names)) > 0
        assert not [name for name in names if set(name) & set("{}* ")]


@every_table
def test_there_and_back_is_every_tensor_as_it_was(table: Table, theirs):
    ours, report = table.to_ours(theirs, LAYERS)
    assert not report
    assert ours.keys() == {pair.ours for pair in table.pairs(LAYERS)}
    assert sum(tensor.numel() for tensor in ours.values()) == sum(tensor.numel() for tensor in theirs.values())
    again, report = table.to_theirs(ours, LAYERS)
    assert not report
    assert again.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert again[name].shape == tensor.shape, name
        assert torch.equal(again[name], tensor), name
        assert again[name].is_contiguous(), name  # safetensors takes no views


@every_table
def test_the_report_is_complete(table: Table, theirs):
    """Whatever single tensor is missing or strange, in either direction, is named; the rest finds its place."""
    ours, _ = table.to_ours(theirs, LAYERS)
    for pair in table.pairs(LAYERS):
        for gone in pair.theirs:
            rest = {name: tensor for name, tensor in theirs.items() if name != gone}
            found, report = table.to_ours({**rest, "strange": torch.zeros(1)}, LAYERS)
            siblings = [name for name in pair.theirs if name != gone]
            assert report.missing == [gone]
            assert report.unexpected == sorted(["strange", *siblings]), "half of a tensor is of no use, and is told"
            assert found.keys() == ours.keys() - {pair.ours}
        rest = {name: tensor for name, tensor in ours.items() if name != pair.ours}
        found, report = table.to_theirs({**rest, "strange": torch.zeros(1)}, LAYERS)
        assert report.missing == [pair.ours]
        assert report.unexpected == ["strange"]
        assert found.keys() == theirs.keys() - set(pair.theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_checkpoint_is_refused_in_a_line(kind: str, tmp_path):
    module = find.weights(kind)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "other.pt").parent.mkdir(exist_ok=True)
    torch.save({"state_dict": {"strange": torch.zeros(2)}}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("nowhere", "empty", "text.ckpt", "other.pt", "list.pt"):
        with pytest.raises(UserError) as refused:
            module.convert(tmp_path / name, tmp_path / "run")
        assert str(tmp_path / name) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()
