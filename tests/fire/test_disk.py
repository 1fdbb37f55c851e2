"""A disk that is full, forbidden, torn or shared: what was good stays, one line says what is the matter, the exit code is 2."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import toy_run
from safetensors.torch import save as to_safetensors
from toy_run import state_of, train

from diptych import checkpoint, cli
from diptych.config import UserError

PER_STEP = {"checkpoint_every": 1, "log_every": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its last two checkpoints, steps 7 and 8."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out, train=PER_STEP)
    return out


@pytest.fixture
def begun(whole: Path, tmp_path: Path) -> Path:
    """The same run, killed before it could write its result."""
    out = shutil.copytree(whole, tmp_path / "run")
    for file in ("result.json", "model.safetensors", "README.md"):
        (out / file).unlink()
    return out


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Real short writes: the kernel refuses what would be longer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


# --------------------------------------------------------------------------------------------------------------- full


@pytest.mark.parametrize("size", [0, 60, 700])
def test_with_room_again_the_command_ends_as_if_nothing_had_been(size: int, whole: Path, tmp_path: Path, monkeypatch):
    """Whatever fits: nothing at all, a line, a small file. Then there is room, and the run is the run."""
    out = tmp_path / "run"
    with (
        files_of_at_most(size),
        pytest.raises(UserError, match=r"cannot be written.*: File too large"),
    ):
        train(out, train=PER_STEP)
    train(out, train=PER_STEP)
    assert state_of(out) == state_of(whole)


def test_an_error_at_any_write_costs_nothing(begun: Path, whole: Path, tmp_path: Path, monkeypatch):
    """Every call of those below fails once, in turn, while the last step is taken."""
    shutil.rmtree(begun / "checkpoints" / "step-00000008")
    calls, failing = -(10**9), 0

    def counted(call):
        def called(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **kwargs)

        return called

    with monkeypatch.context() as patched:
        for name in ("fsync", "rename", "replace", "mkdir", "ftruncate"):
            patched.setattr(os, name, counted(getattr(os, name)))
        seen = 0
        while True:
            failing += 1
            out = shutil.copytree(begun, tmp_path / f"at{failing}")
            calls = 0
            try:
                train(out, train=PER_STEP)
            except UserError as error:
                seen += "No space left on device" in str(error)
            saved = checkpoint.newest(out / "checkpoints", pytest.fail)
            assert saved is not None and saved.step >= 7
            if calls < failing:
                break
            calls = -(10**9)
            train(out, train=PER_STEP)
            assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert failing > 10 and seen > 3


# ---------------------------------------------------------------------------------------------------------- forbidden


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_file_where_a_directory_should_be(name: str, tmp_path: Path):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"{name}: a directory is needed here, and there is a file"):
        train(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metrics.jsonl", "skipped.jsonl", ".lock"])
def test_a_directory_where_a_file_should_be(name: str, tmp_path: Path):
    (tmp_path / name).mkdir()
    said = rf"(cannot be written: Is a directory .*{name}|is no run's directory: {name} is there)"
    with pytest.raises(UserError, match=said):
        train(tmp_path)


def test_a_lock_that_someone_left_is_no_lock(begun: Path, whole: Path):
    (begun / ".lock").write_text("process 1\n")
    train(begun, train=PER_STEP)
    assert state_of(begun) == state_of(whole)


# --------------------------------------------------------------------------------------------------------------- torn


@pytest.mark.parametrize("many", [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.slow)])
def test_a_checkpoint_cut_at_any_byte_is_told_and_the_one_before_is_taken(many: bool, begun: Path):
    """Every file of it; every byte in the slow form, some forty of each otherwise."""
    newest = begun / "checkpoints" / "step-00000008"
    for file in sorted(newest.iterdir()):
        content = file.read_bytes()
        for size in range(0, len(content), 1 if many else max(1, len(content) // 40)):
            file.write_bytes(content[:size])
            told: list[str] = []
            saved = checkpoint.newest(begun / "checkpoints", told.append)
            assert saved is not None
            if saved.step == 8:  # the manifest without its last line feed
                assert (file.name, size) == ("manifest.json", len(content) - 1)
            else:
                assert saved.step == 7 and len(told) == 1 and str(newest) in told[0], (file.name, size)
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_after_a_torn_checkpoint_the_run_ends_as_it_would_have(name: str, begun: Path, whole: Path, capsys):
    file = begun / "checkpoints" / "step-00000008" / name
    file.write_bytes(file.read_bytes()[:-20])
    train(begun, train=PER_STEP, quiet=False)
    said = capsys.readouterr().err
    assert f"skipped {file.parent}" in said
    assert "resumed after step 7 of 8" in said
    assert state_of(begun) == state_of(whole)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"recipe": 5}', b"\xff", b'{"recipe": {}, "sources": 7}'])
def test_a_configuration_that_is_none_is_one_line(content: bytes, begun: Path):
    (begun / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: (not readable|not as Diptych wrote it)"):
        train(begun, train=PER_STEP)


def test_a_checkpoint_with_code_in_it_is_not_executed(begun: Path, tmp_path: Path):
    """Even where its manifest vouches for it."""
    import hashlib
    import pickle

    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    newest = begun / "checkpoints" / "step-00000008"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        kept = {file: file.read_bytes() for file in newest.iterdir()}
        content = pickle.dumps(Evil())
        (newest / name).write_bytes(content)
        manifest = json.loads(kept[newest / "manifest.json"])
        manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (newest / "manifest.json").write_text(json.dumps(manifest))
        told: list[str] = []
        saved = checkpoint.newest(begun / "checkpoints", told.append)
        assert saved is not None and saved.step == 7 and len(told) == 1
        for file, before in kept.items():
            file.write_bytes(before)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil()))
    assert mark.exists(), "it would have left a mark"


@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_published_weights_with_code_in_them_are_not_executed(kind: str, tmp_path: Path, monkeypatch, capsys):
    import pickle

    import torch

    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    file = tmp_path / "evil.ckpt"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    else:
        torch.save({"state_dict": {"a": Evil()}}, file)
    code = cli.call(["convert", "vilt", str(file), str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == 2 and "cannot be read as plain tensors" in said and said.count("\n") == 1, said
    assert not mark.exists()


# ---------------------------------------------------------------------------------------------------- runs read back


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory as `--from` takes it, without the training."""
    import torch

    from diptych import find
    from diptych.text import tokenizer
    from diptych.train.run import build_system

    out = tmp_path_factory.mktemp("tiny") / "run"
    out.mkdir()
    found, words = find.system("vilt:tiny"), tokenizer.load("atelier")
    words.save(out / "tokenizer.json")
    about = {"system": "vilt", "preset": "tiny", "task": None, "recipe": found.recipe.model_dump(mode="json"), "data": ["scenes"]}
    checkpoint.write_json(out / "config.json", about)
    (out / "model.safetensors").write_bytes(to_safetensors(checkpoint.weights_of(build_system(found.recipe, found.cls, words))))
    del torch
    return out


