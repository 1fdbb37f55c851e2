"""From a recipe to a directory that others can read: names, starts from other runs, fine-tuning, evaluation, the log."""

import errno
import json
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
import toy_run
from safetensors.torch import save as to_safetensors
from toy_run import TOKENIZER, Pictures, Toy, ToyConfig, recipe, sources, train

from diptych import checkpoint
from diptych.checkpoint import load_weights, read_weights
from diptych.config import Config, UserError
from diptych.contracts import IGNORE, Batch, Evaluation, LossTerm, Task
from diptych.data.asked import as_asked
from diptych.data.mixture import Source
from diptych.report.profile import profile_page
from diptych.train.held_out import objectives
from diptych.train.log import Journal, append, cut_after, progress_line
from diptych.train.run import evaluate, finetune, measure, pretrain
from diptych.train.start import copy_part


class Colour(Task):
    """Names the colour of the picture; its classes come from the training data."""

    class Config(Config):
        names: tuple[str, ...] = ()

    def __init__(self, config, system, tokenizer):
        super().__init__()
        self.config, self.system = config, system
        self.head = torch.nn.Linear(system.config.width, len(config.names))

    @classmethod
    def prepare(cls, config, readers, tokenizer):
        names = {sample.texts[0].split()[-1] for reader in readers for sample in map(reader.__getitem__, range(len(reader)))}
        return cls.Config(names=tuple(sorted(names)))

    def label(self, batch: Batch) -> Batch:
        wanted = [self.config.names.index(sample.texts[0].split()[-1]) for sample in batch.samples]
        batch.labels["colour"] = torch.tensor(wanted)
        batch.counts["colour"] = float(len(batch))
        return batch

    def logits(self, batch: Batch) -> torch.Tensor:
        assert batch.images is not None
        assert batch.image_of_BN is not None
        mean_I3 = batch.images.pixel_I3HW.float().mean((2, 3)) / 255
        return self.head(self.system.image(mean_I3))[batch.image_of_BN[:, 0]].float()

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        loss = torch.nn.functional.cross_entropy(self.logits(batch), batch.labels["colour"], ignore_index=IGNORE, reduction="sum")
        return {"colour": LossTerm(loss, batch.counts["colour"])}

    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        assert not self.training
        items = []
        for batch in batches:
            right_B = self.logits(batch).argmax(1) == batch.labels["colour"]
            pairs = zip(batch.samples, right_B.tolist(), strict=True)
            items += [{"key": s.key, "score": float(right), "type": s.texts[0].split()[-1]} for s, right in pairs]
        return Evaluation({"accuracy": 100 * sum(i["score"] for i in items) / len(items)}, items, [])


QUIET = {"tokenizer": TOKENIZER, "trackers": (), "quiet": True}


def tuning(**values):
    return recipe({"steps": 60, "lr": 0.05} | values).model_copy(update={"task": Colour.Config()})


def test_a_task_is_tuned_from_a_run_and_evaluated(tmp_path, capsys):
    train(tmp_path / "pre")
    given = {"start": tmp_path / "pre", "evaluate_on": {"val": Pictures(10, name="val")}, **QUIET}
    result = finetune(tuning(), Toy, Colour, sources(), tmp_path / "fine", **given)
    assert (result["split"], result["n"], result["metrics"]["accuracy"]) == ("val", 10, 100)
    assert result["ci95"]["macro"] == [100, 100]
    assert result["from"] == str(tmp_path / "pre")
    config = json.loads((tmp_path / "fine" / "config.json").read_text())
    assert config["recipe"]["task"] == {"names": ["blue", "green", "red", "white"]}
    assert (config["verb"], config["sources"][0]["samples"]) == ("finetune", 40)
    assert "100 (95 %: 100 to 100)" in (tmp_path / "fine" / "README.md").read_text()

    assert "was fine-tuned for" not in capsys.readouterr().err
    talking = {name: value for name, value in QUIET.items() if name != "quiet"}
    again = finetune(tuning(steps=1, lr=1e-9), Toy, Colour, sources(), tmp_path / "more", start=tmp_path / "fine", **talking)
    assert f"{tmp_path / 'fine'} was fine-tuned for {Colour.__module__}: its system is trained on" in capsys.readouterr().err
    ours, theirs = toy_run.weights(tmp_path / "more"), toy_run.weights(tmp_path / "fine")
    torch.testing.assert_close(ours["system.image.weight"], theirs["system.image.weight"])
    assert again["split"] == "train"


