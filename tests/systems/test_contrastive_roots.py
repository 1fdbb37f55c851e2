"""What SimCLR and MoCo keep beyond the contract: normalisation groups over ranks, skipped steps, and an encoder to start from."""

import os
import subprocess
import sys
from pathlib import Path

import moco_ranks_program as program
import pytest
import torch

from diptych import config, find
from diptych.atelier import names
from diptych.config import UserError
from diptych.data.concepts import Concepts
from diptych.text.tokenizer import wordpiece

PROGRAM = Path(program.__file__)
TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no"])


def test_shuffled_groups_are_the_same_on_two_ranks_and_in_one_process(tmp_path: Path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, str(PROGRAM), str(rank), str(tmp_path)] for rank in range(2)]
    ranks = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-3000:]
    expected = program.step(range(8), groups=2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, tensor in expected.items():
        torch.testing.assert_close(both[0][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        if name.startswith("buffer"):
            assert torch.equal(both[0][name], both[1][name]), f"{name}: ranks agree to the bit"
    in_one_group = program.step(range(8), groups=1)
    assert not torch.allclose(in_one_group["buffer/queue.key_KE"], expected["buffer/queue.key_KE"]), "groups matter"


def test_keys_of_a_group_do_not_meet_their_queries():
    """Shuffled: some key is normalised with other pictures than its query. In order, all would be with the same."""
    *_, batch = program.built(range(8), groups=2)
    place = batch.labels["shuffle"].argsort(stable=True)
    assert sorted(place[:4].tolist()) not in ([0, 1, 2, 3], [4, 5, 6, 7])
    with pytest.raises(UserError, match=r"system\.groups: 3 groups of one size"):
        program.step(range(8), groups=3)


def test_a_skipped_step_leaves_no_trace():
    _, system, batch = program.built(range(8), groups=1)
    system(batch)
    before = {name: buffer.clone() for name, buffer in system.named_buffers()}
    system.discard_step()
    system(batch)
    system.discard_step()
    assert all(torch.equal(buffer, before[name]) for name, buffer in system.named_buffers())
    assert not system.queue._staged


@pytest.mark.parametrize("root", ["simclr", "moco"])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_the_encoder_is_that_of_crossgrid(root: str, preset: str):
    parts = []
    for name in (root, "crossgrid"):
        found = find.system(f"{name}:{preset}")
        with torch.device("meta"):
            weights = found.cls(found.recipe.system, TOKENIZER).state_dict()
        parts.append({name: tensor.shape for name, tensor in weights.items() if name.startswith("image.")})
    assert parts[0] == parts[1]


@pytest.mark.parametrize("root", ["simclr", "moco"])
def test_the_published_encoder_is_resnet_50(root: str):
    found = find.system(f"{root}:paper")
    with torch.device("meta"):
        system = found.cls(found.recipe.system, TOKENIZER)
    assert sum(p.numel() for p in system.image.parameters()) == 23_508_032, "torchvision's 25,557,032 without its classifier"
    with pytest.raises(UserError, match=r"ResNet-50 is 2048 wide: set system\.width=2048"):
        found.recipe.system.image.build(128)


def test_drawings_of_seen_and_unseen_artists(tmp_path: Path):
    """Every drawing of a training artist is in `train` or in `seen`, once; the other splits' artists are in neither."""
    names.make(tmp_path, small=True)
    splits = {split: Concepts.open(tmp_path, split) for split in ("train", "seen", "val", "test")}
    shown = {split: [reader[i] for i in range(len(reader))] for split, reader in splits.items()}
    pictures = {split: {sample.images[0] for sample in samples} for split, samples in shown.items()}
    artists = {split: {path.parent.name for path in paths} for split, paths in pictures.items()}
    assert artists["train"] == artists["seen"] == set(names.FAMILIES["train"])
    assert not artists["train"] & (artists["val"] | artists["test"])
    assert not pictures["train"] & pictures["seen"]
    everything = {path for family in names.FAMILIES["train"] for path in (tmp_path / "images" / family).glob("*.jpg")}
    assert pictures["train"] | pictures["seen"] == everything
    labels = {sample.labels["label"] for sample in shown["train"]}
    assert all(sample.labels["label"] in labels for sample in shown["seen"])
    assert all(sample.images[0].stem == sample.labels["label"] for samples in shown.values() for sample in samples)
    with pytest.raises(UserError, match="has no split 'tset'"):
        Concepts.open(tmp_path, "tset")


def test_a_file_can_change_the_kind_of_encoder():
    recipe = find.system("simclr:tiny").recipe
    changed = config.resolve(recipe, config.from_setting("system.image.kind=resnet"), config.from_setting("system.image.depth=18"))
    assert changed.system.image.depth == 18
