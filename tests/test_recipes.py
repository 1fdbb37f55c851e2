"""Every file of recipes/ is a change that its preset takes, and its header says what a reader has to know before days are spent."""

import re
from pathlib import Path

import pytest

from diptych import config, find

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
every_recipe = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_every_published_system_has_one():
    assert {file.stem for file in FILES} >= {
        "vilt",
        "soho",
        "uniter",
        "vinvl",
        "detector",
        "align",
        "e2e_vlp",
        "kd_vlp",
        "mural",
        "bert",
        "simclr",
        "moco",
    }


@every_recipe
def test_it_changes_its_preset_and_nothing_that_is_not_there(file: Path):
    found = find.system(f"{file.stem}:paper")
    changes = config.from_file(file)
    recipe = config.resolve(found.recipe, changes)
    assert changes
    assert recipe != found.recipe
    assert recipe.train.steps == found.recipe.train.steps, "as published"
    assert recipe.train.batch_size == found.recipe.train.batch_size, "as published"


@every_recipe
def test_its_header_can_be_followed(file: Path):
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    fields = dict(match.groups() for line in header if (match := re.match(r"#   (\w+) +(.*)", line)))
    assert {*fields} == {"Command", "Hardware", "Hours", "Published"}
    assert f"pretrain {file.stem}:paper --config recipes/{file.name}" in fields["Command"]
    text = "\n".join(header)
    assert "an estimate" in text
    assert "The paper's, not ours" in text
    gpus = int(re.search(rf"plan {file.stem}:paper --config recipes/{file.name} --gpus (\d+)", text).group(1))
    per_node, nodes = re.search(r"--nproc-per-node (\d+)", text), re.search(r"--nnodes (\d+)", text)
    assert int(per_node.group(1)) * int(nodes.group(1) if nodes else 1) == gpus
    train = find.system(f"{file.stem}:paper").recipe.train
    assert train.batch_size % (gpus * train.accumulate) == 0
    assert re.match(r"[\d.,]+ hours|[\d,]+ days", fields["Hours"])
    for kind in re.findall(r"--data (\w+):", text):
        assert kind in find.catalogue("data")
    assert ("--regions" in text) == bool(
        find.system_class(file.stem).reads_regions or find.system_class(file.stem).taught_by_regions
    )