def test_weights_of_a_start_are_all_there_and_its_head_is_the_same_on_any_start(tmp_path):
    train(tmp_path / "pre")
    for name, start in (("from", tmp_path / "pre"), ("scratch", None)):
        finetune(tuning(steps=1, lr=1e-12), Toy, Colour, sources(), tmp_path / name, start=start, **QUIET)
    pre, started, scratch = (toy_run.weights(tmp_path / name) for name in ("pre", "from", "scratch"))
    assert all(torch.equal(started[f"system.{name}"], weight) for name, weight in pre.items() if name.startswith("text."))
    torch.testing.assert_close(started["head.weight"], scratch["head.weight"])
    with pytest.raises(UserError, match=r"no model\.safetensors there"):
        finetune(tuning(), Toy, Colour, sources(), tmp_path / "x", start=tmp_path, **QUIET)
    wide = tuning().model_copy(update={"system": ToyConfig(width=8)})
    with pytest.raises(UserError, match="has another shape"):
        finetune(wide, Toy, Colour, sources(), tmp_path / "y", start=tmp_path / "pre", **QUIET)


def test_pre_training_goes_on_from_all_weights_of_a_run(tmp_path):
    train(tmp_path / "first")
    still = recipe({"lr": 1e-12, "steps": 1})
    pretrain(still, Toy, sources(), tmp_path / "further", start=tmp_path / "first", **QUIET)
    before, after = (toy_run.weights(tmp_path / name) for name in ("first", "further"))
    assert before.keys() == after.keys()
    trained = [name for name, _ in Toy(still.system, TOKENIZER).named_parameters()]
    assert {name: torch.allclose(before[name], after[name]) for name in trained} == dict.fromkeys(trained, True)
    assert json.loads((tmp_path / "further" / "config.json").read_text())["from"] == str(tmp_path / "first")


def test_init_copies_a_part_and_says_so(tmp_path, capsys):
    train(tmp_path / "root")
    still = recipe({"steps": 1, "lr": 1e-12, "seed": 5})
    loud = {"tokenizer": TOKENIZER, "trackers": ()}
    pretrain(still, Toy, sources(), tmp_path / "a", init={"image": tmp_path / "root"}, **loud)
    root, ours = toy_run.weights(tmp_path / "root"), toy_run.weights(tmp_path / "a")
    torch.testing.assert_close(ours["image.weight"], root["image.weight"])
    assert not torch.allclose(ours["text.weight"], root["text.weight"])
    assert "image: copied 2 tensors (64 numbers)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the system has no part 'imag'; did you mean 'image'\?"):
        pretrain(still, Toy, sources(), tmp_path / "b", init={"imag": tmp_path / "root"}, **QUIET)
    wide = still.model_copy(update={"system": ToyConfig(width=8)})
    with pytest.raises(UserError, match=r"image\.weight has another shape: \[16, 3\] there, \[8, 3\] here"):
        pretrain(wide, Toy, sources(), tmp_path / "b", init={"image": tmp_path / "root"}, **QUIET)


def test_nothing_to_copy_is_refused_and_little_is_loud(tmp_path):
    train(tmp_path / "root")
    root = {"image.bias": torch.zeros(16), "other.x": torch.zeros(1), "norm.odd": torch.zeros(1)}
    checkpoint.write_file(tmp_path / "root" / "model.safetensors", to_safetensors(root))
    with pytest.raises(UserError, match="not what its run wrote"):
        copy_part(Toy(ToyConfig(), TOKENIZER), "image", tmp_path / "root", TOKENIZER, print)
    (tmp_path / "root" / "result.json").unlink()
    model, told = Toy(ToyConfig(), TOKENIZER), []
    copy_part(model, "image", tmp_path / "root", TOKENIZER, told.append)
    assert told == [
        f"image: WARNING: most of it is new: copied 1 of 2 tensors (16 numbers) from {tmp_path / 'root'};"
        " not there, left as initialised: image.weight"
    ]
    with pytest.raises(UserError, match=r"nothing is named text\.\* there"):
        copy_part(model, "text", tmp_path / "root", TOKENIZER, told.append)
    with pytest.raises(UserError, match=r"nothing of it can be taken.* there it begins with norm\.odd, here with norm\.bias"):
        copy_part(model, "norm", tmp_path / "root", TOKENIZER, told.append)


