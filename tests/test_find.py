"""Names lead to things: a file that exists can be run, from inside the package or from a directory of the user's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import diptych
from diptych import find
from diptych.config import UserError
from diptych.contracts import System, Task
from diptych.data import coco_captions, visual_genome
from diptych.train import run

SYSTEMS = [f"{name}:{preset}" for name, entry in find.catalogue("systems").items() for preset in entry.presets]


@pytest.mark.parametrize("spec", SYSTEMS)
def test_every_listed_preset_is_a_recipe_that_can_be_saved_and_read(spec: str):
    found = find.system(spec)
    assert issubclass(found.cls, System)
    assert isinstance(found.recipe.system, found.cls.Config)
    assert find.recipe(found.recipe.model_dump(mode="json"), found.name) == found.recipe


@pytest.mark.parametrize("name", [name for name in find.catalogue("tasks") if hasattr(find.task(name), "finetuning")])
@pytest.mark.parametrize("spec", ["vilt:tiny", "vilt:paper"])
def test_every_listed_task_fine_tunes_any_recipe(name: str, spec: str):
    task = find.task_class(name)
    assert issubclass(task, Task)
    recipe = find.task(name).finetuning(find.system(spec).recipe)
    assert isinstance(recipe.task, task.Config)
    assert find.recipe(recipe.model_dump(mode="json"), "vilt", name) == recipe
    assert any(task.purpose in entry.purposes for entry in find.catalogue("data").values())


def test_objectives_are_facts_of_systems():
    assert not [name for name, entry in find.catalogue("objectives").items() if "objectives" in entry.facts()]
    assert {"itm", "mlm"} <= set(find.catalogue("systems")["vilt"].objectives)


@pytest.mark.parametrize("name", find.catalogue("data"))
def test_every_listed_reader_refuses_what_is_not_its_own(name: str, tmp_path: Path):
    reader = find._reader_class(name)
    (tmp_path / "file").write_bytes(b"\x00")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "file", tmp_path / "empty", tmp_path / "none"):
        assert not reader.recognises(path)
    assert find.catalogue("data")[name].needs, "a refusal tells what would be read"


def test_a_system_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of ViLT outside the package is found, trained, and loaded again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    source = (Path(find.__file__).parent / "systems" / "vilt.py").read_text(encoding="utf-8")
    Path("my_lab").mkdir()
    Path("my_lab/my_system.py").write_text(source, encoding="utf-8")
    coco_captions.example(tmp_path / "coco")
    found = find.system("my_lab.my_system:tiny")
    train = found.recipe.train.model_copy(update={"steps": 1, "batch_size": 4})
    sources = find.readers(["coco"], "val", "pretrain")
    run.pretrain(found.recipe.model_copy(update={"train": train}), found.cls, sources, tmp_path / "mine", quiet=True, trackers=())
    assert type(diptych.load("./mine").system).__module__ == "my_lab.my_system"
    del sys.modules["my_lab.my_system"], sys.modules["my_lab"]  # other tests are told that there is none


def test_a_module_without_a_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("nothing_here.py").write_text("def tiny() -> 'Recipe': ...\n")
    with pytest.raises(UserError, match="exactly one System"):
        find.system("nothing_here")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("scenes", (None, "scenes", None)),
        ("my/pictures@2", (None, "my/pictures", 2.0)),
        ("coco_captions:/data/coco@0.5", ("coco_captions", "/data/coco", 0.5)),
        ("someone@home", (None, "someone@home", None)),
        ("C:/pictures", (None, "C:/pictures", None)),
    ],
)
def test_parts_of_a_data_spec(text: str, parts: tuple[str | None, str, float | None]):
    spec = find.parse_spec(text)
    assert (spec.kind, str(spec.path), spec.weight) == parts


def test_all_that_serves_a_purpose_is_read_unless_a_kind_is_named(tmp_path: Path):
    coco_captions.example(tmp_path / "both")
    visual_genome.example(tmp_path / "both")
    both = find.readers([f"{tmp_path}/both@3"], "val", "retrieval")
    assert [source.name for source in both] == [f"{tmp_path}/both@3"]
    assert len(both[0].reader) == 4
    (one,) = find.readers([f"visual_genome:{tmp_path}/both"], "all", "pretrain")
    assert one.weight is None
    with pytest.raises(UserError, match="visual_genome is for documents, pretrain; for retrieval: coco_captions"):
        find.readers([f"visual_genome:{tmp_path}/both"], "all", "retrieval")
    with pytest.raises(UserError, match=r"nothing for vqa in it .*; coco_captions can read it, for documents, pretrain, retrieval"):
        find.readers([f"{tmp_path}/both"], "val", "vqa")


def test_embedded_data_are_made_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from diptych.atelier import make

    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    monkeypatch.setattr(make, "DEFAULT", 300)
    sources = find.readers(["scenes@2"], "train", "pretrain")
    assert f"{tmp_path}/scenes: not there yet" in capsys.readouterr().err
    assert [source.name.partition(":")[0] for source in sources] == ["coco_captions", "visual_genome"]
    assert sum(source.weight or 0 for source in sources) == pytest.approx(2)
    find.readers(["scenes"], "train", "pretrain")
    assert not capsys.readouterr().err
