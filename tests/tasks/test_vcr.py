"""VCR: which rows are asked, how long texts are cut, what a tag touches, and the scores of a system that says what it is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych import find
from diptych.config import UserError
from diptych.contracts import IGNORE, Batch, Sample
from diptych.data import vcr, vcr_jsonl
from diptych.data.collate import Collate
from diptych.data.picture import decode_sample
from diptych.data.vcr import VCR
from diptych.data.vcr_jsonl import VCRJsonl
from diptych.draw import Draw
from diptych.load import Model
from diptych.tasks.vcr import VCRTask, by_group, finetuning, questions
from diptych.text import tokenizer as vocabulary

FOUND = find.system("vilt:tiny")
RECIPE = finetuning(FOUND.recipe)
TOKENIZER = vocabulary.load("atelier")


def task(**settings) -> VCRTask:
    torch.manual_seed(0)
    config = RECIPE.task.model_copy(update=settings)
    return VCRTask(config, FOUND.cls(RECIPE.system, TOKENIZER), TOKENIZER).eval()


def batch_of(samples: list[Sample], *index: int) -> Batch:
    ids = list(index or range(len(samples)))
    collate = Collate(TOKENIZER, RECIPE.text, RECIPE.data, training=False)
    pictures = [decode_sample(samples[i], RECIPE.data.image) for i in ids]
    return collate([samples[i] for i in ids], pictures, ids, Draw(0))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    vcr.example(tmp_path)
    reader = VCR.open(tmp_path, "val")
    return [reader[i] for i in range(len(reader))]


def test_rows(samples):
    """Four answers, then four rationales beside each answer; training keeps those beside the right one."""
    judged = task(max_tokens=60)
    batch = judged.label(batch_of(samples, 1))
    assert len(batch) == 20 and by_group(batch.row_B, batch, -1).shape == (5, 4)
    rows = [
        TOKENIZER.decode([i for i, s in zip(ids, segments, strict=True) if s == part and i > 4])
        for ids, segments in zip(batch.text_BT.tolist(), batch.segment_BT.tolist(), strict=True)
        for part in (0, 1)
    ]
    assert rows[2:4] == ["what will riley 2 drink?", "riley 2 will drink milk."]
    assert rows[2 * 13 : 2 * 13 + 2] == [
        "what will riley 2 drink? riley 2 will drink water.",
        "riley 2 and casey 1 see cup 3.",
    ]
    assert batch.labels["answer"].tolist() == [0, 1, 0, 0] + [IGNORE] * 16
    assert batch.labels["rationale"].tolist() == [IGNORE] * 8 + [0, 0, 1, 0] + [IGNORE] * 8
    assert batch.counts == {"answer": 1, "rationale": 1}
    kept = judged.corrupt(batch, Draw(0))
    assert torch.equal(kept.text_BT, batch.text_BT[[0, 1, 2, 3, 8, 9, 10, 11]])
    words = batch.word_BT[13]
    assert words[words >= 0].diff().clamp(0, 1).equal(words[words >= 0].diff()), "words are counted on, across the [SEP]"


@pytest.mark.parametrize("most", [8, 9, 21])
def test_the_longer_side_is_cut(most):
    judged = task(max_tokens=most)
    for a in range(0, 24):
        for b in range(0, 24):
            query, candidate = ([(100 + n, n) for n in range(length)] for length in (a, b))
            encoding, second = judged._joined(query, candidate)
            left, right = [*query], [*candidate]
            while len(left) + len(right) > most - 3:
                (left if len(left) > len(right) else right).pop()
            ids = [TOKENIZER.cls_id, *(i for i, _ in left), TOKENIZER.sep_id, *(i for i, _ in right), TOKENIZER.sep_id]
            assert encoding.ids == ids and second == len(left) + 2


def test_a_tag_is_added_to_what_lies_in_its_box(samples):
    judged = task(references=2)
    batch = batch_of(samples, 0)
    plain, tagged = judged.system.see(batch), judged.see(batch)
    difference_VD = (tagged.token_IVD - plain.token_IVD)[0]
    tags = judged.reference.weight
    expected_VD = torch.zeros_like(difference_VD)
    for v, (x1, y1, x2, y2) in enumerate(plain.box_IV4[0].tolist()):
        for n, box in enumerate(samples[0].boxes[:2]):  # the third has none
            a1, b1, a2, b2 = (value / side for value, side in zip(box.xyxy, (48, 32, 48, 32), strict=True))
            common = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            expected_VD[v] += common / ((x2 - x1) * (y2 - y1)) * tags[n]
    torch.testing.assert_close(difference_VD, expected_VD)
    assert expected_VD.any() and not expected_VD.all(1).all(), "some tokens lie in no box"
    torch.testing.assert_close(tags[1], judged.system.text.word.weight[TOKENIZER.ids_of("2")[0]])


def test_nothing_but_the_tags_tells_which_box_has_which_number(samples):
    """The same picture and text, the two people exchanged."""
    first, second, cup = samples[0].boxes
    exchanged = replace(samples[0], key="exchanged", boxes=(second, first, cup))
    judged = task(max_tokens=40)
    batch = judged.label(batch_of([samples[0], exchanged]))
    differences = []
    for loud in (0, 100):
        judged.reference.weight.data *= loud or 1
        if not loud:
            kept = judged.reference.weight.data.clone()
            judged.reference.weight.data.zero_()
        ours, theirs = judged.logits(batch, judged.see(batch)).view(2, 20)
        differences.append((ours - theirs).abs().max().item())
        if not loud:
            judged.reference.weight.data.copy_(kept)
    assert differences[0] < 1e-6 and differences[1] > 2e-5, differences


def test_what_is_withheld(samples):
    whole = task().label(batch_of(samples, 0))
    bare = task(withhold="text").label(batch_of(samples, 0))
    assert int(bare.segment_BT.sum()) == int(whole.segment_BT.sum()), "candidates stay"
    assert ((bare.segment_BT == 0) & bare.text_mask_BT).sum(1).tolist() == [2] * 20, "[CLS] [SEP] is what they answer"
    blind = task(withhold="picture").label(batch_of(samples, 0))
    assert (blind.images.pixel_I3HW == 128).all() and blind.annotated is None


def told(judged: VCRTask, monkeypatch, score) -> None:
    """Logits by a row's candidate, as the rows of a batch come."""

    def logits(batch, visual):
        return torch.tensor([score(row) for row in batch.text_BT.tolist()])

    monkeypatch.setattr(judged, "logits", logits)


