"""Names are chosen as in a slow loop over pictures, classes and prompts, by towers and by a system that fuses; and end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_every_system import TOKENIZER, Case, picture, sample

from diptych import cli, find
from diptych.config import UserError
from diptych.contracts import Sample
from diptych.data import classes as class_folders
from diptych.data import coco_captions, concepts
from diptych.data.classes import Classes
from diptych.data.collate import Collate
from diptych.data.concepts import Concepts
from diptych.draw import Draw
from diptych.tasks.gallery import rows_of
from diptych.tasks.zeroshot import ZeroShot
from diptych.train.run import pretrain

PROMPTS = ("{}", "a {} and the dog", "there are two {}")
LABELS = ("dog", "giraffe", "red_ball", "giraffe", "small-cat", "green cat")
NAMES = ["dog", "giraffe", "green cat", "red ball", "small cat"]


def labelled() -> list[Sample]:
    return [Sample(f"p{i}", sample(i).images, labels={"label": label}) for i, label in enumerate(LABELS)]


def batches(case: Case, *groups):
    collate = Collate(TOKENIZER, case.recipe.text, case.recipe.data, training=False)
    own = labelled()
    return [collate([own[i] for i in ids], [[picture(i)] for i in ids], list(ids), Draw(0)) for ids in groups]


def slow(system, case: Case, classes: list[str]) -> np.ndarray:
    """[K, N], one text and one picture at a time."""
    score = np.zeros((len(classes), len(LABELS)))
    for n in range(len(LABELS)):
        (one,) = batches(case, [n])
        for k, name in enumerate(classes):
            rows = [rows_of([prompt.replace("{}", name)], TOKENIZER, 40) for prompt in PROMPTS]
            for row in rows:
                row.image_of_BN, row.images = one.image_of_BN, one.images
            if case.name == "align":
                side = F.normalize(torch.stack([system.towers(row).b_BE[0] for row in rows]).mean(0), dim=0)
                score[k, n] = side @ system.towers(one).a_BE[0]
            else:
                score[k, n] = np.mean([system.match(system.fuse(row)).item() for row in rows])
    return score


@pytest.mark.parametrize("name", ["align", "vilt"])
@pytest.mark.parametrize("given", [(), ("giraffe", "red ball", "green cat")])
def test_names_are_chosen_as_in_a_slow_loop(name, given):
    case = Case(name)
    system = case.build().eval()
    task = ZeroShot(ZeroShot.Config(prompts=PROMPTS, classes=given, block=7), system, TOKENIZER)
    found = task.evaluate(batches(case, range(4), [4, 5]))
    classes = list(given) or NAMES
    with torch.no_grad():
        score_KN = slow(system, case, classes)
    truths = [label.replace("_", " ").replace("-", " ") for label in LABELS]
    ranks = []
    for n, (item, truth) in enumerate(zip(found.items, truths, strict=True)):
        order = sorted(range(len(classes)), key=lambda k: -score_KN[k, n])
        assert [shown for shown, _ in item["top"]] == [classes[k] for k in order[:5]]
        assert [score for _, score in item["top"]] == pytest.approx([score_KN[k, n] for k in order[:5]], abs=1e-4)
        ranks.append(order.index(classes.index(truth)) if truth in classes else len(classes))
        assert (item["truth"], item["rank"]) == (truth, 1 + ranks[-1])
    assert found.metrics["top1"] == pytest.approx(100 * np.mean([rank < 1 for rank in ranks]))
    assert found.metrics["top5"] == pytest.approx(100 * np.mean([rank < 5 for rank in ranks]))
    per_class = [np.mean([rank < 1 for rank, t in zip(ranks, truths, strict=True) if t == name]) for name in NAMES]
    assert found.metrics["mean_per_class"] == pytest.approx(100 * np.mean(per_class))
    assert found.metrics["chance"] == pytest.approx(100 / len(classes))
    assert [entry["label"] for entry in found.predictions] == [item["top"][0][0] for item in found.items]
    json.dumps([found.metrics, found.items, found.predictions], allow_nan=False)
    assert task.evaluate(batches(case, *([n] for n in range(6)))).metrics == pytest.approx(found.metrics)
    assert task.evaluate([]).metrics == {}


def test_a_system_that_tells_nothing_apart_gets_nothing():
    case = Case("align")
    system = case.build().eval()
    torch.nn.init.zeros_(system.text_head.weight)
    torch.nn.init.ones_(system.text_head.bias)
    metrics = ZeroShot(ZeroShot.Config(), system, TOKENIZER).evaluate(batches(case, range(6))).metrics
    assert metrics == {"top1": 0, "top5": 100, "mean_per_class": 0, "chance": 20}, "five classes, all tied"


def test_prompts_have_a_place_for_the_name():
    for prompts in ((), ("a picture",), ("{} {}",)):
        with pytest.raises(ValueError, match=r"each prompt needs one \{\} where the name goes"):
            ZeroShot.Config(prompts=prompts)


def test_from_captions_to_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    coco_captions.example(tmp_path / "coco")
    class_folders.example(tmp_path / "classes")
    for name in ("align", "vilt"):
        found = find.system(f"{name}:tiny")
        train = found.recipe.train.model_copy(update={"steps": 1, "batch_size": 4})
        sources = find.readers(["coco"], "val", "pretrain")
        recipe = found.recipe.model_copy(update={"train": train})
        pretrain(recipe, found.cls, sources, tmp_path / name, quiet=True, trackers=())
        data = ["--data", "classes", "--split", "all", "--json"]
        assert cli.call(["evaluate", "zeroshot", "--from", name, *data, "--set", 'task.prompts=["{}", "a drawing of a {}"]']) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["n"] == 4 and result["metrics"]["chance"] == 50
        assert result["ci95"].keys() == {"top1", "top5"}
        assert cli.call(["evaluate", "zeroshot", "--from", name, *data, "--set", "task.prompts=[a drawing]"]) == 2
        assert "each prompt needs one {} where the name goes" in capsys.readouterr().err
    assert cli.call(["finetune", "zeroshot", "--from", "align", "--data", "classes"]) == 2
    assert "nothing is tuned for it: diptych evaluate zeroshot --from RUN" in capsys.readouterr().err
    assert cli.call(["evaluate", "zeroshot", "--from", "align", "--data", "coco", "--split", "val"]) == 2
    assert "nothing for probe or zeroshot in it" in capsys.readouterr().err


def test_folders_are_classes(tmp_path: Path):
    class_folders.example(tmp_path / "plain")
    reader = Classes.open(tmp_path / "plain", "all")
    assert [(s.key, s.labels["label"], s.labels["name"]) for s in (reader[0], reader[3])] == [
        ("n02510455/1.jpg", "n02510455", "giant panda"),
        ("red_panda/2.jpg", "red_panda", "red panda"),
    ]
    for split in ("train", "val"):
        (tmp_path / "split" / split).mkdir(parents=True)
        class_folders.example(tmp_path / "split" / split)
        (tmp_path / "split" / split / "classes.tsv").unlink()
    assert [Classes.open(tmp_path / "split", "val", limit=1)[0].key] == ["val/n02510455/1.jpg"]
    assert len(Classes.open(tmp_path / "split", "all")) == 8
    with pytest.raises(UserError, match="no split 'vall'; did you mean 'val'"):
        Classes.open(tmp_path / "split", "vall")
    (tmp_path / "plain/classes.tsv").write_text("n02510455 giant panda\n")
    with pytest.raises(UserError, match=r"classes.tsv:1: a folder, a TAB and a name are expected, not 'n02510455 giant panda'"):
        Classes.open(tmp_path / "plain", "all")


def test_concepts_that_nobody_has_met_have_a_split(tmp_path: Path):
    concepts.example(tmp_path)
    assert {Concepts.open(tmp_path, "test-concept")[i].labels["label"] for i in range(6)} == {"cat", "boat"}