BROKEN_RUN = {
    "cut weights": ("model.safetensors", lambda content: content[:-100]),
    "no weights": ("model.safetensors", lambda content: b""),
    "cut vocabulary": ("tokenizer.json", lambda content: content[: len(content) // 2]),
    "other vocabulary": ("tokenizer.json", lambda content: b"[]"),
    "cut configuration": ("config.json", lambda content: content[: len(content) // 2]),
    "a list": ("config.json", lambda content: b"[1]"),
    "a number for a recipe": ("config.json", lambda content: b'{"recipe": 5, "system": "vilt"}'),
    "a number for a system": ("config.json", lambda content: content.replace(b'"system": "vilt"', b'"system": 5')),
    "no such system": ("config.json", lambda content: content.replace(b'"system": "vilt"', b'"system": "vilq"')),
    "a list for a part": ("config.json", lambda content: content.replace(b'"text": {', b'"text": [], "txt": {')),
    "no training": ("config.json", lambda content: content.replace(b'"steps"', b'"stps"')),
    "another encoding": ("config.json", lambda content: content.decode().encode("utf-16")),
    "deep": ("config.json", lambda content: b"[" * 100_000),
}


@pytest.mark.parametrize("what", BROKEN_RUN)
def test_a_broken_run_is_refused_in_a_line(what: str, tiny: Path, tmp_path: Path, capsys):
    out = shutil.copytree(tiny, tmp_path / "run")
    name, change = BROKEN_RUN[what]
    (out / name).write_bytes(change((out / name).read_bytes()))
    assert cli.call(["ask", "a.jpg", "hello", "--from", str(out), "--out", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("diptych: ") and "Traceback" not in said


def test_the_disks_refusals_are_not_our_fault(tmp_path: Path, monkeypatch, capsys):
    """Wherever they are met: here, by the last thing that a command writes."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        assert cli._explain(OSError(number, os.strerror(number), str(blocked))) == 2
        assert capsys.readouterr().err == f"diptych: {blocked}: {os.strerror(number)}\n"
    assert cli._explain(OSError(errno.EBADF, "Bad file descriptor")) == 1


# ----------------------------------------------------------------------------------------------------- two in one place


def test_a_second_run_in_a_directory_exits_with_2(tmp_path: Path, monkeypatch):
    """Two processes for real; the first is not disturbed."""
    program = f"""
import sys; sys.path.insert(0, {str(Path(toy_run.__file__).parent)!r})
import toy_run
from diptych.config import UserError
try:
    toy_run.train(toy_run.Path({str(tmp_path)!r}))
except UserError as error:
    print(error)
    sys.exit(2)
"""
    entered: list[subprocess.CompletedProcess[str]] = []

    def enter(model) -> dict[str, float]:
        if not entered:
            entered.append(
                subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
            )
        return {}

    options = {"tokenizer": toy_run.TOKENIZER, "trackers": (), "quiet": True}
    toy_run.pretrain(toy_run.recipe(), toy_run.Toy, toy_run.sources(), tmp_path, probe=enter, **options)
    (second,) = entered
    assert second.returncode == 2
    assert f"another process is training here (process {os.getpid()})" in second.stdout
    assert (tmp_path / "result.json").exists()