def test_a_run_that_never_began_leaves_nothing_that_was_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.data.words.LOOKED_AT", 0)  # so that the loader is the first to meet what is barred

    class Barred(Pictures):
        def __getitem__(self, index):
            raise UserError(f"sample {index} is barred")

    out, announced = tmp_path / "runs" / "deep" / "a", []
    begun = {**QUIET, "announce": announced.append}
    for given, said in (
        ({"data": [Source("toy", Barred())]}, "is barred"),
        ({"init": {"imag": tmp_path}}, "no part 'imag'"),
        ({"recipe": recipe({"freeze": ("imag",)})}, "no parameter is named imag"),
    ):
        with pytest.raises(UserError, match=said):
            pretrain(**{"recipe": recipe(), "system": Toy, "data": sources(), "out": out, **begun, **given})
        assert not list(tmp_path.iterdir())
    assert not announced
    out.mkdir(parents=True)
    (out / ".notes").write_text("mine")
    with pytest.raises(UserError, match="is barred"):
        pretrain(recipe(), Toy, [Source("toy", Barred())], out, **begun)
    assert {path.name for path in out.iterdir()} == {".notes", ".lock"}
    pretrain(recipe(), Toy, sources(), out, **begun)
    assert announced == [recipe()]
    with pytest.raises(UserError, match=r"unreadable pictures.* see .*quarantine.jsonl"):
        pretrain(recipe(), Toy, sources(broken=range(1, 40, 2)), tmp_path / "b", **QUIET)
    assert (tmp_path / "b" / "quarantine.jsonl").exists(), "a list of what is broken is worth keeping"


def test_a_batch_of_many_times_the_data_is_said(tmp_path, capsys):
    begun = {"tokenizer": TOKENIZER, "trackers": ()}
    pretrain(recipe({"steps": 1, "batch_size": 400}), Toy, sources(40), tmp_path / "a", **begun)
    pretrain(recipe({"steps": 1, "batch_size": 399}), Toy, sources(40), tmp_path / "b", **begun)
    assert capsys.readouterr().err.count("train.batch_size=400 of 40 samples: each is drawn 10 times in every step") == 1