def test_scores_and_the_leaderboard_s_table(samples, monkeypatch):
    """A system that likes what it knows by heart: of each answer "milk", of each rationale "fill"."""
    judged = task(block=7, max_tokens=60)
    liked = {TOKENIZER.ids_of(word)[0] for word in ("milk", "fill")}
    told(judged, monkeypatch, lambda ids: float(len(liked & set(ids[ids.index(TOKENIZER.sep_id) :]))))
    unlabelled = replace(samples[3], labels={k: v for k, v in samples[3].labels.items() if not k.startswith("right")})
    asked = [*samples[:3], unlabelled]
    whole = judged.evaluate([judged.label(batch_of(asked))])
    parts = judged.evaluate([judged.label(batch_of(asked, i)) for i in range(4)])
    assert whole == parts
    # right answers: tea, milk, tea, (milk); right rationales: hide, fill, hide, (fill)
    assert whole.metrics == pytest.approx({"Q->A": 100 / 3, "QA->R": 100 / 3, "Q->AR": 100 / 3})
    assert [item["key"] for item in whole.items] == ["val-0", "val-1", "val-2"]
    assert [list(row) for row in whole.predictions] == [
        [
            "annot_id",
            *(f"answer_{k}" for k in range(4)),
            *(f"rationale_conditioned_on_a{k}_{j}" for k in range(4) for j in range(4)),
        ]
    ] * 4
    row = whole.predictions[3]
    assert row["annot_id"] == "val-3" and max(row, key=lambda name: -1 if name == "annot_id" else row[name]) == "answer_1"
    assert sum(row[f"answer_{k}"] for k in range(4)) == pytest.approx(1)


def test_any_number_of_answers_without_rationales(tmp_path):
    vcr_jsonl.example(tmp_path)
    reader = VCRJsonl.open(tmp_path, "all")
    samples = [reader[i] for i in range(4)]
    samples[1] = replace(samples[1], labels={**samples[1].labels, "choices": samples[1].labels["choices"][:2]})
    judged = task()
    batch = judged.label(batch_of(samples))
    assert len(batch) == 3 + 2 + 3 + 3 and batch.counts == {"answer": 4, "rationale": 0}
    terms = judged(batch)
    assert terms["rationale"].sum.item() == 0
    logit_B = judged.logits(batch, judged.see(batch))
    by_hand = 0.0
    start = 0
    for sample in samples:
        size = len(sample.labels["choices"])
        by_hand -= logit_B[start : start + size].log_softmax(0)[sample.labels["right"]].item()
        start += size
    assert terms["answer"].sum.item() == pytest.approx(by_hand, rel=1e-5)
    evaluation = judged.evaluate([batch])
    assert evaluation.metrics.keys() == {"Q->A"} and "answer_2" not in evaluation.predictions[1]


def test_a_question_is_asked_with_its_answers_between_bars(samples, monkeypatch):
    judged = task()
    model = Model(judged, TOKENIZER, RECIPE, {"system": "vilt", "task": "vcr"}, Path("none"))
    (milk,) = TOKENIZER.ids_of("milk")
    told(judged, monkeypatch, lambda ids: float(milk in ids[ids.index(TOKENIZER.sep_id) :]))
    reply = model.ask(samples[0].images[0], "what is milk? | water | tea | milk")
    assert reply.verb == "choose"
    assert [guess.text for guess in reply.guesses] == ["milk", "water", "tea"]
    assert [guess.probability for guess in reply.guesses] == pytest.approx(torch.tensor([1.0, 0, 0]).softmax(0).tolist())
    assert len(reply.look.weight_V) > 1
    for text in ("what is milk?", "what is milk? | water"):
        with pytest.raises(UserError, match="write a question and the answers to choose from"):
            model.ask(samples[0].images[0], text)
    other = Model(judged.system, TOKENIZER, FOUND.recipe, {"system": "vilt"}, Path("none"))
    with pytest.raises(UserError, match="cannot choose between answers to a question; `diptych finetune vcr --from none`"):
        other.choose_answer(samples[0].images[0], "what is milk?", ["water", "tea"])


def test_there_must_be_something_to_learn(samples):
    silent = [replace(sample, labels={"choices": sample.labels["choices"]}) for sample in samples]
    with pytest.raises(UserError, match="right answer is known"):
        VCRTask.prepare(RECIPE.task, [silent], TOKENIZER)
    assert VCRTask.prepare(RECIPE.task, [[*silent, *samples]], TOKENIZER) == RECIPE.task, "the first may be a question alone"
    assert [len(asked.candidates) for asked in questions(silent[0])] == [4]
