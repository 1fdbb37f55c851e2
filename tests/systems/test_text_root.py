"""The text root: pairs of sentences as data, what goes from it into systems that fuse, and own text to the command's end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diptych
from diptych import cli, find
from diptych.config import PairsConfig, TextConfig, UserError
from diptych.contracts import IGNORE, Sample
from diptych.data import documents
from diptych.data.collate import Collate
from diptych.data.documents import Documents
from diptych.data.pairs import pack
from diptych.draw import Draw
from diptych.objectives.nsp import NSP
from diptych.text.tokenizer import wordpiece
from diptych.train.start import copy_part, weights_of_run

WORDS = [f"{name}{n}" for name in "abcdefgh" for n in range(9)]
TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])


def document(name: str, lengths: list[int], group: str = "") -> Sample:
    """Sentence s of document a is "a0 a1 ..." with s + 1 first: each token tells whose it is."""
    return Sample(
        f"{name}{group}", texts=tuple(" ".join(f"{name}{s}" for _ in range(n)) for s, n in enumerate(lengths)), group=group
    )


def encode(text: str):
    return TOKENIZER.encode(text, 40)


def read(pair) -> tuple[list[str], list[str]]:
    """The two parts of a pair, checked for their special tokens."""
    tokens = [TOKENIZER.token(i) for i in pair.encoding.ids]
    assert tokens[0] == "[CLS]" and tokens[pair.second - 1] == "[SEP]" and tokens[-1] == "[SEP]"
    assert "[SEP]" not in tokens[1 : pair.second - 1] and "[SEP]" not in tokens[pair.second : -1]
    return tokens[1 : pair.second - 1], tokens[pair.second : -1]


def test_pairs_are_what_a_slow_reading_of_the_rules_says():
    """Over many draws: neighbours in one document, or another document's; never too long; words numbered anew, each once."""
    own, other = document("a", [3, 4, 5, 3, 4]), document("b", [4, 3, 5, 6])
    seen_starts, seen_lengths = set(), set()
    for seed in range(500):
        short = 0.2 * (seed % 2)
        true, false = pack(own, [document("a", [2], group=""), other], encode, 16, short, np.random.default_rng(seed))
        a, b = read(true)
        sentences = [int(token[1:]) for token in (*a, *b)]
        assert all(token.startswith("a") for token in (*a, *b))
        assert b and max(map(int, (t[1:] for t in a))) < min(map(int, (t[1:] for t in b))), "B comes behind A"
        if not short and len(true.encoding.ids) < 16:  # a pair that was cut may have lost whole sentences
            assert sorted(set(sentences)) == list(range(min(sentences), max(sentences) + 1)), "without a gap"
        assert len(true.encoding.ids) <= 16
        words = [w for w in true.encoding.words if w >= 0]
        assert words == list(range(len(words))), "one token a word here: a number each, without gaps"
        other_a, other_b = read(false)
        assert all(token.startswith("a") for token in other_a)
        assert other_b and all(token.startswith("b") for token in other_b)
        assert len(false.encoding.ids) <= 16
        seen_starts.add(min(sentences))
        seen_lengths.add(len(true.encoding.ids))
    assert seen_starts == {0, 1, 2, 3}, "any sentence but the last, which has no next"
    assert min(seen_lengths) < 10 and max(seen_lengths) == 16


def test_a_document_is_no_negative_of_itself():
    parts = [document("a", [3, 3], group="book"), document("b", [3, 3], group="book")]
    assert pack(parts[0], [parts[1]], encode, 20, 0, np.random.default_rng(0))[1] is None
    true, false = pack(document("a", [4]), [document("b", [4, 4])], encode, 20, 0, np.random.default_rng(0))
    assert true.second == len(true.encoding.ids) == 6
    assert read(false)[1][0].startswith("b")


def test_half_of_the_rows_show_another_document_and_the_label_says_which():
    """Labels are told from the tokens themselves; length alone tells nothing where documents are alike."""
    data = find.system("bert:tiny").recipe.data.model_copy(update={"pairs": PairsConfig(), "texts_per_image": 2})
    collate = Collate(TOKENIZER, TextConfig(max_tokens=24), data, training=True)
    samples = [document(name, [4, 4, 4, 4], group=str(n)) for n, name in enumerate("abcdefgh" * 32)]
    others = [[samples[(n + 3) % len(samples)]] for n in range(len(samples))]
    lonely = document("a", [5])
    batch = collate([*samples, lonely, lonely], [()] * 258, list(range(258)), Draw(1), [*others, [samples[1]], []])
    assert batch.images is None and batch.image_of_BN is None
    batch = NSP(NSP.Config(), 8).corrupt(batch, Draw(1))
    label_B = batch.labels["nsp"]
    assert label_B[-4:].tolist() == [1, 1, IGNORE, IGNORE], "nothing follows; and no other document was there"
    for row in range(512):
        names = {TOKENIZER.token(i)[0] for i in batch.text_BT[row].tolist() if i > TOKENIZER.mask_id}
        assert len(names) == 1 + int(label_B[row])
        second = batch.segment_BT[row].bool()
        assert TOKENIZER.token(int(batch.text_BT[row][~second & batch.text_mask_BT[row]][-1])) == "[SEP]"
    share = label_B[:512].float().mean()
    assert 0.43 < share < 0.57
    length_B = batch.text_mask_BT[:512].sum(1).float()
    apart = length_B[label_B[:512] == 1].mean() - length_B[label_B[:512] == 0].mean()
    assert apart.abs() < 1, "of about 15 tokens"
    assert batch.counts["nsp"] == 514


