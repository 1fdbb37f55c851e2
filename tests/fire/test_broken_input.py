"""Thousands of broken files through decoder and readers: read, or refused in one line, and never anything else."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import mutations
import numpy as np
import pytest
import toy_run

from diptych import find
from diptych.config import ImageConfig, UserError
from diptych.contracts import Sample
from diptych.data.folder import Folder
from diptych.data.mixture import Source
from diptych.data.picture import BrokenPicture, decode, decode_sample, resize
from diptych.train.run import pretrain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about metadata it does not understand
IMAGE = ImageConfig(short=32, long=64, multiple=16)
A_FEW_AND_ALL = pytest.mark.parametrize(
    "many", [pytest.param(False, id="few"), pytest.param(True, id="all", marks=pytest.mark.slow)]
)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def test_the_pictures_to_be_broken_are_sound():
    for name, content in mutations.sound().items():
        assert decode(content).dtype == np.uint8, name


@A_FEW_AND_ALL
def test_a_mutated_picture_is_pixels_or_broken(many: bool):
    rng, before, broken = Random(7), memory(), 0
    for n in range(10_000 if many else 400):
        what, content = mutations.picture(rng)
        with at_most(20):
            try:
                (pixels,) = decode_sample(Sample("a", (content,)), IMAGE)
                pixels = resize(pixels, IMAGE)
                assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and max(pixels.shape) <= 64
            except BrokenPicture as error:
                broken += bool(str(error))
            except BaseException as error:
                raise AssertionError(f"picture {n}, {what}: {type(error).__name__}") from error
    assert broken > 60
    assert memory() - before < 1.5, "gigabytes: a picture at the cap takes 0.3"


@pytest.mark.parametrize("name", ["plain.png", "plain.bmp", "plain.jpg", "animated.gif", "packed.tif"])
def test_a_header_of_30000_by_30000_is_refused_before_memory_is_taken(name: str):
    content, before = mutations._huge(mutations.sound()[name], Random(0)), memory()
    assert content != mutations.sound()[name]
    with at_most(5), pytest.raises(BrokenPicture):
        decode(content)
    assert memory() - before < 0.1


def test_postscript_is_not_handed_to_anyone(tmp_path, monkeypatch):
    """Pillow would run Ghostscript on it, whatever its name."""
    (tmp_path / "a.jpg").write_bytes(mutations.STRANGE["postscript"])
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(BrokenPicture, match="not a picture"):
        decode(tmp_path / "a.jpg")


def test_what_is_no_file_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "folder.jpg", "loop.jpg", "zero.jpg", "absent.jpg", "n" * 300 + ".jpg"):
        with at_most(5), pytest.raises(BrokenPicture):
            decode(tmp_path / name)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_broken_file_is_named_whatever_its_name(workers: int, tmp_path: Path):
    """A run over a folder in which a third is broken lists exactly what cannot be decoded, under names that a shell would fear."""
    rng, root, broken = Random(3), tmp_path / "mine", set()
    root.mkdir()
    for n in range(60):
        path = root / f"{mutations.NAMES[n % len(mutations.NAMES)]} {n}.png"
        content = mutations.picture(rng)[1] if n % 3 == 0 else mutations.sound()["plain.png"]
        path.write_bytes(content)
        path.with_suffix(".txt").write_text("a big red")
        try:
            decode(path)
        except BrokenPicture:
            broken.add(str(path))
    recipe = toy_run.recipe({"steps": 20}, {"workers": workers, "max_broken": 0.5})
    sources = [Source("mine", Folder.open(root, "all"))]
    pretrain(recipe, toy_run.Toy, sources, tmp_path / "run", tokenizer=toy_run.TOKENIZER, trackers=(), quiet=True)
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(listed) == len(broken) > 8
    assert {entry["path"] for entry in listed} == broken
    assert all(entry["reason"] for entry in listed)


# ---------------------------------------------------------------------------------------------------------- data sets


@A_FEW_AND_ALL
@pytest.mark.parametrize("module", sorted(find.catalogue("data")))
def test_a_mutated_data_set_is_read_or_refused_in_a_line(module: str, many: bool, tmp_path: Path):
    """Every reader, found by looking, on its own example with one thing broken in it."""
    import importlib

    reader = find._reader_class(module)
    importlib.import_module(f"diptych.data.{module}").example(tmp_path / "sound")
    rng, refused = Random(module), 0
    for n in range(1500 if many else 25):
        root = mutations.fresh(tmp_path / "sound", tmp_path / "mutated")
        done = mutations.data_set(root, rng)
        for split in ("train", "all", "val"):
            with at_most(20):
                try:
                    if reader.recognises(root):
                        read = reader.open(root, split)
                        json.dumps(
                            [read.fingerprint, [[s.key, s.texts, str(s.labels)] for s in map(read.__getitem__, range(len(read)))]]
                        )
                except UserError:
                    refused += 1
                except BaseException as error:
                    raise AssertionError(
                        f"mutation {n} of {module}, {done}, split {split}: {type(error).__name__}: {error}"
                    ) from error
    assert refused > 5


LINE = b'{"image": "a.jpg", "caption": "x"}\n'
AMISS = {
    "brackets": (b"[" * 100_000, "captions.jsonl:2: JSON that cannot be held"),
    "digits": (b'{"image": "a.jpg", "caption": "x", "n": ' + b"1" * 5000 + b"}", "captions.jsonl:2: JSON that cannot be held"),
    "half a character": (b'{"image": "a.jpg", "caption": "\\ud83d"}', "captions.jsonl:2: broken JSON .half of a surrogate pair"),
    "a name too long": (b'{"image": "' + b"a" * 5000 + b'.jpg", "caption": "x"}', "captions.jsonl:2: no picture"),
    "a name with a zero": (b'{"image": "a\\u0000.jpg", "caption": "x"}', "captions.jsonl:2: no picture"),
    "a key twice": (b'{"image": "a.jpg", "image": "b.jpg", "caption": "x"}', "captions.jsonl:2: no picture .*b.jpg"),
    "no end": (
        b'{"image": "a.jpg", "caption": "' + b"x" * (1 << 24) + b'"}\n' + LINE,
        "captions.jsonl:2: a line of more than 16 MB",
    ),
}


@pytest.mark.parametrize("what", AMISS)
def test_lines_that_break_parsers(what: str, tmp_path: Path):
    line, said = AMISS[what]
    (tmp_path / "a.jpg").write_bytes(mutations.sound()["plain.jpg"])
    (tmp_path / "captions.jsonl").write_bytes(LINE + line)
    with pytest.raises(UserError, match=said):
        Folder.open(tmp_path, "all")
    splits, problems = Folder.survey(tmp_path)
    assert sum(map(len, splits.values())) == 1, "what is sound is still there"
    assert len(problems) == 1


def test_folders_that_lead_back_into_themselves(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(mutations.sound()["plain.jpg"])
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "again").symlink_to(tmp_path)
    with at_most(5):
        assert len(Folder.open(tmp_path, "all")) == 1
