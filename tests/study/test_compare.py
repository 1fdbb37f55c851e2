"""The bake-off: what it plans, keeps, computes again and gives up. A stand-in for the commands writes the files they make."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from diptych import config, find
from diptych.atelier import make
from diptych.config import UserError
from diptych.plan import price
from diptych.study import compare, compare_report, compare_table
from diptych.study.compare import ARMS, LONG, Plan, Work
from diptych.study.kept import Results
from diptych.study.pasts import BUDGETS, PASTS, TEXTS, Budget, Pasts
from diptych.train.evaluate import difference, headline

LEAST = Budget("least", "tiny", 40, 32, 16, {"": 30}, (0.5, 1.0), steps=dict.fromkeys((*PASTS, "cnn", "vit", "detector"), 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make.make(folder / "scenes", small=True, scenes=120)
    return folder


@pytest.fixture
def here(data, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIPTYCH_DATA", str(data))
    return tmp_path


def planned(systems=("soho",), tasks=("vqa",), budget=LEAST, seeds=1, out="out", results="results") -> Work:
    return Work(Plan(systems, tasks, budget, seeds, Path(out)), Results(Path(results)))


def pretend(command) -> None:
    """What the command would have left: pre-trained runs answer best, and the larger of two rates is better on val."""
    command.makes.parent.mkdir(parents=True, exist_ok=True)
    words, run = command.words, command.makes.parent
    if words[0] == "evaluate":
        data, split = words[words.index("--data") + 1], words[words.index("--split") + 1]
        (source,) = find.readers([data], split, find.task_class(words[1]).purpose, 30)
        easy = 2 if "pretrained" in str(run) else 5
        items = [
            {"key": s.key, "group": s.group or s.key, "type": s.labels["question_type"], "score": float(n % easy == 0)}
            | {"question": s.texts[0], "truth": s.labels["answer"], "answer": f"said {n}"}
            for n, s in enumerate(source.reader[i] for i in range(len(source.reader)))
        ]
        command.makes.write_text("".join(json.dumps(item) + "\n" for item in items))
    elif words[0] == "regions":
        command.makes.write_text("{}")
    else:
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        rate = float(settings.get("train.lr", 1))
        recipe = {"train": {"batch_size": 16}}
        (run / "config.json").write_text(json.dumps({"recipe": recipe, "sources": [{"samples": 40}]}))
        points = [{"step": n, "samples": 16 * n, "seconds": n, "val/score": 10.0 * n} for n in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
        about = {"task": words[1], "system": "soho", "preset": "tiny", "seed": int(settings.get("train.seed", 0))}
        scored = {"val": {"score": {"value": 100 * rate}}}
        command.makes.write_text(json.dumps({**about, "config_sha256": "", "version": "0", "seconds": 60.0, "splits": scored}))


def carried_out(work: Work, most: int = 1000, broken: str = "") -> list[str]:
    """What was carried out, in order; commands whose line has `broken` in it fail."""
    done = []
    while (ready := work.ready()) and len(done) < most:
        is_broken = bool(broken) and broken in str(ready[0])
        if not is_broken:
            pretend(ready[0])
        work.ended(ready[0], "it broke" if is_broken else "", 1.0)
        done.append(str(ready[0]))
    return done


def test_a_chain_makes_what_it_names_before_it_names_it_wherever_it_lies(here):
    there, elsewhere, otherwise = (Pasts(LEAST, Path(out)) for out in ("a", "b/c", "a"))
    for system, past in PASTS.items():
        if "names" in str(past.data):
            continue  # minutes to compose; the same code
        chain = there.of(system)
        kind = find.system_class(system)
        assert bool(past.detector) == (kind.reads_regions or kind.taught_by_regions)
        made = set()
        for stage in chain.stages:
            named = [word.rpartition("=")[2] for word in stage.command.words if "a/past/" in word]
            assert set(named) <= made | {str(stage.command.makes.parent)}
            made.add(str(stage.command.makes.parent))
        names = [stage.command.makes.relative_to("a") for stage in chain.stages]
        assert names == [stage.command.makes.relative_to("b/c") for stage in elsewhere.of(system).stages]
        otherwise.budget = replace(LEAST, steps={**LEAST.steps, (past.root or "detector"): 3})
        other = otherwise.of(system).pretraining
        assert other.command.makes != chain.pretraining.command.makes, "another root makes another pre-training"
    with pytest.raises(UserError, match="did you mean 'vilt'"):
        Pasts(LEAST, Path("a")).of("vitl")


def test_budgets_name_what_there_is():
    for budget in BUDGETS.values():
        assert set(budget.steps) <= set(find.catalogue("systems"))


def test_arms_differ_in_where_they_start_and_in_nothing_else(here):
    plan = planned(("soho", "vinvl"), ("vqa",)).plan

    def settings(cell):
        words = next(iter(cell.tunings.values())).words
        return [word for option, word in pairwise(words) if option == "--set"]

    for system in plan.systems:
        cells = [plan.cells[system, "vqa", arm, 0] for arm in ARMS]
        assert settings(cells[0]) == settings(cells[1]) == settings(cells[2])
        keys = [cell.key for cell in cells]
        assert len(set(keys)) == (3 if system == "soho" else 2)
    same = [plan.cells["vinvl", "vqa", arm, 0] for arm in ("scratch", "root_only")]
    assert same[0].tunings == same[1].tunings, "random fusion on a detector's features is its root alone, and runs once"
    assert "task.withhold=picture" in settings(plan.cells["soho", "vqa", "without_picture", 0])


def test_an_interrupted_table_goes_on_and_finished_cells_are_not_computed_again(here):
    whole = carried_out(planned(out="whole", results="others"))
    first = planned()
    before = carried_out(first, most=9)
    assert 0 < len(first.records) < len(first.plan.cells)
    second = planned()
    assert second.kept == len(first.records)
    after = carried_out(second)
    assert sorted(before + after) == sorted(line.replace("whole/", "out/") for line in whole)
    assert len(second.records) == len(second.plan.cells) and not second.lost
    clone = planned(out="elsewhere")
    assert clone.ready() == [] and clone.kept == len(clone.plan.cells)
    page = compare_report.page_of(clone.plan, clone, compare_table.table(clone.plan, clone))
    assert "pre-trained, against its root alone" in page
    both = planned(systems=("soho", "vilt"))
    assert both.ready(), "nothing of the other system is kept"
    both.plan.keep_to(Results(Path("results")))
    alone = Work(both.plan, Results(Path("results")))
    assert alone.ready() == [] and alone.plan.systems == ["soho"] and list(alone.plan.cells) == list(clone.plan.cells)
    lines = compare_report.lines(compare_table.table(alone.plan, alone))
    assert lines[-1] == "not computed yet: vilt on vqa", "what is left out is named"


def test_the_order_is_the_past_first_and_val_chooses_the_rate(here):
    work = planned(seeds=2)
    done = carried_out(work)
    assert [line.split()[2] for line in done[:2]] == ["cnn:tiny", "soho:tiny"]
    rates = {place: record["rate"] for place, record in work.records.items()}
    recipe = find.task("vqa").finetuning(find.system("soho:tiny").recipe)
    assert set(rates.values()) == {recipe.train.lr}, "what is better on val: the larger of the two"
    tried = {place: len(record["on_val"]) for place, record in work.records.items()}
    assert {n for (_, _, arm, seed), n in tried.items() if seed == 0 and arm in ARMS} == {2}
    assert {n for (_, _, arm, seed), n in tried.items() if seed or arm not in ARMS} == {1}, "the rate is the first seed's"
    assert not list(Path("out").rglob("checkpoints"))


def test_a_changed_configuration_and_changed_data_are_computed_again_and_what_they_do_not_touch_is_not(here, data):
    carried_out(planned())
    assert planned(budget=replace(LEAST, asked={"": 20})).kept == 0
    more = planned(budget=replace(LEAST, steps={**LEAST.steps, "soho": 3}))
    kept = {place[2] for place in more.records}
    assert kept == {"root_only", "scratch"}, "another pre-training, the same rivals"
    captions = data / "scenes" / "coco" / "captions_train.json"
    text = captions.read_text()
    try:
        captions.write_text(text + "\n")
        assert {place[2] for place in planned().records} == {"scratch"}, "root and pre-training have read the captions"
    finally:
        captions.write_text(text)
    assert planned().kept == len(planned().plan.cells)


def test_what_fails_is_told_and_costs_only_what_needs_it(here):
    work = planned(("soho", "crossgrid"))
    carried_out(work, broken="pretrain soho")
    lost = {place[:3] for place in work.lost}
    assert lost == {("soho", "vqa", arm) for arm in ("pretrained", "without_picture", "without_question")}
    assert set(work.lost.values()) == {"training soho: it broke"}
    table = compare_table.table(work.plan, work)
    assert len(table["failed"]) == 3
    assert [gain["system"] for gain in table["gains"]] == ["crossgrid", "crossgrid"]
    page = compare_report.page_of(work.plan, work, table)
    assert "training soho: it broke" in page and page.count('<span class="wrong">failed</span>') >= 4
    assert any("failed: soho, vqa, pretrained, seed 0: training soho: it broke" in line for line in compare_report.lines(table))
    again = planned(("soho", "crossgrid"))
    assert not again.lost and "pretrain soho:tiny" in str(again.ready()[0]), "the next time it is tried again"


def test_the_rival_is_also_tuned_until_it_has_cost_as_much(here):
    plan = Plan(("soho",), ("vqa",), LEAST, 2, Path("out"), [("soho", "vqa")])
    long, short, ours = (plan.cells["soho", "vqa", arm, 0] for arm in (LONG, "root_only", "pretrained"))
    commands = [next(iter(cell.tunings.values())) for cell in (long, short)]
    steps = ("train.steps", "train.log_every", "train.validate_every", "out/cells")
    words = [[word for word in command.words if not word.startswith(steps)] for command in commands]
    assert words[0] == words[1], "the same but for steps"

    found = find.system("soho:tiny")
    recipe = config.resolve(find.finetuning("vqa", "soho", found.recipe), config.from_setting("task.head=cloze"))
    a_sample = {
        "soho": price(found.recipe, found.cls, find.readers(TEXTS, "train", "pretrain", 64)).flops,
        "vqa": price(recipe, found.cls, find.readers(["scenes"], "train", "vqa", 64), find.task_class("vqa")).flops,
    }
    more = 2 * found.recipe.train.batch_size * a_sample["soho"] / (recipe.train.batch_size * a_sample["vqa"])
    assert commands[0].steps - commands[1].steps == pytest.approx(more, rel=0.1, abs=1), "soho's two steps; the root is in both"

    work = Work(plan, Results(Path("results")))
    carried_out(work)
    table = compare_table.table(plan, work)
    (row,) = table["equal_compute"]
    assert row["rate"] == work.records[short.place]["rate"] and len(work.records[long.place]["on_val"]) == 1
    assert row["gain"]["value"] == pytest.approx(row["pretrained"]["value"] - row[LONG]["value"], abs=2e-3)
    assert row["steps"] == {LONG: commands[0].steps, "pretrained": next(iter(ours.tunings.values())).steps}
    assert "At equal total compute" in compare_report.page_of(plan, work, table)
    assert any("equal compute" in line for line in compare_report.lines(table))
    assert planned().kept == 5, "the other cells are what they are without"


def test_the_table_says_what_the_items_say(here):
    work = planned()
    carried_out(work)
    table = compare_table.table(work.plan, work)
    cells = {cell["arm"]: cell for cell in table["cells"]}
    items = {}
    for arm in ("pretrained", "root_only"):
        cell = work.plan.cells["soho", "vqa", arm, 0]
        items[arm] = cell.items(cell.judged(work.records[cell.place]["rate"])["test"])
        assert cells[arm]["value"] == pytest.approx(headline(items[arm]).value, abs=1e-3)
        assert cells[arm]["n"] == len(items[arm])
    gain = next(gain for gain in table["gains"] if gain["over"] == "root_only")
    expected = difference(items["pretrained"], items["root_only"])["macro"]
    assert [gain["value"], *gain["ci95"]] == pytest.approx(list(expected), abs=1e-3)
    assert cells["pretrained"]["minutes"] == {"past": 2.0, "tuning": 1.0}
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(compare_table.csv_of(table)))}
    assert float(rows["pretrained"]["gain_over_root_only"]) == gain["value"]
    assert rows.keys() == {*ARMS, "without_picture", "without_question"}
    kept = sum(path.stat().st_size for path in Path("results").rglob("*.json"))
    assert kept / len(cells) < 20_000, "small enough to be committed"


def test_names_that_do_not_exist_are_refused_before_anything_is_written(here):
    for options, said in (
        (compare.Options(systems=["vitl"]), "--systems vitl: unknown; did you mean 'vilt'"),
        (compare.Options(tasks=["vqq"]), "--tasks vqq: unknown; did you mean 'vqa'"),
    ):
        with pytest.raises(UserError, match=said):
            compare.compare(options, Path("out"), lambda words: 1)
    with pytest.raises(UserError, match="--kept: results holds nothing of that"):
        compare.compare(compare.Options(["soho"], ["vqa"], LEAST, kept=True), Path("out"), lambda words: 1)
    assert not Path("out").exists() and not Path("results").exists()
    Path("afile").write_text("")
    Path("old").mkdir()
    Path("old/report.html").write_text("a table of kept cells has no runs beside it")
    for out, said in (("afile", "--out afile: a file"), ("old", "old: holds a study already")):
        with pytest.raises(UserError, match=said):
            compare.compare(compare.Options(["soho"], ["vqa"], LEAST, resume="never"), Path(out), lambda words: 1)
