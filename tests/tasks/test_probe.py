"""The probe leaves the encoder alone, its neighbours vote as in a slow loop, and a run of it ends with both figures."""

import math
from collections import defaultdict
from pathlib import Path

import torch

from diptych import find
from diptych.atelier import names
from diptych.data.concepts import Concepts
from diptych.data.mixture import Source
from diptych.systems import simclr
from diptych.systems.simclr import SimCLR
from diptych.tasks import probe
from diptych.tasks.probe import Probe
from diptych.text.tokenizer import wordpiece
from diptych.train.run import build_system, finetune

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


def test_neighbours_vote_as_in_a_slow_loop():
    random = torch.Generator().manual_seed(0)
    config = Probe.Config(labels=("a", "b", "c"), neighbours=4, temperature=0.1, bank=9)
    task = Probe(config, SimCLR(simclr.tiny().system, TOKENIZER), TOKENIZER)
    x = torch.randn(5, 32, generator=random)
    assert not task.votes(x).any(), "an empty bank has no opinion"
    bank, label = torch.randn(7, 32, generator=random), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    task._staged.append((bank, label))
    task.after_step()
    for row, found in zip(x, task.votes(x), strict=True):
        cosines = [float(torch.cosine_similarity(row - bank.mean(0), one - bank.mean(0), dim=0)) for one in bank]
        votes: dict[int, float] = defaultdict(float)
        for cosine, name in sorted(zip(cosines, label.tolist(), strict=True), reverse=True)[:4]:
            votes[name] += math.exp((cosine - 1) / 0.1)
        torch.testing.assert_close(found, torch.tensor([votes[k] for k in range(3)]), rtol=1e-3, atol=1e-6)


def test_a_run_fills_the_bank_and_leaves_the_encoder_alone(tmp_path: Path):
    names.make(tmp_path / "names", small=True)
    recipe = probe.finetuning(simclr.tiny())
    train = recipe.train.model_copy(update={"steps": 3, "batch_size": 32})
    recipe = recipe.model_copy(update={"train": train})
    sources = [Source("names", Concepts.open(tmp_path / "names", "train"))]
    seen = Concepts.open(tmp_path / "names", "seen", limit=20)
    out = tmp_path / "run"
    result = finetune(recipe, SimCLR, Probe, sources, out, evaluate_on={"seen": seen}, tokenizer=TOKENIZER, trackers=(), quiet=True)
    assert result["n"] == 20 and result["metrics"].keys() == {"linear", "knn"}
    from diptych.load import load

    task = load(out).task
    assert isinstance(task, Probe)
    assert (task.bank_label_K >= 0).sum() == min(96, len(task.bank_label_K))
    fresh = build_system(recipe, SimCLR, TOKENIZER).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in task.system.state_dict().items())
    assert find.readers([str(tmp_path / "names")], "train", "probe")[0].reader.fingerprint == sources[0].reader.fingerprint
