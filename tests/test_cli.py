"""The command line as a stranger meets it: quick help, one-line mistakes that cost nothing, and JSON that programs can read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from diptych import cli


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Type = Callable[..., Outcome]


@pytest.fixture
def type_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["diptych", *map(str, words)])
        capsys.readouterr()
        code = cli.call()
        return Outcome(code, *capsys.readouterr())

    return run


def mistake(outcome: Outcome) -> str:
    """The one line that a user's mistake is told in."""
    assert outcome.code == 2, outcome.err
    assert not outcome.out
    last = outcome.err.rstrip("\n").rpartition("\n")[2]
    assert last.startswith("diptych: ")
    assert outcome.err.count("\n") == 1, "nothing stands before it"
    return last


def pictures(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (n, 40, 48, 3), dtype=np.uint8)
    for i in range(n):
        Image.fromarray(pixels[i]).save(folder / f"{i:04d}.jpg")
    return folder


def captioned(folder: Path, n: int = 24) -> Path:
    lines = [json.dumps({"image": f"{i:04d}.jpg", "caption": f"a red dog {i}"}) for i in range(n)]
    (pictures(folder, n) / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


# ---------------------------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["list"], ["list", "systems", "--json"]], ids=" ".join)
def test_help_and_lists_come_without_torch(words: list[str]):
    program = "import sys; from diptych.cli import call; sys.exit(call() or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vilt" in done.stdout or "Usage: diptych" in done.stdout


def test_importing_the_package_is_light():
    program = "import sys, diptych; diptych.__version__; sys.exit('torch' in sys.modules or not callable(diptych.load))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "diptych", "list", "tasks", "--json"], capture_output=True, text=True, check=False)
    assert "vqa" in json.loads(done.stdout)["tasks"]


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain vilq:tiny", "unknown system 'vilq'; did you mean 'vilt'?"),
        ("pretrain vitl:tiny", "unknown system 'vitl'; did you mean 'vit' or 'vilt'?"),
        ("pretrain vilt:tinny", "vilt has no preset 'tinny'; did you mean 'tiny'?"),
        ("pretrain vilt:", "vilt: names no preset; vilt has tiny, small"),
        ("pretrain vilt:tiny --set train.betas.1=1.5", "--set train.betas.1=1.5: must be less than 1, not 1.5"),
        (
            "finetune vqa --from simclr:tiny",
            "vqa needs a system that can bring words and pictures together or read texts alone; simclr does not",
        ),
        ("pretrain my_lab.my_system:tiny", "system my_lab.my_system: cannot be imported"),
        ("pretrain vilt:tiny --set train.lrr=1", "--set train.lrr=1: unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("pretrain vilt:tiny --set train.lr=fast", "--set train.lr=fast: must be a valid number"),
        ("pretrain vilt:tiny --set system.wpa.beta=-1", "--set system.wpa.beta=-1: must be greater than 0, not -1"),
        ("pretrain vilt:tiny --config none.yaml", "none.yaml: no such file"),
        ("pretrain vilt:tiny --data pictures", "--data pictures: no such file or folder"),
        ("pretrain vilt:tiny --data scene", "--data scene: no such file or folder; did you mean 'scenes'?"),
        ("pretrain vilt:tiny --data coco:here", "--data coco:here: no reader 'coco'; did you mean 'coco_captions'?"),
        ("pretrain vilt:tiny --data here@-1", "--data here@-1: the weight after @ must be a positive number"),
        ("finetune vqa --from kd_vlp:tiny --regions here", "kd_vlp reads no region features after pre-training; leave it out"),
        ("regions train --preset big", "detector has no preset 'big'"),
        ("regions import none.tsv --out store", "none.tsv: no such file"),
        ("regions export here out.tsv", "here: no store.json in it, so no region store"),
        ("pretrain vilt:tiny --init image", "--init image: write it as PART=RUN"),
        ("pretrain vilt --from vilt:tiny", "--from vilt:tiny: no run directory; a preset starts by itself"),
        ("finetune vqq --from vilt:tiny", "unknown task 'vqq'; did you mean 'vqa'?"),
        ("finetune vqa --from runs/none", "runs/none: no such run directory"),
        ("finetune vqa --from vilt:tiny --data vqa_v3:here", "no reader 'vqa_v3'; did you mean 'vqa_v2'?"),
        ("evaluate vqa --from .", "no config.json in it, so it is no run directory"),
        ("ask cat.jpg hello --from vilt", "vilt: no such run directory"),
        ("convert vlit a b", "unknown kind of weights 'vlit'; did you mean 'vilt'?"),
        ("list system", "no such list; did you mean 'systems'?"),
        ("data make scene", "no such embedded data; did you mean 'scenes'?"),
        ("data check scene", "diptych: scene: no such file or folder; did you mean 'scenes'?"),
        ("data check here", "diptych: here: the folder is empty; looked for captions.jsonl"),
        ("data check fodler:here", "fodler:here: no reader 'fodler'; did you mean 'folder'?"),
        ("data check here --set text.vocb=x", "--set text.vocb=x: unknown key 'text.vocb'; did you mean 'text.vocab'?"),
        ("data show hree", "diptych: hree: no such file or folder; did you mean 'here'?"),
        ("data show here --n 0", "Invalid value for '--n'"),
        ("demo --quick --full", "--quick and --full exclude each other"),
        ("pretrian vilt", "No such command 'pretrian'"),
        ("pretrain vilt:tiny --reusme auto", "No such option: --reusme"),
        ("pretrain vilt:tiny --resume maybe", "Invalid value for '--resume'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words: str, said: str, type_: Type, tmp_path: Path):
    (tmp_path / "here").mkdir()
    assert said in mistake(type_(*words.split()))
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_without_a_region_store_one_is_made_on_the_way_and_used_again(type_: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DIPTYCH_DATA", raising=False)
    captioned(tmp_path / "mine", 24)
    (tmp_path / "mine/0003.jpg").write_bytes(b"no picture any more")
    brief = ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "data.max_broken=0.5"]
    first = type_("pretrain", "uniter:tiny", "--data", "mine", "--out", "runs/a", *brief)
    assert first.code == 0, first.err
    assert "mine: there is no region store, so shipped:detector, " in first.err
    (store,) = (tmp_path / "data/regions").iterdir()
    about = json.loads((tmp_path / "runs/a/config.json").read_text())
    assert (about["regions"], about["region_stores"]) == ("shipped:detector", [f"data/regions/{store.name}"])
    assert f"* regions: shipped:detector, data/regions/{store.name}" in (tmp_path / "runs/a/README.md").read_text()

    lines = (store / "index.jsonl").read_text().splitlines(keepends=True)
    (store / "index.jsonl").write_text("".join(lines[:5]))  # as a killed process leaves it
    whole = json.loads((store / "store.json").read_text())
    (store / "making.json").write_text(json.dumps({key: whole[key] for key in ("width", "classes", "made")}))
    (store / "store.json").unlink()
    again = type_("pretrain", "uniter:tiny", "--data", "mine", "--out", "runs/b", *brief)
    assert "there is no region store" in again.err
    assert json.loads((store / "store.json").read_text()) == whole
    assert (tmp_path / "runs/a/model.safetensors").read_bytes() == (tmp_path / "runs/b/model.safetensors").read_bytes()

    asked = type_("ask", "mine/0001.jpg", "a [MASK] dog", "--from", "runs/a", "--json")  # a single picture, no store of it
    assert json.loads(asked.out)["verb"] == "fill", asked.err
    tuned = type_("finetune", "retrieval", "--from", "runs/b", "--data", "mine", "--set", "train.steps=1", "--json")
    assert tuned.code == 0, tuned.err
    assert f"mine: regions as shipped:detector saw them: data/regions/{store.name}" in tuned.err
    assert len([*(tmp_path / "data/regions").iterdir()]) >= 1
    Image.new("RGB", (40, 48)).save(tmp_path / "mine/0000.jpg")
    changed = type_("pretrain", "kd_vlp:tiny", "--data", "mine", "--out", "runs/c", *brief)
    assert "there is no region store" in changed.err, "another picture is there: it is looked at anew"
    assert "did you mean 'mine'?" in mistake(type_("pretrain", "vinvl", "--data", "mien"))


def test_a_run_whose_detector_is_not_known_wants_to_be_told(type_: Type, tmp_path: Path):
    captioned(tmp_path / "mine", 24)
    few = ["--set", "train.steps=1", "--set", "train.batch_size=4"]
    assert type_("pretrain", "uniter:tiny", "--data", "mine", "--out", "runs/a", *few).code == 0
    config = tmp_path / "runs/a/config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "regions"}))
    said = mistake(type_("finetune", "retrieval", "--from", "runs/a", "--data", "mine"))
    assert "this uniter reads what a detector saw in the pictures, and its run does not say which: --regions STORE" in said


def test_a_run_is_judged_on_all_there_is_by_what_it_was_made_for(type_: Type, tmp_path: Path):
    captioned(tmp_path / "mine", 12)
    asked = [{"image": f"mine/{n:04d}.jpg", "question": "asleep?", "answer": "yes" if n % 2 else "no"} for n in range(12)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    few = ["--set", "train.steps=1", "--set", "train.batch_size=4", "--set", "data.limit=4", "--out", "runs/a"]
    assert type_("finetune", "vqa", "--from", "vilt:tiny", "--data", "asked.jsonl", *few).code == 0
    judged = ["evaluate", "vqa", "--from", "runs/a", "--data", "asked.jsonl", "--split", "all", "--json"]
    assert json.loads(type_(*judged).out)["n"] == 12
    for split in ("train", "all"):  # a training's own losses are no score, but what is asked on its data is
        table = type_("evaluate", "vqa", "--from", "runs/a", "--data", "asked.jsonl", "--split", split).out
        assert f"vqa, {split}: " in table and "accuracy" in table
    assert "a folder" in mistake(type_(*judged, "--items", "mine"))
    assert "mine/0001.jpg is a file" in mistake(type_(*judged, "--predictions", "mine/0001.jpg/said.json"))
    assert json.loads(type_(*judged, "--set", "data.limit=3").out)["n"] == 3
    for setting in ("task.answers=[blue]", "task.head=cloze", "system.fusion.layers=5", "text.vocab=none.txt"):
        assert f"--set {setting.partition('=')[0]}: the run was trained" in mistake(type_(*judged, "--set", setting))
    tuned_on = ["finetune", "vqa", "--from", "runs/a", "--data", "asked.jsonl", "--set", "text.vocab=bytes", "--out", "runs/b"]
    assert "text.vocab=bytes: runs/a has learnt other words, and goes on with those" in mistake(type_(*tuned_on))
    (tmp_path / "runs/a/tokenizer.json").unlink()
    assert "tokenizer.json" in mistake(type_("finetune", "vqa", "--from", "runs/a", "--data", "asked.jsonl"))


def test_an_empty_folder(type_: Type, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    assert "--data mine: the folder is empty; looked for" in mistake(type_("pretrain", "vilt:tiny", "--data", "mine"))


def test_pictures_without_captions(type_: Type, tmp_path: Path):
    pictures(tmp_path / "mine", 3)
    said = mistake(type_("pretrain", "vilt:tiny", "--data", "mine"))
    assert "found 3 pictures" in said
    assert "captions.jsonl" in said


def test_data_check_exits_by_its_verdict(type_: Type, tmp_path: Path):
    captioned(tmp_path / "mine")
    good = type_("data", "check", "mine")
    assert good.code == 0, good.err
    assert good.out.splitlines()[-1] == "next: diptych pretrain vilt:tiny --data mine"
    with (tmp_path / "mine/captions.jsonl").open("a") as file:
        file.write('{"image": "9999.jpg", "caption": "a ghost"}\n')
    bad = type_("data", "check", "mine", "--json")
    assert bad.code == 2
    assert bad.err == "diptych: mine: not usable: captions without a picture\n"
    told = json.loads(bad.out)
    assert not told["usable"]
    assert told["data"][0]["problems"][0]["places"] == ["mine/captions.jsonl:25: no picture mine/9999.jpg"]
    assert told["data"][0]["next"] == "diptych data check mine"


def test_data_show_makes_a_page_or_says_why_not(type_: Type, tmp_path: Path):
    captioned(tmp_path / "mine")
    assert json.loads(type_("data", "show", "mine", "--n", 3, "--json").out)["page"] == "sheet.html"
    assert (tmp_path / "sheet.html").read_text().count("<figure>") == 3
    assert "did you mean 'train'?" in mistake(type_("data", "show", "mine", "--split", "trian"))
    assert "--out mine: cannot be written" in mistake(type_("data", "show", "mine", "--out", "mine"))


def test_a_program_error_is_ours(type_: Type, monkeypatch: pytest.MonkeyPatch):
    from diptych import find

    def broken(name: str):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(find, "system", broken)
    outcome = type_("pretrain", "vilt:tiny")
    assert outcome.code == 1
    assert "ZeroDivisionError: by nought" in outcome.err
    assert "Traceback" not in outcome.err
    assert "ZeroDivisionError" in Path(outcome.err.split()[-1]).read_text()
    monkeypatch.setenv("DIPTYCH_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        type_("pretrain", "vilt:tiny")


def test_ctrl_c_before_a_run_has_begun_is_told(type_: Type, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diptych.find.catalogue", interrupted)
    assert type_("list", "systems") == (130, "", "diptych: interrupted\n")