def test_texts_in_a_script_that_the_vocabulary_lacks_are_refused_before_anything_is_written(tmp_path):
    class Foreign(Pictures):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), texts=("红色的 狗",))

    foreign = [Source("chinese", Foreign(12))]
    for begin in (
        lambda: pretrain(recipe(), Toy, foreign, tmp_path / "run", tokenizer=TOKENIZER),
        lambda: finetune(
            recipe().model_copy(update={"task": Colour.Config()}), Toy, Colour, foreign, tmp_path / "run", tokenizer=TOKENIZER
        ),
    ):
        with pytest.raises(UserError, match=r"^chinese: the vocabulary does not know 100% of the words.*text.vocab=bytes"):
            begin()
    asked = {"evaluate_on": {"val": Foreign(12)}, **QUIET}
    with pytest.raises(UserError, match=r"^val: the vocabulary does not know 100%"):  # not when all is trained
        finetune(tuning(), Toy, Colour, sources(), tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_evaluation_keeps_every_question_in_order(tmp_path):
    model = toy_run.stream_and_model(recipe())[1]
    task = Colour(Colour.Config(names=tuple(sorted(toy_run.COLOURS))), model, TOKENIZER)
    given = tuning().model_copy(update={"data": recipe(data={"workers": 2, "max_broken": 0.1}).data})
    result, evaluation = evaluate(task.train(), given, Pictures(100, frozenset({7})), "val", TOKENIZER)
    assert [item["key"] for item in evaluation.items] == [f"toy-{n}" for n in range(100)]
    assert [entry["key"] for entry in result["broken"]] == ["toy-7"]
    assert task.training
    with pytest.raises(UserError, match=r"val: 20 of 100 samples have unreadable pictures"):
        evaluate(task, given, Pictures(100, frozenset(range(20))), "val", TOKENIZER)


def test_shuffled_texts_stand_beside_the_pictures_of_others(tmp_path):
    """In training and in evaluation: texts and their order stay, no picture is its own, and a task that reads it is at chance."""
    given = recipe(data={"shuffled": True})
    (own, model), mixed = toy_run.stream_and_model(recipe()), toy_run.stream_and_model(given)[0]
    ours = [own.deliver(k).batch for k in range(5)]
    theirs = [replace(mixed, shuffled=True).deliver(k).batch for k in range(5)]
    assert all(a.keys == b.keys and torch.equal(a.text_BT, b.text_BT) for a, b in zip(ours, theirs, strict=True))
    colour_B, shown_B = (torch.cat([b.images.pixel_I3HW[b.image_of_BN[:, 0], :, 0, 0] for b in some]) for some in (ours, theirs))
    assert 0.5 < (colour_B != shown_B).any(1).float().mean() < 1  # of 40, nine others have its colour

    finetune(tuning(), Toy, Colour, sources(), tmp_path / "fine", **QUIET)
    task = Colour(Colour.Config(names=tuple(sorted(toy_run.COLOURS))), model, TOKENIZER)
    load_weights(task, read_weights(tmp_path / "fine" / "model.safetensors"), "fine")
    blind = tuning().model_copy(update={"data": given.data})
    seeing, shuffled = (evaluate(task, one, Pictures(100), "val", TOKENIZER)[1].items for one in (tuning(), blind))
    assert sum(item["score"] for item in seeing) == 100
    assert 10 < sum(item["score"] for item in shuffled) < 40


def test_languages_and_noise_are_of_the_recipe_whoever_begins_the_run(tmp_path):
    """Every third sample is Swahili: a run that asks for it trains on those, spoilt, and is measured on those as they are."""

    class Spoken(Pictures):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), language="en" if index % 3 else "sw")

    swahili, model = recipe({"validate_every": 4}, {"languages": ("sw",), "noise": 1.0}), toy_run.stream_and_model(recipe())[1]
    spoken = [Source("toy", Spoken(90))]
    learnt = as_asked(spoken, swahili, training=True)[0].reader
    assert [sample.language for sample in learnt] == ["sw"] * 30
    same = sum(learnt[n].texts == spoken[0].reader[3 * n].texts for n in range(30))
    assert same < 10  # another sample's text, a third of them, is of ten colours at times the same
    about = {"system": "toy", "preset": None, "task": None, "data": ["toy"], "from": "x"}
    result, _ = measure(model, swahili, spoken, "val", TOKENIZER, about=about)
    thirds = objectives(model, recipe(), [Source("toy", [spoken[0].reader[n] for n in range(0, 90, 3)])], TOKENIZER)
    assert (result["n"], result["metrics"]) == (30, thirds.metrics)
    for unheard in ({"data": spoken}, {"data": sources(), "held_out": spoken}):
        with pytest.raises(UserError, match="no sample in 'uk'"):
            pretrain(recipe({"validate_every": 4}, {"languages": ("uk",)}), Toy, out=tmp_path, **unheard, **QUIET)


def test_objectives_on_held_out_samples_with_their_intervals():
    """Each sample once, as one pass over all of them says; the interval holds the mean and shrinks with more batches."""
    model, given = toy_run.stream_and_model(recipe())[1], recipe()
    found = {size: objectives(model, given, sources(size), TOKENIZER) for size in (64, 640)}
    for size, measured in found.items():
        assert measured.n == size
        parts = [batch["loss/mlm"] for batch in measured.batches]
        assert measured.metrics["loss/mlm"] == pytest.approx(sum(a for a, _ in parts) / sum(b for _, b in parts))
    low, high = found[640].ci95()["loss/mlm"]
    assert low < found[640].metrics["loss/mlm"] < high
    assert found[64].ci95()["loss/mlm"] == pytest.approx([found[64].metrics["loss/mlm"]] * 2)  # one batch tells no spread


