"""The claims: what is planned for each, the rule, the numbers on hand-made answers, and one that is really carried out."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diptych import cli, config, find
from diptych.atelier import make, names
from diptych.config import UserError, flat
from diptych.study import claims_table, compare
from diptych.study.claims import BLIND, CLAIMS, Claim, Claims, claims, select
from diptych.study.claims_table import CANNOT_TELL, DOES_NOT, FAILED, HOLDS, sooner, verdict
from diptych.study.compare import Work
from diptych.study.kept import Results
from diptych.study.pasts import BUDGETS, LATER, PASTS, WATCHING, Budget, Pasts, digest
from diptych.train.evaluate import Interval, contrast, gain

STEPS = dict.fromkeys((*PASTS, "cnn", "vit", "detector", "bert"), 2)
LEAST = Budget("least", "tiny", 40, 32, 16, {"": 30}, (0.5, 1.0), steps=STEPS)


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


@pytest.fixture
def unread(here, monkeypatch) -> Path:
    """Nothing is hashed, so that a plan of all claims needs no data of 96 languages."""
    monkeypatch.setattr(Pasts, "sha256", lambda self, spec, split, purpose: f"{spec} {split} {purpose}")
    return here


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("budget", [LEAST, *BUDGETS.values()], ids=lambda budget: budget.name)
def test_sides_differ_in_what_the_claim_says_and_in_nothing_else(unread, budget):
    plan = Claims(list(CLAIMS.values()), budget, 2, Path("out"))
    for claim in CLAIMS.values():
        chains = [plan.chain(claim, side) for side in claim.sides]
        assert sum(side.share for side in claim.sides) == 0 and len({side.name for side in claim.sides}) == len(claim.sides)
        one_system = len({chain.system for chain in chains}) == 1
        recipes = [flat(chain.pretraining.recipe.model_dump(mode="json")) for chain in chains]
        said = {config.from_setting(setting)[0].path for side in claim.sides for setting in side.settings}
        if one_system:
            for recipe in recipes[1:]:
                other = {path for path in {**recipe, **recipes[0]} if recipe.get(path, "absent") != recipes[0].get(path, "absent")}
                assert all(any(path[: len(key)] == key for key in said) for path in other), claim.name
                assert not said or other, f"{claim.name}: its sides are the same"
                assert other or any(side.data or side.labels or side.detector for side in claim.sides)
            assert len({chain.pretraining.command.steps for chain in chains}) == 1
            batches = [chain.pretraining.recipe.train.batch_size for chain in chains]
            assert len(set(batches)) == 1 or batches == [128, 64], "as many samples drawn, or as many pictures beside as many pairs"
            assert len({tuple(beside_settings(chain.pretraining.command.words, claim)) for chain in chains}) == 1
            if not any(side.detector for side in claim.sides):
                assert len({tuple(stage.command.makes for stage in chain.before) for chain in chains}) == 1, "the same past"
        cells = [plan.sides[claim.name, side.name] for side in claim.sides]
        assert {len(of_side) for of_side in cells} == {2 if claim.measure.is_tuned else 1}
        assert len({json.dumps(of_side[0].asks) for of_side in cells}) == 1, "asked the same"
        assert any(name.startswith(BLIND) for name in cells[0][0].asks) == claim.measure.has_blind
        if claim.measure.is_tuned:
            drawn = {tuple(len(c.tunings) * [c.asked]) for of_side in cells for c in of_side}
            assert len(drawn) == 1
            tuned = [tuple(word for word in settings(of_side[0]) if not word.startswith("data.limit")) for of_side in cells]
            assert len(set(tuned)) == 1 or not one_system
            limits = [next(w for w in settings(of_side[0]) if w.startswith("data.limit")) for of_side in cells]
            assert limits == [f"data.limit={side.labels or budget.labels or 'null'}" for side in claim.sides]
    systems = {claim.system for claim in CLAIMS.values()}
    assert systems == {"soho", "vilt", "align", "e2e_vlp", "kd_vlp", "mural", "uniter", "vinvl", "bert", "crossgrid"}


def settings(cell) -> list[str]:
    """Of its fine-tuning."""
    words = next(iter(cell.tunings.values())).words
    return [word for option, word in pairwise(words) if option == "--set" and not word.startswith(("train.lr", "train.steps"))]


def beside_settings(words, claim: Claim) -> list[str]:
    """A command without what its sides may differ in: settings, where it goes and, if the claim is about that, data."""
    may = {"--set", "--out", *(("--data",) if any(side.data for side in claim.sides) else ())}
    may |= {"--regions"} if any(side.detector for side in claim.sides) else set()
    return [word for option, word in pairwise(("", *words)) if option not in may and word not in may]


def test_claims_are_named_by_system_or_by_themselves():
    assert [claim.name for claim in select(["uniter"])] == ["uniter-alignment", "uniter-conditional"]
    assert [claim.name for claim in select(["bert-masks", "soho"])] == ["soho-dictionary", "bert-masks"]
    assert len(select([])) == len(CLAIMS)
    with pytest.raises(UserError, match="did you mean 'soho'"):
        select(["sohoo"])


def test_a_key_that_came_later_changes_no_hash_at_the_value_of_before():
    recipe = find.system("uniter:tiny").recipe
    pasts = Pasts(LEAST, Path("out"))
    was = pasts.key((), recipe)
    assert pasts.key((), config.resolve(recipe, config.from_setting("system.masking=joint"))) != was
    assert pasts.key((), config.resolve(recipe, config.from_setting("data.noise=0.1"))) != was
    before = recipe.model_dump(mode="json", exclude={"train": WATCHING})
    for part, key in LATER:
        before[part].pop(key, None)
    assert was == digest({"words": [], "recipe": before, "more": ()})


# --------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("low", "high", "above", "worth", "said"),
    [
        (0.2, 3.0, 0, 1, HOLDS),
        (0.1, 0.8, 0, 1, HOLDS),  # little, but beyond zero
        (-0.5, 0.9, 0, 1, DOES_NOT),
        (-3.0, -0.5, 0, 1, DOES_NOT),
        (-0.5, 1.5, 0, 1, CANNOT_TELL),
        (0.0, 1.0, 0, 1, CANNOT_TELL),
        (-1.9, 0.5, -2, -2, HOLDS),  # costs no more than 2 points
        (-4.0, -2.1, -2, -2, DOES_NOT),
        (-2.5, -1.5, -2, -2, CANNOT_TELL),
        (2.9, 3.4, 10, 10, DOES_NOT),  # sooner, but not tens of times
        (11.0, 14.0, 10, 10, HOLDS),
    ],
)
def test_the_rule(low, high, above, worth, said):
    assert verdict(Interval((low + high) / 2, low, high), above, worth) == said


def test_how_much_sooner():
    random = np.random.default_rng(0)
    ours = 10 + random.random(20)
    found = sooner(ours, 3 * ours)
    assert found == pytest.approx((3, 3, 3)), "pair by pair there is no doubt"
    noisy = sooner(ours, 30 + 10 * random.random(20))
    assert noisy.low < noisy.value < noisy.high and 2.7 < noisy.value < 4


def test_an_effect_of_several_sides_is_the_difference_of_gains():
    random = np.random.default_rng(1)

    def run(right: float) -> list[dict]:
        scores = (random.random(60) < right).astype(float)
        return [{"key": f"{n}", "group": f"{n // 3}", "type": "ab"[n % 2], "score": score} for n, score in enumerate(scores)]

    few, bare, many, rival = ([run(p), run(p)] for p in (0.8, 0.3, 0.9, 0.8))
    effect = contrast([(1, few), (-1, bare), (-1, many), (1, rival), (0, rival)])
    assert effect.value == pytest.approx(gain(few, bare).value - gain(many, rival).value)
    assert contrast([(1, few), (-1, bare)]) == gain(few, bare)
    assert effect.low < effect.value < effect.high


def planned(chosen, out="out", seeds=1) -> Work:
    return Work(Claims(select(chosen), LEAST, seeds, Path(out)), Results(Path("results/claims")))


def runs(work: Work, claim: str, *sides: str) -> set[str]:
    """Where what is judged lies."""
    cells = [cell for side in sides for cell in work.plan.sides[claim, side]]
    return {str(command.makes.parent) for cell in cells for command in cell.tunings.values()}


def pretend(command, better: set[str], blind: float = 0.2) -> None:
    """What the command would have left: where its line names one of `better`, 9 of 10 answers are right, else half of them."""
    command.makes.parent.mkdir(parents=True, exist_ok=True)
    words, run = command.words, command.makes.parent
    if words[0] == "evaluate":
        right = blind if "data.shuffled=true" in words else 0.9 if better & set(words) else 0.5
        scores = [float((37 * n % 100) < 100 * right) for n in range(100)]
        items = [{"key": f"q{n}", "group": f"g{n // 2}", "type": "ab"[n % 2], "score": s} for n, s in enumerate(scores)]
        if words[1] == "objectives":
            sums = {"mlm/accuracy": [0.0, 9.0], "loss/absent": [0.0, 0.0]}
            items = [{"key": item["key"], "sums": {"nsp/accuracy": [64 * item["score"], 64.0], **sums}} for item in items]
        command.makes.write_text("".join(json.dumps(item) + "\n" for item in items))
    elif words[0] == "regions":
        command.makes.write_text("{}")
    else:
        (run / "config.json").write_text(json.dumps({"recipe": {"train": {"batch_size": 16}}, "sources": [{"samples": 40}]}))
        (run / "metrics.jsonl").write_text("")
        about = {"task": None, "system": "any", "preset": "tiny", "seed": 0, "config_sha256": "", "version": "0", "seconds": 60.0}
        command.makes.write_text(json.dumps({**about, "splits": {"val": {"score": {"value": 50}}}}))


def carried_out(work: Work, better: set[str], broken: str = "", **more) -> int:
    done = 0
    while ready := work.ready():
        if not (is_broken := bool(broken) and broken in str(ready[0])):
            pretend(ready[0], better, **more)
        work.ended(ready[0], "it broke" if is_broken else "", 1.0)
        done += 1
    return done


def rows(work: Work, measured=None) -> dict[str, dict]:
    table = claims_table.table(work.plan, work, measured or {})
    assert "<html" in claims_table.page_of(table, work) and claims_table.lines(table)
    assert list(csv.DictReader(io.StringIO(claims_table.csv_of(table))))
    return {row["claim"]: row for row in table["claims"]}


def test_a_claim_goes_from_commands_to_a_verdict_and_is_kept(unread):
    work = planned(["soho", "bert"])
    assert carried_out(work, runs(work, "soho-dictionary", "with")) > 10
    row = rows(work)["soho-dictionary"]
    assert row["verdict"] == HOLDS and row["value"] == pytest.approx(40) and row["ci95"][0] > 20
    with_, without = row["sides"]
    assert (with_["value"], without["value"], with_["by_chance"]) == (90, 50, 20) and with_["n"] == 100
    assert without["settings"] == ["system.mvm=null", "system.dictionary=null"]
    bert = rows(work)["bert-masks"]
    assert bert["verdict"] == CANNOT_TELL and "no side does better than chance, 50" in bert["why"]
    again = planned(["soho", "bert"], out="elsewhere")
    assert again.ready() == [] and again.kept == 4
    assert rows(again)["soho-dictionary"]["value"] == row["value"]


def test_where_nothing_was_learnt_nothing_is_said(unread):
    work = planned(["soho"])
    carried_out(work, runs(work, "soho-dictionary", "with"), blind=0.9)
    row = rows(work)["soho-dictionary"]
    assert row["verdict"] == CANNOT_TELL and "there is nothing to compare yet" in row["why"] and row["ci95"][0] > 20


def test_what_fails_is_shown_as_failed_and_costs_only_its_claim(unread):
    work = planned(["uniter"])
    carried_out(work, runs(work, "uniter-alignment", "with"), broken="system.masking=joint")
    told = rows(work)
    assert told["uniter-conditional"]["verdict"] == FAILED and told["uniter-conditional"]["why"] == "training uniter: it broke"
    assert told["uniter-alignment"]["verdict"] == HOLDS
    table = claims_table.table(work.plan, work, {})
    assert [one["claim"] for one in table["failed"]] == ["uniter-conditional"]
    assert "training uniter: it broke" in claims_table.page_of(table, work)


def test_time_and_quality_are_of_the_same_runs(unread):
    work = planned(["vilt-sooner-than-uniter", "vilt-as-good-as-uniter"])
    tunings = [work.plan.sides[name, "vilt"][0].tunings for name in ("vilt-sooner-than-uniter", "vilt-as-good-as-uniter")]
    assert tunings[0] == tunings[1]
    carried_out(work, runs(work, "vilt-as-good-as-uniter", "vilt"))
    costs = {
        ("vilt-sooner-than-uniter", name): {"milliseconds": ms, "each": [ms] * 20, "machine": "one"}
        for name, ms in (("vilt", 10.0), ("uniter", 25.0))
    }
    told = rows(work, costs)
    assert told["vilt-sooner-than-uniter"]["value"] == 2.5 and told["vilt-sooner-than-uniter"]["verdict"] == DOES_NOT
    assert told["vilt-as-good-as-uniter"]["verdict"] == HOLDS
    assert rows(work)["vilt-sooner-than-uniter"]["verdict"] == FAILED, "the time is not kept, and no run is there"


def test_languages_are_weighed_alike(unread, monkeypatch):
    """A claim that is asked on several splits has the mean over them, whatever their number of questions."""
    claim = CLAIMS["mural-unseen"]
    assert len(claim.measure.splits) == 6 and "test-en" not in claim.measure.splits
    short = replace(claim, measure=replace(claim.measure, splits=("test-cy", "test-sw"), metric=""))
    work = Work(Claims([short], LEAST, 1, Path("out")), Results(Path("results/claims")))
    carried_out(work, {"test-sw"})
    (row,) = rows(work).values()
    assert row["sides"][0]["value"] == pytest.approx(70) and row["sides"][0]["n"] == 200 and row["value"] == 0


# ---------------------------------------------------------------------------------------------------- for real, in little


def test_a_real_claim_in_little(here):
    """Two BERTs of two steps, asked whether passages follow, with nothing hidden."""
    work = planned(["bert-masks"])
    while ready := work.ready():
        assert cli.call(ready[0].words) == 0, str(ready[0])
        work.ended(ready[0], "", 1.0)
    (row,) = rows(work).values()
    assert not work.lost and 30 < row["sides"][0]["value"] < 70 and row["sides"][0]["n"] > 0
    assert row["verdict"] in (HOLDS, DOES_NOT, CANNOT_TELL)
    ours, theirs = (json.loads(line) for cell in work.plan.cells.values() for line in [items(cell).splitlines()[0]])
    run = next(iter(work.plan.cells.values())).tunings[0.0].makes.parent
    asked = ["evaluate", "objectives", "--from", str(run), "--data", "scenes", "--set", "data.limit=64"]
    assert cli.call([*asked, "--set", "system.width=32"]) == 2, "other weights than there are"
    assert ours["key"] == theirs["key"] and ours["sums"].keys() >= {"nsp/accuracy", "mlm/accuracy"}


def items(cell) -> str:
    (command,) = cell.judged(0.0).values()
    return command.makes.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_in_little(here, data, monkeypatch, name):
    if name.startswith("mural") and not (data / "names").exists():
        names.make(data / "names", small=True)
    work = planned([name])
    while ready := work.ready():
        assert cli.call(ready[0].words) == 0, str(ready[0])
        work.ended(ready[0], "", 1.0)
    assert not work.lost
    (row,) = rows(work, claims_table.times(work.plan, work)).values()
    assert row["verdict"] != FAILED


def test_tasks_are_refused_before_anything_is_written(unread):
    with pytest.raises(UserError, match="each claim is asked on the task that it is about"):
        claims(compare.Options(tasks=["vqa"]), Path("out"), lambda words: 1)
    with pytest.raises(UserError, match="--equal-compute: an arm of the bake-off"):
        claims(compare.Options(equal_compute=True), Path("out"), lambda words: 1)
    assert not Path("out").exists() and not Path("results").exists()
