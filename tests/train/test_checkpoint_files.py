"""A checkpoint is whole or absent, whatever happens while it is written or afterwards."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from diptych import checkpoint
from diptych.config import UserError


def write(root: Path, step: int, value: float = 0.0) -> Path:
    return checkpoint.save(root, step, {"model": {"w": torch.full((50,), value)}, "optimizer": {}}, {"note": "é"})


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path, 7, 1.5)
    saved = checkpoint.newest(tmp_path, pytest.fail)
    assert saved is not None
    assert (saved.step, saved.state["note"]) == (7, "é")
    assert torch.equal(saved.tensors["model"]["w"], torch.full((50,), 1.5))
    assert saved.tensors["optimizer"] == {}


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_checkpoint_cut_or_altered_anywhere_is_skipped(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("torn")
    write(root, 1, 1.0)
    newest = write(root, 2, 2.0)
    name = data.draw(st.sampled_from(sorted(path.name for path in newest.iterdir())))
    content = (newest / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        (newest / name).write_bytes(content[:place])
    else:
        (newest / name).write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
    told: list[str] = []
    saved = checkpoint.newest(root, told.append)
    assert saved is not None
    if saved.step == 2:  # only the manifest holds bytes that say nothing: white space, a size
        assert name == "manifest.json"
        assert torch.equal(saved.tensors["model"]["w"], torch.full((50,), 2.0))
    else:
        assert len(told) == 1
        assert "step-00000002" in told[0]


def test_when_all_are_damaged_nothing_is_started_over(tmp_path):
    (write(tmp_path, 1) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(step-00000001\)"):
        checkpoint.newest(tmp_path, lambda message: None)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 about fork beside threads
@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir", "unlink", "rmdir"])
def test_killed_at_any_system_call(call, tmp_path, monkeypatch):
    """In a child process, die at the k-th such call of the third `save`; the parent then finds step 2 or step 3, whole."""
    for k in range(12):
        root = tmp_path / str(k)
        write(root, 1, 1.0)
        write(root, 2, 2.0)
        child = os.fork()
        if child == 0:
            _die_at(call, k)
            write(root, 3, 3.0)
            os._exit(0)
        finished = os.waitpid(child, 0)[1] == 0
        saved = checkpoint.newest(root, pytest.fail)
        assert saved is not None
        assert saved.step in ((3,) if finished else (2, 3))
        assert torch.equal(saved.tensors["model"]["w"], torch.full((50,), float(saved.step)))
        write(root, 4)
        assert sorted(path.name for path in root.iterdir())[-1] == "step-00000004"
        assert not list(root.glob(".*"))
        if finished:
            return


def _die_at(call: str, k: int) -> None:
    original = getattr(os, call)
    count = 0

    def dying(*args, **kwargs):
        nonlocal count
        count += 1
        if count > k:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, call, dying)


@pytest.mark.parametrize("step", [2, 3])
def test_a_full_disk_costs_nothing_that_was_there(step, tmp_path):
    """Real short writes: the kernel refuses files above a size."""
    write(tmp_path, 1, 1.0)
    write(tmp_path, 2, 2.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(OSError, match="too large") as failed:
            write(tmp_path, step, 3.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert failed.value.errno == errno.EFBIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    saved = checkpoint.newest(tmp_path, pytest.fail)
    assert saved is not None
    assert saved.step == 2


def test_a_torn_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 1, 1.0)
    (write(tmp_path, 2, 2.0) / "state.json").write_text("{}")
    write(tmp_path, 2, 5.0)
    saved = checkpoint.newest(tmp_path, pytest.fail)
    assert saved is not None
    assert torch.equal(saved.tensors["model"]["w"], torch.full((50,), 5.0))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.word.weight
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def test_tied_and_strided_weights_survive():
    model, other = Tied(), Tied()
    weights = checkpoint.weights_of(model)
    assert sorted(weights) == ["conv.bias", "conv.weight", "word.weight"]
    checkpoint.load_weights(other, load(save(weights)), "there")
    assert torch.equal(other.head.weight, model.word.weight)
    assert other.head.weight is other.word.weight
    assert torch.equal(other.conv.weight, model.conv.weight)
    assert other.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_of_another_model_are_named():
    with pytest.raises(UserError, match=r"there has no conv\.bias \(3 missing, 1 unexpected\)"):
        checkpoint.load_weights(Tied(), {"x": torch.zeros(1)}, "there")
    wrong = {**checkpoint.weights_of(Tied()), "conv.bias": torch.zeros(9)}
    with pytest.raises(UserError, match=r"conv\.bias has another shape: \[9\] there, \[4\] in the model"):
        checkpoint.load_weights(Tied(), wrong, "there")


def test_a_pickle_is_not_opened(tmp_path):
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    file = tmp_path / "model.safetensors"
    torch.save(Evil(), file)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        checkpoint.read_weights(file)
    assert not mark.exists()


def test_small_files_are_old_or_new(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    checkpoint.write_json(file, {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
