"""ALIGN and MURAL: what the contract does not ask. Published sizes, pieces, pairs of texts, retrieval, and asking."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_every_system import TOKENIZER, Case, picture, sample

import diptych
from diptych import cli, config, find
from diptych.config import UserError
from diptych.contracts import IGNORE, ROWS_PER_SAMPLE, Batch, Sample
from diptych.data import languages, translations, wit
from diptych.data.collate import Collate
from diptych.data.languages import Languages
from diptych.data.translations import Translations
from diptych.draw import Draw
from diptych.image.efficientnet import EfficientNet
from diptych.objectives import example_rows
from diptych.objectives.t2t import T2T, translated
from diptych.tasks.retrieval import Retrieval
from diptych.text import tokenizer as vocabulary

BOTH = pytest.mark.parametrize("name", ["align", "mural"])


def changed(spec: str, *settings: str) -> Case:
    case = Case(spec)
    case.recipe = config.resolve(case.recipe, *(config.from_setting(f"system.{setting}") for setting in settings))
    return case


def step(case: Case) -> dict[str, torch.Tensor]:
    system = case.build().train()
    batch = case.batch(system)
    torch.manual_seed(7)
    terms = system(batch)
    torch.stack([term.sum / term.count for term in terms.values()]).sum().backward()
    return {f"loss/{n}": t.sum.detach() for n, t in terms.items()} | {n: p.grad for n, p in system.named_parameters()}


@BOTH
def test_pieces_of_texts_do_not_matter_nor_does_forgetting_them(name: str, monkeypatch: pytest.MonkeyPatch):
    """With dropout: the loss and all gradients are those of the same pieces with nothing forgotten."""
    case = changed(name, "piece=4", "text.dropout=0.2", "encoder.dropout=0.2")
    found = step(case)
    monkeypatch.setattr("diptych.nn.pieces.checkpoint", lambda encode, *rows, **_: encode(*rows))
    expected = step(case)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


def test_the_loss_is_the_published_one():
    """transformers' way of writing it, on rows of different pictures: the mean of both directions, each with smoothing."""
    case = Case("align")
    system = case.build().eval()
    batch = case.batch(system)
    first = torch.tensor([0, 2, 4, 6, 8, 10])  # one row of each picture
    batch = replace(batch.rows(first), counts={"contrast": 6.0})
    towers = system.towers(batch)
    score_BB = towers.a_BE @ towers.b_BE.T / towers.temperature
    own = torch.arange(6)
    expected = sum(F.cross_entropy(s, own, reduction="sum", label_smoothing=0.1) for s in (score_BB, score_BB.T)) / 2
    torch.testing.assert_close(system(batch)["contrast"].sum, expected)
    assert torch.allclose(towers.a_BE.norm(dim=1), torch.ones(6)) and torch.allclose(towers.b_BE.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(
    ("spec", "image", "text", "joint"),
    [
        ("align:paper", 1376, 1024, 1376),
        ("align:coyo", 640, 768, 640),
        ("mural:paper", 512, 768, 640),
        ("mural:large", 640, 1024, 640),
    ],
)
def test_published_sizes(spec: str, image: int, text: int, joint: int):
    found = find.system(spec)
    with torch.device("meta"):
        system = found.cls(found.recipe.system, TOKENIZER)
    assert isinstance(system.image, EfficientNet)
    assert (system.config.image_width, system.config.width) == (image, text)
    assert system.text_head.weight.shape == (joint, text)
    assert {group.optimizer for group in system.param_groups()} == {"lamb"}


def test_a_translation_is_asked_for_as_in_a_slow_loop():
    batch = example_rows.batch()
    batch.image_of_BN = torch.tensor([[-1], [-1], [0], [0], [-1], [-1]])
    batch.row_B = torch.tensor([7, 7, 8, 8, 9, 9]) * ROWS_PER_SAMPLE + torch.tensor([0, 1] * 3)
    text_BE = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    objective = T2T.Config(temperature=0.3).build()
    asked = objective.corrupt(batch, Draw(0))
    assert [label == IGNORE for label in asked.labels["t2t"].tolist()] == [False, True, True, True, False, True]
    a, b = text_BE[[0, 4]], text_BE[[1, 5]]  # rows 2 and 3 stand beside a picture
    expected = sum(F.cross_entropy(x @ y.T / 0.3, torch.arange(2), reduction="sum") for x, y in ((a, b), (b, a))) / 2
    term = objective(translated(text_BE, objective.temperature), asked)
    torch.testing.assert_close(term.sum, expected)
    assert term.count == asked.counts["t2t"] == 2
    same = tuple(Sample(str(i), texts=("x", "y"), group="one concept") for i in range(6))
    asked = objective.corrupt(replace(batch, samples=same), Draw(0))
    assert objective(translated(text_BE, objective.temperature), asked).sum.item() == pytest.approx(0, abs=1e-6), "no negatives"


def test_each_loss_reaches_its_own_head_and_both_the_one_text_tower():
    case = Case("mural")
    reached = {}
    for name in ("contrast", "t2t"):
        system = case.build()
        system(case.batch(system))[name].sum.backward()
        reached[name] = {n.partition(".")[0] for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached["contrast"] == {"image", "text", "fusion", "text_head", "contrast"}
    assert reached["t2t"] == {"text", "fusion", "t2t_head", "t2t"}


def test_pairs_are_needed_by_a_contrast_of_texts():
    samples = [sample(i) for i in range(4)]
    samples_reader = type("R", (), {"__len__": lambda _: 4, "__getitem__": lambda _, i: samples[i]})()
    found = find.system("mural:tiny")
    with pytest.raises(UserError, match=r"pairs of texts beside pictures, and these data have none: --data names"):
        found.cls.prepare(found.recipe.system, [samples_reader], TOKENIZER)
    alone = changed("mural", "t2t=null")
    assert found.cls.prepare(alone.recipe.system, [samples_reader], TOKENIZER) == alone.recipe.system
    assert step(alone).keys() == step(changed("align", "piece=null")).keys()


def test_pictures_are_needed_by_a_contrast_with_them():
    for name in ("align", "mural"):
        case = Case(name)
        system = case.build()
        with pytest.raises(UserError, match=r"pictures"):
            system.corrupt(case.collate([Sample("a", texts=("a", "b"))], [[]], [0], Draw(0)), Draw(0))


@BOTH
def test_retrieval_compares_all_with_all_and_fine_tunes_by_the_contrast(name: str):
    case = Case(name)
    system = case.build().eval()
    task = Retrieval(Retrieval.Config(), system, TOKENIZER)
    samples = [sample(i) for i in range(6)]
    collate = Collate(TOKENIZER, case.recipe.text, case.recipe.data, training=False)
    batches = [
        collate([samples[i] for i in ids], [[picture(i)] for i in ids], list(ids), Draw(0)) for ids in (range(4), range(4, 6))
    ]
    found = task.evaluate(batches)
    with torch.no_grad():
        score_IC = np.stack([_alone(system, collate, samples, i) for i in range(6)])
    for item in (item for item in found.items if item["type"] == "image_to_text"):
        i = int(item["key"].removeprefix("sample-"))
        own = score_IC[i, 2 * i : 2 * i + 2].max()
        assert item["rank"] == 1 + (np.delete(score_IC[i], [2 * i, 2 * i + 1]) > own + 1e-6).sum()
    assert {"txt_r1", "img_r10", "r_mean"} <= found.metrics.keys()
    terms = task(case.batch(task))
    assert terms["contrast"].count > 0
    recipe = find.task("retrieval").finetuning(find.system(f"{name}:small").recipe)
    assert recipe.train.batch_size == 128


def _alone(system, collate, samples: list[Sample], i: int) -> np.ndarray:
    """One picture with every text."""
    texts = tuple(text for one in samples for text in one.texts)
    towers = system.towers(collate([replace(samples[i], texts=texts, false_texts=(), phrases=())], [[picture(i)]], [0], Draw(0)))
    return (towers.a_BE * towers.b_BE).sum(1).numpy()


def test_who_suits_a_task_is_told():
    for name in ("align", "mural"):
        find.suits("retrieval", name)
        find.suits("probe", name)
        find.suits("vqa", name)
    find.suits("vqa", "bert")
    said = "vqa needs a system that can bring words and pictures together or read texts alone; vit does not, these do: align,"
    with pytest.raises(UserError, match=said):
        find.suits("vqa", "vit")
    with pytest.raises(UserError, match="or compare pictures with texts; simclr does not, these do: align,"):
        find.suits("retrieval", "simclr")


def test_from_tables_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """MURAL on pictures and pairs through the command line, then evaluated and asked, without a word on regions or fusion."""
    monkeypatch.chdir(tmp_path)
    wit.example(tmp_path / "both")
    (tmp_path / "both/wit_v1.val.all-00000-of-00001.tsv.gz").rename(tmp_path / "both/wit_v1.train.all-00000-of-00001.tsv.gz")
    translations.example(tmp_path / "both")
    settings = ["--set", "train.steps=2", "--set", "train.batch_size=8", "--set", "text.max_tokens=24"]
    assert cli.call(["pretrain", "mural:tiny", "--data", "both", "--out", "run", *settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["loss/t2t"] > 0
    model = diptych.load("run")
    photo = tmp_path / "both/images/Katze.jpg"
    towers = model.embed_text(["猫", "Katze"])
    assert towers.shape == (2, 32) and np.allclose(np.linalg.norm(towers, axis=1), 1, atol=1e-5)
    chosen = model.choose(photo, ["cat", "dog", "boat"])
    score = model.embed_text(["cat", "dog", "boat"]) @ model.embed_image(photo)
    assert chosen[0].text == ["cat", "dog", "boat"][int(score.argmax())]
    assert sum(guess.probability for guess in chosen) == pytest.approx(1)
    assert cli.call(["ask", str(photo), "cat | dog", "--from", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verb"] == "choose"
    assert cli.call(["ask", str(photo), "a cat", "--from", "run"]) == 2
    assert "which text fits a picture best" in capsys.readouterr().err


def test_a_gallery_of_each_language(tmp_path: Path):
    languages.example(tmp_path)
    reader = Languages.open(tmp_path, "test-de")
    assert [(reader[i].texts, reader[i].language) for i in (0, 3)] == [(("Katze",), "de"), (("Sonne",), "de")]
    assert [reader[i].images[0].name for i in range(len(reader))] == ["cat.jpg", "dog.jpg", "boat.jpg", "sun.jpg"]
    assert Languages.open(tmp_path, "test")[0].texts == ("cat",)
    with pytest.raises(UserError, match="no name in language 'dee'; did you mean 'de'"):
        Languages.open(tmp_path, "test-dee")
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'"):
        Languages.open(tmp_path, "tset")


def test_pairs_of_the_embedded_names(tmp_path: Path):
    translations.example(tmp_path)
    reader = Translations.open(tmp_path, "train")
    assert reader[1].texts == ("cat", "猫") and (reader[1].language, reader[1].group, reader[1].images) == ("en-ja", "cat", ())
    (source,) = find.readers([str(tmp_path)], "train", ("pretrain", "translations"))
    assert len(source.reader) == 4
    with pytest.raises(UserError, match=r"nothing for pretrain in it .*; translations can read it"):
        find.readers([str(tmp_path)], "train", "pretrain")
    with pytest.raises(UserError, match="no split 'tran'; did you mean 'train'"):
        Translations.open(tmp_path, "tran")


def test_every_language_is_spelt_in_bytes(tmp_path: Path):
    spelt = vocabulary.load("bytes")
    assert spelt.vocab_size == 261
    for text in ("a cat", "猫", "გამარჯობა", "Käse ☃", "[MASK] x"):
        encoding = spelt.encode(text, 64)
        assert spelt.unk_id not in encoding.ids
        assert len(encoding.ids) == 2 + len(text.replace("[MASK]", "m").encode())
        assert spelt.decode(encoding.ids) == text.replace("[MASK]", "")
    assert spelt.encode("a cat", 64).words == [-1, 0, 1, 1, 1, 1, -1]
    spelt.save(tmp_path / "tokenizer.json")
    assert vocabulary.load(str(tmp_path / "tokenizer.json")).encode("猫 x", 64) == spelt.encode("猫 x", 64)


def test_rows_without_a_picture_are_zero_on_its_side():
    case = Case("mural")
    system = case.build().eval()
    batch: Batch = case.batch(system)
    with torch.no_grad():
        towers = system.towers(batch)
    assert torch.equal(towers.a_BE.any(1), batch.image_of_BN[:, 0] >= 0)
