"""One optimiser step: the right mean, the guard, what is skipped, kept and told."""

import errno
import json
from dataclasses import replace

import pytest
import torch
import toy_run
from toy_run import Toy, state_of, train, weights

from diptych import checkpoint
from diptych.config import UserError


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_accumulation_is_the_mean_over_the_whole_batch(tmp_path):
    """Against a loop written out: one batch of everything, losses divided by their counts, torch's own AdamW and clipping."""
    gentle = {"eps": 1e-3, "accumulate": 4}
    train(tmp_path, train=gentle, norm=False, dropout=0.0)

    given = toy_run.recipe({"eps": 1e-3}, norm=False, dropout=0.0)
    stream, model = toy_run.stream_and_model(given)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    other = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-3, fused=False, foreach=False)
    for step in range(8):
        batch = stream.deliver(step).batch
        terms = model(batch)
        optimizer.zero_grad()
        (terms["mlm"].sum / batch.counts["mlm"] + 0.5 * terms["bright"].sum / batch.counts["bright"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1.0 if step < 1 else (8 - step) / 7)  # one step of warm-up, then down to 1/7
        optimizer.step()
        model.after_step()
    assert_close(checkpoint.weights_of(model), weights(tmp_path))


class Poisoned(Toy):
    """From the fourth step on, for `length` steps, one thing is not finite."""

    where = "loss"
    length = 1

    def forward(self, batch):
        self.calls = getattr(self, "calls", 0) + 1
        is_poisoned = 4 <= self.calls < 4 + self.length
        if is_poisoned and self.where == "input":  # batch normalisation sees it before any loss does
            hook = self.image.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        terms = super().forward(batch)
        if is_poisoned and self.where == "input":
            hook.remove()
        if is_poisoned and self.where == "loss":
            terms["mlm"] = replace(terms["mlm"], sum=terms["mlm"].sum + float("inf"))
        if is_poisoned and self.where == "gradient":
            terms["mlm"].sum.register_hook(lambda gradient: gradient * float("nan"))
        return terms


@pytest.mark.parametrize("where", ["loss", "gradient", "input"])
def test_a_step_that_is_not_finite_changes_nothing(where, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Poisoned, "where", where)
    kept = {}
    update = torch.optim.AdamW.step

    def recorded(optimizer, *args):
        kept["updates"] = kept.get("updates", 0) + 1
        return update(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    result = train(tmp_path, cls=Poisoned, quiet=False)
    (skipped,) = (json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert skipped["step"] == 4
    assert skipped["not_finite"] == {"gradient": ["gradient"], "loss": ["loss/mlm"], "input": ["loss/mlm", "loss/bright"]}[where]
    assert skipped["samples"][0]["keys"] == [f"toy-{index}" for index in toy_run.indices(range(24, 32))]
    assert (result["skipped"], kept["updates"]) == (1, 7)
    assert all(weight.isfinite().all() for weight in weights(tmp_path).values())
    assert "step 4 skipped" in capsys.readouterr().err


def test_a_burst_that_does_not_end_stops_with_the_state_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Poisoned, "length", 100)
    with pytest.raises(UserError, match=r"3 steps in a row .* the state after step 3 saved"):
        train(tmp_path, cls=Poisoned, train={"max_skipped": 3, "checkpoint_every": 8})  # so the burst's end is what writes it
    train(tmp_path / "until", train={"max_skipped": 3, "checkpoint_every": 1}, stop_after=3)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert state_of(tmp_path)[name] == state_of(tmp_path / "until")[name]
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 3


def test_a_learning_rate_that_destroys_the_weights_does_not_reach_the_disk(tmp_path):
    with pytest.raises(UserError, match="no longer finite at step 1: stopped; there is no checkpoint yet"):
        train(tmp_path, train={"lr": 1e38, "checkpoint_every": 1, "clip": None, "schedule": "constant"})
    assert not (tmp_path / "checkpoints").exists()


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    save, at = checkpoint.save, []

    def full(root, step, tensors, state):
        at.append(step)
        if step == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(root, step, tensors, state)

    monkeypatch.setattr(checkpoint, "save", full)
    train(tmp_path, quiet=False)
    assert at == [3, 6, 8]
    assert (
        "step 6 could not be written (No space left on device); the last good checkpoint is that of step 3"
        in capsys.readouterr().err
    )


def test_a_place_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a run directory: "):
        train(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be used as a run directory: "):
        train(tmp_path / "file" / "below")


def test_counts_that_were_not_announced_are_our_fault(tmp_path):
    class Miscounting(Toy):
        def forward(self, batch):
            terms = super().forward(batch)
            return terms | {"mlm": replace(terms["mlm"], count=terms["mlm"].count + 1)}

    with pytest.raises(RuntimeError, match="loss 'mlm' of Miscounting"):
        train(tmp_path, cls=Miscounting)


# ------------------------------------------------------------------------------------------------------ broken pictures


def test_a_broken_picture_is_replaced_counted_and_listed(tmp_path):
    loose = {"max_broken": 0.2}
    train(tmp_path / "a", source=toy_run.sources(40, [3, 11]), data=loose, train={"steps": 15})
    train(tmp_path / "b", source=toy_run.sources(40, [3, 11]), data=loose | {"workers": 2}, train={"steps": 15})
    assert state_of(tmp_path / "a") == state_of(tmp_path / "b")
    listed = [json.loads(line) for line in (tmp_path / "a" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(entry["key"] for entry in listed) == ["toy-11", "toy-3"]
    assert all(entry["reason"] for entry in listed)


def test_too_many_broken_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"have unreadable pictures, above data\.max_broken=0\.01: see .*quarantine\.jsonl"):
        train(tmp_path, source=toy_run.sources(40, range(10)))
    for workers in (0, 1):  # from a loader process, too, it is one line
        with pytest.raises(UserError, match=r"^32 samples in a row have unreadable pictures, last .*$"):
            train(tmp_path / f"all{workers}", source=toy_run.sources(40, range(40)), data={"workers": workers})


def test_one_broken_picture_in_a_small_folder_is_no_reason_to_refuse(tmp_path):
    train(tmp_path, source=toy_run.sources(12, [5]))
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 1


def test_what_cannot_be_computed_again_is_not_asked_to_be(tmp_path):
    with pytest.raises(UserError, match=r"train\.recompute=true is for transformer layers"):
        train(tmp_path, train={"recompute": True})
