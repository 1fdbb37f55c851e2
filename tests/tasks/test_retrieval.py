"""Every pair is scored as if alone, ranks say what they should, and fine-tuning learns to find."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diptych import cli, find
from diptych.config import DataConfig, ImageConfig, TextConfig, UserError
from diptych.contracts import IGNORE, Fused, Sample, System, Towers, Visual
from diptych.data import coco_captions
from diptych.data.collate import Collate
from diptych.draw import Draw
from diptych.load import with_proposer
from diptych.metrics import recall
from diptych.tasks.retrieval import Retrieval
from diptych.text.tokenizer import wordpiece
from diptych.train import run

WORDS = ["red", "green", "blue", "dark", "bright", "thing", "a"]
TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])


class Toy(System):
    """Match = product of mean colour and mean word, through the interface of a fusion system; tokens are vertical stripes."""

    class Text:
        positions = 12

    def __init__(self, width=8):
        super().__init__()
        self.config = type("Config", (), {"width": width, "text": self.Text})
        self.word, self.colour = torch.nn.Embedding(TOKENIZER.vocab_size, width), torch.nn.Linear(3, width)
        self.encoded = 0

    def see(self, batch):
        self.encoded += len(batch.images.pixel_I3HW)
        stripe_I3V = batch.images.pixel_I3HW.float().unflatten(3, (-1, 16)).mean((2, 4)) / 255
        mask_IV = batch.images.mask_IHW[:, 0].unflatten(1, (-1, 16))[..., 0]
        return Visual(self.colour(stripe_I3V.transpose(1, 2)), mask_IV, torch.zeros(*mask_IV.shape, 4))

    def fuse(self, batch, visual=None, read_BT=None):
        visual = visual or self.see(batch)
        picture_B = batch.image_of_BN[:, 0]
        mask_BV1, mask_BT1 = visual.mask_IV[picture_B, :, None], batch.text_mask_BT[..., None]
        image_BD = (visual.token_IVD[picture_B] * mask_BV1).sum(1) / mask_BV1.sum(1)
        text_BTD = self.word(batch.text_BT)
        pooled_BD = image_BD * (text_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        slot = visual.mask_IV[picture_B].long() * 0
        return Fused(
            text_BTD,
            batch.text_mask_BT,
            visual.token_IVD[picture_B],
            visual.mask_IV[picture_B],
            slot,
            visual.box_IV4[picture_B],
            pooled_BD,
        )

    def match(self, fused):
        return fused.pooled_BD.sum(1) * 10


class TwoTowers(Toy):
    def towers(self, batch):
        visual = self.see(batch)
        image_ID = (visual.token_IVD * visual.mask_IV[..., None]).sum(1) / visual.mask_IV.sum(1)[:, None]
        text_BD = (self.word(batch.text_BT) * batch.text_mask_BT[..., None]).sum(1) / batch.text_mask_BT.sum(1)[:, None]
        return Towers(image_ID[batch.image_of_BN[:, 0]], text_BD, torch.tensor(0.1))


def samples(n=9):
    """Pictures of one to six texts; no text, in any order of its words, describes two."""
    rng = np.random.default_rng(0)
    used: set[tuple[str, ...]] = set()
    made = []
    for i in range(n):
        texts = []
        for words in ([WORDS[k] for k in rng.integers(0, 7, rng.integers(1, 6))] for _ in range(1 + i % 6)):
            while tuple(sorted(words)) in used:
                words.append(WORDS[rng.integers(0, 7)])
            used.add(tuple(sorted(words)))
            texts.append(" ".join(words))
        made.append(Sample(f"k{i}", images=(f"picture {i}".encode(),), texts=tuple(texts)))
    return made


def collated(some, training=False, others=None, first=0):
    rng = np.random.default_rng(first + 1)
    pictures = [[np.tile(rng.integers(0, 256, (1, 1, 3), dtype=np.uint8), (32, 32 + 32 * (i % 2), 1))] for i in range(len(some))]
    data = DataConfig(image=ImageConfig(short=32, long=64, multiple=32))
    ids = list(range(first, first + len(some)))
    return Collate(TOKENIZER, TextConfig(max_tokens=12), data, training)(some, pictures, ids, Draw(0), others)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_each_pair_is_scored_as_if_alone(block):
    torch.manual_seed(0)
    task = Retrieval(Retrieval.Config(block=block, texts=3), Toy(), TOKENIZER)
    all_samples = samples()
    batches = [collated(all_samples[:4]), collated(all_samples[4:8], first=4), collated(all_samples[8:], first=8)]
    found = task.evaluate(batches)
    assert task.system.encoded == 9, "each picture is encoded once"
    texts = [(i, text) for i, sample in enumerate(all_samples) for text in sample.texts[:3]]
    pictures = [(batch, place) for batch in batches for place in range(len(batch.images.pixel_I3HW))]
    with torch.no_grad():
        score = [[alone(task.system, text, *picture) for _, text in texts] for picture in pictures]
    by_text = [item for item in found.items if item["type"] == "text_to_image"]
    assert [(item["truth"], item["query"]) for item in by_text] == [(f"k{i}", text) for i, text in texts]
    for c, item in enumerate(by_text):
        assert [t["key"] for t in item["top"]] == [f"k{i}" for i in sorted(range(9), key=lambda i: -score[i][c])[:5]]
        assert item["top"][0]["score"] == pytest.approx(max(row[c] for row in score), abs=1e-4)
        assert item["rank"] == 1 + sum(score[i][c] > score[texts[c][0]][c] for i in range(9))
    by_image = [item for item in found.items if item["type"] == "image_to_text"]
    for i, item in enumerate(by_image):
        best = max(s for s, (own, _) in zip(score[i], texts, strict=True) if own == i)
        assert item["rank"] == 1 + sum(s > best for s, (own, _) in zip(score[i], texts, strict=True) if own != i)
    for name, kind in (("img", by_text), ("txt", by_image)):
        for k in (1, 5, 10):
            assert found.metrics[f"{name}_r{k}"] == pytest.approx(100 * np.mean([item["scores"][f"{name}_r{k}"] for item in kind]))
            assert found.metrics[f"{name}_r{k}"] == pytest.approx(100 * np.mean([item["rank"] <= k for item in kind]))
    assert len({item["key"] for item in found.items}) == len(found.items)
    assert len(found.predictions) == len(found.items)


def alone(system, text, batch, place):
    """One text and one picture, without anything beside them."""
    size_h, size_w = batch.images.size_I2[place].tolist()
    pixel_HW3 = batch.images.pixel_I3HW[place, :, :size_h, :size_w].permute(1, 2, 0).numpy()
    data = DataConfig(image=ImageConfig(short=32, long=64, multiple=32))
    one = Collate(TOKENIZER, TextConfig(), data, False)([Sample("one", (b"one",), (text,))], [[pixel_HW3]], [0], Draw(0))
    return system.match(system.fuse(one)).item()


def test_towers_give_the_same_as_pairs_where_both_are_products():
    torch.manual_seed(0)
    pairs, towers = Toy(), TwoTowers()
    towers.load_state_dict(pairs.state_dict())
    batches = [collated(samples()[:5]), collated(samples()[5:], first=5)]
    a = Retrieval(Retrieval.Config(), pairs, TOKENIZER).evaluate(batches)
    b = Retrieval(Retrieval.Config(), towers, TOKENIZER).evaluate(batches)
    assert a.metrics == b.metrics
    assert [item["rank"] for item in a.items] == [item["rank"] for item in b.items]


@pytest.mark.parametrize("system", [Toy, TwoTowers])
def test_a_picture_is_in_the_gallery_once_whatever_the_batches(system):
    torch.manual_seed(0)
    task = Retrieval(Retrieval.Config(), system(), TOKENIZER)
    one, two = (replace(sample, texts=sample.texts[:1]) for sample in samples(2))
    again, three = replace(one, key="k0@de", texts=("dark",), language="de"), Sample("k2", (b"last",), ("bright",))
    apart = task.evaluate([collated([one, two]), collated([again], first=2), collated([three], first=3)])
    told = [(item["type"], item["key"]) for item in apart.items]
    assert told[:3] == [("image_to_text", key) for key in ("k0", "k1", "k2")]
    assert told[3:] == [("text_to_image", key) for key in ("k0#0", "k1#0", "k0#1", "k2#0")]
    together = task.evaluate([collated([one, two, again]), collated([three], first=3)])
    assert apart.metrics == together.metrics
    assert [item["rank"] for item in apart.items] == [item["rank"] for item in together.items]


def test_folds_are_reported_beside_the_whole():
    metrics = Retrieval(Retrieval.Config(folds=3), Toy(), TOKENIZER).evaluate([collated(samples())]).metrics
    assert metrics["3 folds/img_r1"] >= metrics["img_r1"]
    assert {"txt_r1", "img_r10", "r_mean", "rsum", "3 folds/rsum"} <= metrics.keys()


@pytest.mark.parametrize("system", [Toy, TwoTowers])
def test_every_fold_has_a_picture(system):
    few = [collated(samples(4))]
    metrics = Retrieval(Retrieval.Config(folds=4), system(), TOKENIZER).evaluate(few).metrics
    assert metrics["4 folds/rsum"] == 600, "each picture alone with its texts"
    with pytest.raises(UserError, match=r"task\.folds=5: pictures in the gallery: 4; set at most so many"):
        Retrieval(Retrieval.Config(folds=5), system(), TOKENIZER).evaluate(few)


def test_a_group_is_the_own_text_and_those_of_others():
    task = Retrieval(Retrieval.Config(negatives=3), Toy(), TOKENIZER)
    own = Sample("own", (b"p",), ("a red thing",))
    others = [
        Sample("x", texts=("a blue thing", "dark")),
        Sample("same", texts=("a red thing",)),
        Sample("y", texts=("bright green blue red a",)),
    ]
    assert task.negatives == 3
    batch = task.corrupt(collated([own, own], training=True, others=[others, others[::-1]]), Draw(0))
    texts = [TOKENIZER.decode(row) for row in batch.text_BT.tolist()]
    assert texts[0] == texts[2] == "a red thing", "where another sample has no other text, the own one fills the place"
    assert texts[1] in others[0].texts
    assert texts[3] == texts[5] == "bright green blue red a"
    assert batch.labels["retrieval"].tolist() == [1, 0, IGNORE, 0, 1, 0, IGNORE, 0]
    assert batch.group_B.tolist() == [0] * 4 + [1] * 4
    assert batch.image_of_BN.tolist() == [[0]] * 4 + [[1]] * 4
    assert batch.counts == {"retrieval": 2.0}
    assert batch.text_mask_BT.sum(1).tolist()[:4] == [5, 2 + len(texts[1].split()), 5, 7]
    term = task(batch)["retrieval"]
    logit = task.system.match(task.system.fuse(batch)).view(2, 4)[:, [0, 1, 3]]
    assert torch.allclose(term.sum, -logit.log_softmax(1)[:, 0].sum(), atol=1e-5)
    with pytest.raises(UserError, match="texts of other samples"):
        task.corrupt(collated([own], training=True), Draw(0))


def test_negatives_do_not_depend_on_the_batch():
    task = Retrieval(Retrieval.Config(negatives=2), Toy(), TOKENIZER)
    all_samples = samples()
    others = [[all_samples[(i + 2) % 9], all_samples[(i + 5) % 9]] for i in range(9)]
    whole = task.corrupt(collated(all_samples, True, others), Draw(1))
    part = task.corrupt(collated(all_samples[5:], True, others[5:], first=5), Draw(1))
    texts = [[TOKENIZER.decode(row) for row in batch.text_BT.tolist()] for batch in (whole, part)]
    assert texts[0][15:] == texts[1]
    assert whole.labels["retrieval"][15:].tolist() == part.labels["retrieval"].tolist()


def test_fine_tuning_finds_more():
    torch.manual_seed(0)
    task = Retrieval(Retrieval.Config(negatives=4), Toy(), TOKENIZER)
    all_samples = [sample for sample in samples() if len(sample.texts) > 1]
    before = task.evaluate([collated(all_samples)]).metrics["r_mean"]
    optimiser = torch.optim.Adam(task.parameters(), 0.05)
    pool = [[s for s in all_samples if s is not sample][:4] for sample in all_samples]
    batch = task.corrupt(collated(all_samples, True, pool), Draw(0))
    for _ in range(60):
        optimiser.zero_grad()
        term = task(batch)["retrieval"]
        (term.sum / term.count).backward()
        optimiser.step()
    assert task.evaluate([collated(all_samples)]).metrics["r_mean"] > before
    assert term.metrics["accuracy"][0] >= 5


class Told:
    """Proposes by a table, and remembers what it was asked."""

    def __init__(self, score_IC):
        self.score_IC = score_IC

    def __call__(self, shown, texts):
        self.asked = [sample.key for sample in shown], list(texts)
        return self.score_IC


@pytest.mark.parametrize(("k", "full"), [(1, True), (3, True), (3, False), (100, False)])
def test_a_cascade_ranks_what_was_proposed_and_the_rest_behind_it(k, full):
    torch.manual_seed(0)
    system, all_samples = Toy(), samples()
    batches = [collated(all_samples[:4]), collated(all_samples[4:], first=4)]
    own = [(i, text) for i, sample in enumerate(all_samples) for text in sample.texts[:5]]
    proposed_IC = np.random.default_rng(4).random((9, len(own))).astype(np.float32)
    proposed_IC[:, 3] = proposed_IC[0, 3]  # a text that says nothing to the towers
    task = Retrieval(Retrieval.Config(cascade="run", propose=k, full=full, block=7), system, TOKENIZER)
    task.proposer = told = Told(proposed_IC)
    asked = []
    match = system.match
    system.match = lambda fused: asked.append(len(fused.pooled_BD)) or match(fused)
    found = task.evaluate(batches)
    del system.match
    assert told.asked == ([sample.key for sample in all_samples], [text for _, text in own])
    with torch.no_grad():
        match_IC = [
            [alone(system, text, batch, p) for _, text in own] for batch in batches for p in range(len(batch.images.mask_IHW))
        ]
    pairs = set()

    def order(candidates, matches, proposals):
        """Best first; what was not proposed behind the rest, as the towers had it."""
        first = sorted(candidates, key=lambda n: -proposals[n])[:k]
        return sorted(candidates, key=lambda n: (n not in first, -matches[n] if n in first else -proposals[n])), first

    by_kind = {kind: [item for item in found.items if item["type"] == kind] for kind in ("image_to_text", "text_to_image")}
    for i, item in enumerate(by_kind["image_to_text"]):
        ranked, first = order(range(len(own)), match_IC[i], proposed_IC[i])
        pairs |= {(i, c) for c in first}
        assert [t["text"] for t in item["top"]] == [own[c][1] for c in ranked[:5]]
        assert item["rank"] == 1 + min(place for place, c in enumerate(ranked) if own[c][0] == i)
    for c, item in enumerate(by_kind["text_to_image"]):
        ranked, first = order(range(9), [row[c] for row in match_IC], proposed_IC[:, c])
        pairs |= {(i, c) for i in first}
        assert [t["key"] for t in item["top"]] == [f"k{i}" for i in ranked[:5]]
        if c != 3 or ranked.index(own[c][0]) < k:  # ties of the towers count against the system
            assert item["rank"] == 1 + ranked.index(own[c][0])
        else:
            assert item["rank"] == 9
    assert found.metrics["pairs"] == len(pairs)
    assert sum(asked) == (9 * len(own) if full else len(pairs)), "no pair is scored that nobody asked for"
    alone_metrics = Retrieval(Retrieval.Config(), system, TOKENIZER).evaluate(batches).metrics
    assert found.metrics["proposed/rsum"] == recall.recall(proposed_IC, [i for i, _ in own])["rsum"]
    beside = {name.removeprefix("full/"): value for name, value in found.metrics.items() if name.startswith("full/")}
    assert beside == ({**alone_metrics, "pairs": 9 * len(own)} if full else {})
    if k == 100:
        assert {name: found.metrics[name] for name in alone_metrics} == pytest.approx(alone_metrics)


def test_a_cascade_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="of evaluation alone"):
        Retrieval.prepare(Retrieval.Config(cascade="runs/align"), [], TOKENIZER)
    task = Retrieval(Retrieval.Config(cascade="runs/align", folds=2), Toy(), TOKENIZER)
    task.proposer = Told(np.zeros((9, 27)))
    with pytest.raises(UserError, match="leave one out"):
        task.evaluate([collated(samples())])
    with pytest.raises(UserError, match="towers compare all with all as it is"):
        with_proposer(Retrieval(Retrieval.Config(cascade="runs/align"), TwoTowers(), TOKENIZER))


def test_one_run_proposes_to_another(tmp_path, monkeypatch, capsys):
    """Of unlike vocabularies and picture sizes, from the command line."""
    monkeypatch.chdir(tmp_path)
    coco_captions.example(tmp_path / "coco")
    sources = find.readers(["coco"], "val", "pretrain")
    for name, settings in (("align", {"vocab": "bytes", "max_tokens": 24}), ("vilt", {})):
        found = find.system(f"{name}:tiny")
        recipe = found.recipe.model_copy(
            update={
                "text": found.recipe.text.model_copy(update=settings),
                "train": found.recipe.train.model_copy(update={"steps": 1, "batch_size": 4}),
            }
        )
        run.pretrain(recipe, found.cls, sources, tmp_path / name, quiet=True, trackers=())
    command = ["evaluate", "retrieval", "--from", "vilt", "--data", "coco", "--split", "val", "--set", "task.propose=1", "--json"]
    assert cli.call([*command, "--set", "task.cascade=align"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert 4 <= metrics["pairs"] < metrics["full/pairs"]
    by_towers = ["evaluate", "retrieval", "--from", "align", "--data", "coco", "--split", "val", "--json"]
    assert cli.call(by_towers) == 0
    towers = json.loads(capsys.readouterr().out)["metrics"]
    assert {name: metrics[f"proposed/{name}"] for name in towers} == towers
    assert cli.call([*command, "--set", "task.cascade=vilt"]) == 2
    assert "task.cascade=vilt: a vilt has no towers to propose with; these have: align, mural" in capsys.readouterr().err
