"""What a root has learnt arrives in the system that starts from it, and says there what it said before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diptych import find
from diptych.config import UserError
from diptych.contracts import IGNORE, Fused
from diptych.data import folder
from diptych.data.collate import Collate
from diptych.data.folder import Folder
from diptych.data.mixture import Source
from diptych.data.picture import decode_sample
from diptych.draw import Draw
from diptych.objectives.naming import Naming
from diptych.systems import vilt, vit
from diptych.systems.vilt import ViLT
from diptych.systems.vit import ViT
from diptych.text import tokenizer as vocabulary
from diptych.text.tokenizer import wordpiece
from diptych.train.run import build_system, pretrain
from diptych.train.start import copy_part

ROOTS = (("vit", "vilt", ("image", "fusion")), ("cnn", "crossgrid", ("image", "text")), ("cnn", "soho", ("image", "text")))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("labelled")
    folder.example(root)
    rows = [f'{{"image": "cats/{n}.jpg", "caption": "{"lynx" if n % 2 else "tabby cat"}"}}\n' for n in range(4)]
    (root / "captions.jsonl").write_text("".join(rows))
    return Folder.open(root, "all")


@pytest.fixture(scope="module")
def run(reader: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT that was trained for two steps to name whole pictures."""
    recipe = vit.tiny()
    system = recipe.system.model_copy(update={"naming": Naming.Config(unit="picture")})
    train = recipe.train.model_copy(update={"steps": 2, "batch_size": 4})
    out = tmp_path_factory.mktemp("vit")
    recipe = recipe.model_copy(update={"system": system, "train": train})
    pretrain(recipe, ViT, [Source("labelled", reader)], out, trackers=(), quiet=True)
    return out


def test_a_vit_moves_into_vilt_whole(run: Path, reader: Folder):
    """Every patch and block tensor is copied, and a picture beside a text of no words has the states that ViT gave it."""
    recipe = vilt.tiny()
    tokenizer = vocabulary.load(recipe.text.vocab)
    system = build_system(recipe, ViLT, tokenizer).eval()
    told: list[str] = []
    for part in ("image", "fusion"):
        copy_part(system, part, run, tokenizer, told.append)
    weights = load_file(run / "model.safetensors")
    moved = {name for name in system.state_dict() if name.startswith(("image.", "fusion."))}
    assert moved - weights.keys() == {"fusion.modality.weight", "fusion.pooler.dense.weight", "fusion.pooler.dense.bias"}
    assert weights.keys() - moved == {"naming.vector.weight", "naming.bias"}
    for name in moved & weights.keys():
        assert torch.equal(system.state_dict()[name], weights[name]), name
    assert told[1].endswith("left as initialised: fusion.modality.weight, fusion.pooler.dense.bias, fusion.pooler.dense.weight")

    root_config = ViT.Config.model_validate(find.read_config(run)["recipe"]["system"])
    root = ViT(root_config, tokenizer).eval()
    root.load_state_dict(weights)
    samples = [reader[n] for n in range(4)]
    pictures = [decode_sample(sample, recipe.data.image) for sample in samples]
    batch = Collate(tokenizer, recipe.text, recipe.data, training=False)(samples, pictures, list(range(4)), Draw(0))
    with torch.no_grad():
        system.fusion.modality.weight.zero_()
        fused = system.fuse(replace(batch, text_mask_BT=torch.zeros_like(batch.text_mask_BT)))
        seen = root.see(batch)
    assert isinstance(fused, Fused)
    torch.testing.assert_close(fused.image_BVD, seen.token_IVD[batch.image_of_BN[:, 0]])


def test_pictures_of_a_folder_are_named_by_their_captions(run: Path, reader: Folder):
    config = ViT.Config.model_validate(find.read_config(run)["recipe"]["system"])
    assert config.naming.names == ("lynx", "tabby cat")
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    recipe = vit.tiny()
    pictures = [decode_sample(reader[n], recipe.data.image) for n in range(4)]
    batch = Collate(tokenizer, recipe.text, recipe.data, training=True)(
        [reader[n] for n in range(4)], pictures, [0, 1, 2, 3], Draw(0)
    )
    labelled = ViT(config, tokenizer).label(batch)
    assert labelled.image_labels["naming"].tolist() == [[1], [0], [1], [0]]
    assert labelled.counts == {"naming": 4}
    odd = replace(batch, samples=(replace(batch.samples[0], texts=("a dog",)), *batch.samples[1:]))
    assert ViT(config, tokenizer).label(odd).image_labels["naming"].tolist() == [[IGNORE], [0], [1], [0]]


@pytest.mark.parametrize(("root", "system", "parts"), ROOTS, ids=lambda value: value if isinstance(value, str) else "")
def test_presets_of_one_name_fit(root: str, system: str, parts: tuple[str, ...]):
    presets = [preset for preset in find.catalogue("systems")[root].presets if preset in find.catalogue("systems")[system].presets]
    assert {"tiny", "small"} <= set(presets)
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "yes", "no"])
    for preset in presets:
        a, b = find.system(f"{root}:{preset}"), find.system(f"{system}:{preset}")
        naming = a.recipe.system.naming.model_copy(update={"names": ("cat", "dog")})
        with torch.device("meta"):
            there = a.cls(a.recipe.system.model_copy(update={"naming": naming}), tokenizer).state_dict()
            here = b.cls(b.recipe.system, tokenizer).state_dict()
        for part in parts:
            common = [name for name in here if name.startswith(f"{part}.") and name in there]
            assert common
            assert [name for name in common if here[name].shape != there[name].shape] == [], preset
            assert [name for name in there if name.startswith(f"{part}.") and name not in here] == [], preset


def test_a_vit_has_no_words_to_name_with():
    with pytest.raises(ValueError, match=r"naming\.by=classes"):
        ViT.Config(naming=Naming.Config(by="words"))
    with pytest.raises(UserError, match=r"naming needs pictures with names, of two names at least; the training data has 0 "):
        Naming.prepare(Naming.Config(unit="picture"), [])
