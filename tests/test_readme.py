"""What the pages say is typed in, in order, by someone who has pictures, captions and questions of their own.

Every ```sh block of the README and of docs/ runs here; ```console blocks need a cluster or files that can't be shipped. Paths that
pages link to exist.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych import cli
from diptych.atelier import make

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (240, 210, 40)}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    return [words for block in blocks(page, "sh") for line in block.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's directory: my_pictures with captions, questions and statements beside it, and a small copy of the scenes."""
    monkeypatch.chdir(tmp_path)
    make.make(Path("data/scenes"), small=True, scenes=600)
    captions, questions, statements = [], [], []
    Path("my_pictures").mkdir()
    for n in range(1, 81):
        colour = list(COLOURS)[n % len(COLOURS)]
        pixels = np.full((60, 80, 3), 245, np.uint8)
        pixels[15:45, 20:60] = COLOURS[colour]
        name = f"{n:04d}.jpg"
        Image.fromarray(pixels).save(Path("my_pictures") / name)
        captions.append({"image": name, "caption": f"a {colour} dog on a white ground"})
        questions.append({"image": f"my_pictures/{name}", "question": "what color is the dog?", "answer": colour})
        said = list(COLOURS)[(n + n // 4 % 2) % len(COLOURS)]
        label = "entailment" if said == colour else "contradiction"
        statements.append({"image": f"my_pictures/{name}", "text": f"The dog is {said}.", "label": label})
    Path("my_statements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in statements))
    Path("my_pictures/captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    Path("my_questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    typed = [words for words in commands(page) if words[0] == "diptych"]
    for place, words in enumerate(typed):
        if words in typed[place + 1 :]:  # a command that stands there again later is killed the first time
            kill_after_a_checkpoint(words)
            continue
        monkeypatch.setattr(sys, "argv", words)
        assert cli.call() == 0, shlex.join(words)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})


def kill_after_a_checkpoint(words: list[str]) -> None:
    out = Path(words[words.index("--out") + 1])
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists(), "killed too late: the run was finished"


def test_other_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    others = [words for page in PAGES for words in commands(page) if words[0] != "diptych"]
    assert others
    assert all(words[0] == "make" and set(words[1:]) <= targets for words in others)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_examples_of_json_lines_are_json():
    for page in PAGES:
        for block in blocks(page, "json"):
            assert all(json.loads(line) for line in block.splitlines())