def test_own_text_is_read_by_document_split_and_passage(tmp_path: Path):
    file = tmp_path / "book.txt"
    blocks = ["\n".join(f"line {d} {s}" for s in range(40 if d == 3 else 2)) for d in range(60)]
    file.write_text("\n\n \n".join(blocks))
    everything = Documents.open(file, "all")
    assert len(everything) == 61, "the long one is two passages"
    long = [sample for sample in everything if sample.texts[0].startswith("line 3 ")]
    assert [len(sample.texts) for sample in long] == [32, 8] and len({sample.group for sample in long}) == 1
    splits = [Documents.open(file, split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 61 and len(splits[0]) > 45
    (tmp_path / "one.txt").write_text("just\none document")
    with pytest.raises(UserError, match=r"one\.txt: 1 document in it; an empty line goes between documents"):
        Documents.open(tmp_path / "one.txt", "all")
    with pytest.raises(UserError, match=r"no split 'vall'; did you mean 'val'"):
        Documents.open(file, "vall")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two steps on own text, by the command."""
    place = tmp_path_factory.mktemp("text")
    documents.example(place)
    (place / "val.txt").write_text((place / "train.txt").read_text())
    words = ["pretrain", "bert:tiny", "--data", str(place), "--out", str(place / "run"), "--json"]
    settings = ["train.steps=2", "train.batch_size=4", "train.validate_every=1", "text.max_tokens=48", "system.text.positions=48"]
    assert cli.call([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    return place / "run"


def test_the_command_leaves_a_run_with_scores_on_val_and_a_report(run: Path):
    result = json.loads((run / "result.json").read_text())
    assert result["split"] == "val" and result["n"] == 4
    assert {"loss/mlm", "mlm/accuracy", "loss/nsp", "nsp/accuracy"} == result["metrics"].keys()
    assert "val/nsp/accuracy" in (run / "metrics.jsonl").read_text()
    assert "nsp/accuracy" in (run / "report.html").read_text()
    assert "Results on val (n = 4)" in (run / "README.md").read_text()


def test_a_loaded_root_fills_words_without_a_picture_and_says_that_it_sees_none(run: Path, tmp_path: Path):
    model = diptych.load(run)
    (guesses,) = model.fill(None, "a red [MASK]", top=3)
    assert len(guesses) == 3 and 0 < guesses[0].probability < 1
    with pytest.raises(UserError, match=r"a pre-trained bert cannot look at pictures"):
        model.fill(tmp_path / "no.png", "a red [MASK]")
    again = diptych.load(model.save_pretrained(tmp_path / "copy"))
    assert again.fill(None, "a red [MASK]", top=3) == [guesses]


@pytest.mark.parametrize(("name", "width"), [("vilt", 64), ("crossgrid", 64)])
def test_its_words_start_systems_that_fuse_and_what_is_left_is_told(run: Path, name: str, width: int):
    found = find.system(f"{name}:tiny")
    tokenizer = diptych.load(run).tokenizer
    told: list[str] = []
    config = found.cls.Config.model_validate({**found.recipe.system.model_dump(), "width": width, **_image(name)})
    system = found.cls(config, tokenizer)
    copy_part(system, "text", run, tokenizer, told.append)
    theirs = weights_of_run(run)
    assert torch.equal(system.text.word.weight, theirs["text.word.weight"])
    assert torch.equal(system.text.position.weight, theirs["text.position.weight"][:40])
    assert "text: copied 5 tensors" in told[0] and "text.position.weight: the first 40 of 48" in told[0]
    if name == "vilt":
        copy_part(system, "fusion", run, tokenizer, told.append)
        assert torch.equal(system.fusion.pooler.dense.weight, theirs["fusion.pooler.dense.weight"])
        assert "left as initialised: fusion.encoder.norm.bias, fusion.encoder.norm.weight, fusion.modality.weight" in told[1]
        assert "WARNING: its layers learnt with the norm after each part and have it before" in told[2]
        assert told[2].endswith("set system.fusion.norm=post")


def _image(name: str) -> dict:
    return {} if name == "vilt" else {"image": {"channels": [16, 16, 64], "strides": [4, 2, 2]}}


def test_text_given_to_a_system_that_looks_is_refused_in_a_line(run: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["pretrain", "vilt:tiny", "--data", str(run.parent), "--out", str(run.parent / "other")]) == 2
    assert "documents can read it, for documents" in capsys.readouterr().err
    assert not (run.parent / "other").exists()
