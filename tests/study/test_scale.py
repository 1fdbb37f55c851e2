"""The scaling study: levers of every system, laws that are known beforehand, and the least study with real commands."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych import cli, config, find
from diptych.atelier import make
from diptych.config import UserError
from diptych.study import laws, scale
from diptych.study.kept import Results
from diptych.study.pasts import PASTS, Budget
from diptych.study.scale import Extent, Options, Plan, Work, ladder, size_settings
from diptych.text import tokenizer as vocabulary
from diptych.train import rehearse

LEAST = Budget("least", "tiny", 40, 32, 16, {"": 30}, steps=dict.fromkeys((*PASTS, "cnn", "vit", "detector"), 4))
EXTENT = Extent(LEAST, (1 / 4, 1), (1 / 2, 1), 128)
ABLE = ("vilt", "soho", "e2e_vlp", "crossgrid", "kd_vlp", "uniter", "vinvl")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make.make(folder / "scenes", small=True, scenes=240)
    return folder


@pytest.fixture
def here(data, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIPTYCH_DATA", str(data))
    return tmp_path


def settings(words) -> dict[str, str]:
    return dict(word.split("=", 1) for option, word in pairwise(words) if option == "--set")


@pytest.mark.parametrize("system", ABLE)
def test_cells_differ_in_their_levers_and_are_asked_the_same(system, here):
    plan = Plan(f"{system}:tiny", EXTENT, Path("out"))
    assert len(plan.cells) == 4 * len(plan.sets) == len({cell.key for cell in plan.cells.values()})
    assert len(plan.sets) == 3
    asked = {tuple(word for word in cell.measuring.words if "out/past" not in word) for cell in plan.cells.values()}
    assert len(asked) == 1 and {cell.pretraining.command.steps for cell in plan.cells.values()} == {4}
    recipes = {place: cell.pretraining.recipe for place, cell in plan.cells.items()}
    assert {recipe.data.limit for recipe in recipes.values()} == set(plan.pictures) and plan.pictures == [16, 64]
    assert {recipe.system.width for recipe in recipes.values()} == {
        find.system(f"{system}:tiny").recipe.system.width // d for d in (1, 2)
    }
    roots = {size: plan.cells[objectives, size, 16].chain.root for objectives, size, _ in plan.cells}
    if PASTS[system].root:
        assert roots[0.5].command.makes != roots[1].command.makes, "each size has a root of its own size"


def shapes(name: str, factor: float) -> dict[str, torch.Size]:
    """Of the weights of a small preset at another size; what data would tell it is told."""
    found = find.system(f"{name}:small")
    recipe = config.resolve(found.recipe, *map(config.from_setting, size_settings(found.recipe, factor)))
    fields = {"features": 16, "names": ("background", "cat"), "classes": 2}
    told = {field: value for field, value in fields.items() if field in type(recipe.system).model_fields}
    for part, more in (("image", {"features": 16}), ("naming", {"names": ("cat",)})):
        inner = getattr(recipe.system, part, None)
        if inner is not None and more.keys() <= type(inner).model_fields.keys():
            told[part] = inner.model_copy(update=more)
    tokenizer = vocabulary.load(recipe.text.vocab)
    body = rehearse.build(lambda: found.cls(recipe.system.model_copy(update=told), tokenizer))
    return {key: tensor.shape for key, tensor in body.state_dict().items()}


@pytest.mark.parametrize("factor", [1 / 4, 1 / 2])
@pytest.mark.parametrize("system", ABLE)
def test_other_sizes_can_be_built_and_roots_keep_fitting(system, factor):
    own, past = shapes(system, factor), PASTS[system]
    assert sum(shape.numel() for shape in own.values()) < 0.7 * sum(shape.numel() for shape in shapes(system, 1).values())
    for root in filter(None, (past.root, past.bert and "bert")):
        theirs = {key: shape for key, shape in shapes(root, factor).items() if key.partition(".")[0] in ("image", "text", "fusion")}
        common = [key for key in theirs if key in own]
        assert common and all(theirs[key][1:] == own[key][1:] for key in common), "tables of positions may be longer"


def test_objectives_join_one_after_another():
    def names(spec: str) -> list[str]:
        found = find.system(spec)
        return list(ladder(found.name, found.recipe))

    assert names("vilt:small") == ["mlm", "mlm + itm", "mlm + itm + wpa"]
    assert names("uniter:small") == ["mlm", "mlm + itm", "mlm + itm + regions"]
    assert names("soho:small") == ["mlm", "mlm + mvm", "mlm + mvm + itm"]
    assert names("kd_vlp:small") == ["mlm", "mlm + itm", "mlm + itm + omvm + pra"]
    assert names("e2e_vlp:small") == ["mlm", "mlm + itm", "mlm + itm + detection + captioning"]


def test_what_has_no_levers_is_refused_and_nothing_is_written(here):
    for spec, said in (
        ("align:tiny", "align guesses no words"),
        ("bert:tiny", "bert: its past is not known"),
        ("vitl", "did you mean"),
    ):
        with pytest.raises(UserError, match=said):
            scale.scale(spec, Options(EXTENT), Path("out"), lambda words: 1)
    assert not Path("out").exists() and not Path("results").exists()


# ------------------------------------------------------------------------------------------------------------------ laws


def noisy_cells(trial: int, exponents=(0.12, 0.05), noise: float = 0.02):
    """Losses by batch of nine cells that follow a law: cells stray from it, batches are hard or easy for all."""
    draws = np.random.default_rng(trial)
    lever_CK = np.array([[pictures, size] for pictures in (500, 2000, 8000) for size in (1e5, 4e5, 16e5)])
    loss_C1 = 5 * np.prod(lever_CK ** -np.array(exponents), 1, keepdims=True) * np.exp(noise * draws.standard_normal((9, 1)))
    count_CB = draws.integers(200, 400, (1, 24)).repeat(9, 0)
    loss_CB = loss_C1 * np.exp(0.2 * draws.standard_normal((1, 24)) + 0.02 * draws.standard_normal((9, 24)))
    return laws.means(list(zip(loss_CB * count_CB, count_CB, strict=True))), lever_CK


def test_a_known_law_is_found_within_its_own_interval_as_often_as_it_says():
    inside = []
    for trial in range(100):
        law = laws.fit(*noisy_cells(trial))
        assert law is not None and law.degrees == 6
        inside += [e.low < true < e.high for e, true in zip(law.exponents, (0.12, 0.05), strict=True)]
    assert 0.92 <= np.mean(inside) <= 1.0


def test_without_noise_of_questions_the_interval_is_the_regressions_own():
    from scipy import stats

    value_RC, lever_CK = noisy_cells(7)
    law = laws.fit(np.repeat(value_RC[:1], 20_001, 0), lever_CK)
    x_CK = np.concatenate([np.ones((9, 1)), -np.log(lever_CK)], 1)
    solution, rest, *_ = np.linalg.lstsq(x_CK, np.log(value_RC[0]), rcond=None)
    errors = np.sqrt(rest[0] / 6 * np.diag(np.linalg.inv(x_CK.T @ x_CK)))
    assert law is not None and law.spread == pytest.approx(np.sqrt(rest[0] / 6))
    for exponent, value, error in zip(law.exponents, solution[1:], errors[1:], strict=True):
        half = stats.t.ppf(0.975, 6) * error
        assert exponent.value == pytest.approx(value)
        assert [exponent.low, exponent.high] == pytest.approx([value - half, value + half], abs=0.05 * half)
    assert law.at(*lever_CK[0]) == pytest.approx(value_RC[0, 0], rel=0.1)


def test_cells_that_decide_no_law_have_none():
    value_RC, lever_CK = noisy_cells(0)
    assert laws.fit(value_RC[:, :3], lever_CK[:3]) is None, "one number of pictures"
    assert laws.fit(value_RC[:, [0, 1, 3]], lever_CK[[0, 1, 3]]) is None, "as many numbers as cells"


# ------------------------------------------------------------------------------------------------------- the least study


@pytest.mark.slow
def test_the_least_study_with_real_commands(here, capsys):
    extent = Extent(LEAST, (1 / 4, 1), (1 / 2, 1), 128)
    done = []

    def call(words) -> int:
        done.append(words)
        return cli.call(words)

    work = Work(Plan("crossgrid:tiny", extent, Path("out")), Results(Path("results")))
    while ready := work.ready():
        command = ready[0]
        command.makes.parent.mkdir(parents=True, exist_ok=True)
        assert call([*command.words]) == 0
        work.ended(command, "", 1.0)
    assert len(work.records) == 12 and not work.lost
    assert sum(words[1] == "cnn:tiny" for words in done) == 2, "a root for each size"
    table = scale.table(work.plan, work)
    assert len(table["laws"]) == 6 and len(table["worth"]) == 4
    by_size = {cell["size"]: cell for cell in table["cells"]}
    assert by_size[1]["flops"] > 2 * by_size[0.5]["flops"] and by_size[1]["parameters"] > 2 * by_size[0.5]["parameters"]
    rows = list(csv.DictReader(io.StringIO(scale.csv_of(table))))
    assert [float(row["loss"]) for row in rows] == [cell["loss"]["value"] for cell in table["cells"]]
    one = work.plan.cells[next(iter(work.records))]
    asked = json.loads((one.pretraining.command.makes.parent / "config.json").read_text())
    assert asked["recipe"]["data"]["limit"] == one.pictures

    def asked_again(*settings: str):
        run = str(one.pretraining.command.makes.parent)
        words = ["evaluate", "objectives", "--from", run, "--split", "val", "--json", "--set", "data.limit=128"]
        capsys.readouterr()
        code = cli.call([*words, *(word for setting in settings for word in ("--set", setting))])
        said = capsys.readouterr()
        return json.loads(said.out)["metrics"] if code == 0 else said.err

    last = list(work.plan.sets)[-1]
    one = work.plan.cells[last, 1, 64]
    few, all_ = asked_again("system.swap=null", "system.itm.negatives=0"), asked_again()
    cell = next(cell for cell in table["cells"] if cell["key"] == one.key)
    assert cell["loss"]["value"] == pytest.approx(few["loss/mlm"], rel=1e-4)
    assert cell["error"]["value"] == pytest.approx(1 - few["mlm/accuracy"], abs=1e-4)
    assert "loss/swap" in all_ and "loss/swap" not in few
    assert "has another shape" in asked_again("system.width=16")

    again = scale.scale("crossgrid:tiny", Options(extent, results=Path("results")), Path("elsewhere"), lambda words: 1)
    assert again["cells"] == table["cells"], "kept, and nothing is computed"
    page = Path("elsewhere/report.html").read_text()
    assert page.count('class="curves"') == 6 and "four times" not in page and "4 times the pictures" in page