def test_a_run_tells_tensorboard_and_whatever_else_is_asked_for(tmp_path, monkeypatch):
    calls = []

    class Trackio:
        init = staticmethod(lambda **about: calls.append(about["name"]))
        log = staticmethod(lambda record, step: calls.append(step))
        finish = staticmethod(lambda: calls.append("end"))

    monkeypatch.setitem(sys.modules, "trackio", Trackio)
    pretrain(recipe(), Toy, sources(), tmp_path, tokenizer=TOKENIZER, trackers=("tensorboard", "trackio"), quiet=True)
    assert calls == [tmp_path.name, 2, 4, 6, 8, "end"]
    assert list((tmp_path / "tensorboard").glob("events*"))
    with pytest.raises(UserError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        pretrain(recipe(), Toy, sources(), tmp_path / "b", tokenizer=TOKENIZER, trackers=("tensorbord",), quiet=True)


def test_a_probe_sees_the_model_and_disturbs_nothing(tmp_path):
    seen = []

    def probe(model):
        seen.append(model.training)
        torch.rand(3)
        return {"answer": 42.0}

    pretrain(recipe(), Toy, sources(), tmp_path / "a", probe=probe, **QUIET)
    train(tmp_path / "b")
    assert seen == [False] * 3
    assert [line["step"] for line in toy_run.log_of(tmp_path / "a") if "val/answer" in line] == [3, 6, 8]
    assert toy_run.state_of(tmp_path / "a")["model.safetensors"] == toy_run.state_of(tmp_path / "b")["model.safetensors"]


def test_a_profile_says_where_time_went_and_changes_nothing(tmp_path):
    drawn = []

    def page(found, run):
        drawn.append(found)
        return profile_page(found, run)

    asked = recipe({"steps": 16})
    pretrain(asked, Toy, sources(), tmp_path / "watched", profile=page, **QUIET)
    pretrain(asked, Toy, sources(), tmp_path / "plain", **QUIET)
    [found] = drawn
    assert [cost.name for cost in found.stages] == ["fetch", "forward", "backward", "update"]
    assert found.steps == 10 and all(cost.calls == 1 for cost in found.stages)
    assert 0 < sum(cost.milliseconds for cost in found.stages) <= found.milliseconds
    assert {"image", "text", "norm", "bright"} <= {cost.name for cost in found.parts}, "parts have the names of the system's file"
    spent = [cost.milliseconds for cost in found.operations]
    assert len(spent) == 20 and spent == sorted(spent, reverse=True)
    assert found.operations[0].name in (tmp_path / "watched" / "profile.html").read_text()
    trace = json.loads((tmp_path / "watched" / "profile-trace.json").read_text())
    assert {"forward", "backward", "part: norm"} <= {event.get("name") for event in trace["traceEvents"]}
    assert toy_run.state_of(tmp_path / "watched")["model.safetensors"] == toy_run.state_of(tmp_path / "plain")["model.safetensors"]


def test_a_run_too_short_for_a_profile_says_so(tmp_path, capsys):
    options = {**QUIET, "quiet": False}
    pretrain(recipe({"steps": 12}), Toy, sources(), tmp_path, profile=profile_page, **options)
    assert "nothing was recorded; it takes 15 steps, and there were 12" in capsys.readouterr().err
    assert not (tmp_path / "profile.html").exists()


def test_logs_are_cut_where_the_checkpoint_stands(tmp_path):
    log = tmp_path / "log.jsonl"
    for step in (2, 4, 6):
        append(log, json.dumps({"step": step}).encode() + b"\n")
    with log.open("ab") as file:
        file.write(b'{"step": 8, "lo')
    cut_after(log, 4)
    assert log.read_text() == '{"step": 2}\n{"step": 4}\n'


def test_the_line_a_person_reads():
    record = {"step": 1200, "samples": 19200, "loss": 2.6, "loss/mlm": 2.3141, "loss/itm": 0.5, "skipped": 0}
    record |= {"samples_per_second": 400.0, "waiting": 0.02, "memory_gb": 0.94}
    expected = "step 1200/6000  mlm 2.314  itm 0.500  400 samples/s  waiting 2%  0.9 GB  3:12 left"
    assert progress_line(record, 6000) == expected


def test_what_a_disk_refuses_a_tracker_s_thread_is_a_line_and_other_errors_are_as_they_were(tmp_path, monkeypatch, capsys):
    def refused():
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrong():
        raise LookupError("not the disk")

    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    with Journal(tmp_path, 8).open(0, {}):
        for work in (refused, refused, wrong):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert capsys.readouterr().err == "cannot write tracker: No space left on device; training goes on\n"
    assert seen == [LookupError]
