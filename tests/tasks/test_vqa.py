"""The answer space, the two heads' targets and losses by hand, and that both learn a question each."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.config import DataConfig, ImageConfig, TextConfig, UserError
from diptych.contracts import Fused, LossTerm, Sample, System
from diptych.data.collate import Collate
from diptych.data.vqa_v2 import VQAv2, example
from diptych.draw import Draw
from diptych.metrics.vqa_accuracy import ten
from diptych.tasks import vqa
from diptych.tasks.vqa import VQA
from diptych.text.tokenizer import wordpiece

TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] is the dog red ? what color yes no blue left t - shirt maybe"
TOKENIZER = wordpiece(TOKENS.split())


class Toy(System):
    """Mean colour of the picture and the sum of the words: enough to tell red from blue."""

    class Text:
        positions = 8

    def __init__(self, width=16):
        super().__init__()
        vocab_size = TOKENIZER.vocab_size
        self.config = type("Config", (), {"width": width, "text": self.Text})
        self.word, self.colour = torch.nn.Embedding(vocab_size, width), torch.nn.Linear(3, width)
        self.decoder = torch.nn.Linear(width, vocab_size)

    def fuse(self, batch, visual=None, read_BT=None):
        colour_ID = self.colour(batch.images.pixel_I3HW.float().mean((2, 3)) / 255)
        text_BTD = self.word(batch.text_BT) + colour_ID[batch.image_of_BN[:, :1]]
        mask_BT1 = batch.text_mask_BT[..., None]
        pooled_BD = (text_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        text_BTD = text_BTD + pooled_BD[:, None]
        empty = torch.zeros(len(text_BTD), 0)
        return Fused(
            text_BTD, batch.text_mask_BT, empty[..., None], empty.bool(), empty.long(), empty[..., None], torch.tanh(pooled_BD)
        )

    def words(self, x_PD):
        return self.decoder(x_PD)


def question(n, text, answers, colour=(255, 0, 0), kind="is the"):
    labels = {
        "question_id": n,
        "question_type": kind,
        "answer_type": "other",
        "answer": answers[0],
        "answers": ten(answers),
        "pair": "",
    }
    return Sample(str(n), images=(bytes(colour),), texts=(text,), labels=labels, group=f"g{n}")


def batch_of(samples, training=True):
    pictures = [[np.tile(np.array(list(s.images[0]), np.uint8), (32, 32, 1))] for s in samples]
    collate = Collate(TOKENIZER, TextConfig(max_tokens=8), DataConfig(image=ImageConfig(short=32, long=32)), training)
    return collate(samples, pictures, list(range(len(samples))), Draw(0))


SAMPLES = [
    question(0, "what color is the dog?", ["red"], (250, 5, 5), "what color"),
    question(1, "what color is the dog?", ["blue"], (5, 5, 250), "what color"),
    question(2, "is the dog red?", ["yes"], (250, 5, 5)),
    question(3, "is the dog red?", ["no"], (5, 5, 250)),
]


def test_answers_come_from_the_training_questions_by_count(tmp_path):
    readers = [[*SAMPLES, question(4, "red?", ["Yes."]), question(5, "?", ["The t-shirt"]), Sample("unlabelled", texts=("?",))]]
    config = VQA.prepare(VQA.Config(), readers, TOKENIZER)
    assert config.answers == ("yes", "blue", "no", "red", "t shirt"), "most frequent first, then by alphabet, normalised"
    assert VQA.prepare(VQA.Config(min_count=2), readers, TOKENIZER).answers == ("yes",)
    assert VQA.prepare(config, [[question(9, "?", ["no"])]], TOKENIZER) is config, "a saved configuration keeps its answers"
    with pytest.raises(UserError, match=r"task\.min_count=3"):
        VQA.prepare(VQA.Config(min_count=3), readers, TOKENIZER)
    assert VQA.prepare(VQA.Config(answers=("yes", "zebra")), readers, TOKENIZER).answers == ("yes", "zebra")
    with pytest.raises(UserError, match=r"task\.answers: none of them answers any of the \d+ training questions"):
        VQA.prepare(VQA.Config(answers=("zebra",)), readers, TOKENIZER)
    silent = Sample("silent", texts=("why?",))
    with pytest.raises(UserError, match="none of the 1 training questions has an answer"):
        VQA.prepare(VQA.Config(), [[silent]], TOKENIZER)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="answers of the 2 training questions are articles or punctuation"):
        VQA.prepare(VQA.Config(), [[question(0, "?", ["the"]), question(1, "?", ["A."])]], TOKENIZER)
    example(tmp_path)
    assert VQA.prepare(VQA.Config(), [VQAv2.open(tmp_path, "val")], TOKENIZER).answers == ("blue", "no", "red", "yes")


def test_soft_targets_are_the_official_scores():
    sample = question(0, "?", ["red"] * 5 + ["blue"] * 2 + ["Red.", "yes", "maybe"])
    assert vqa.targets(sample) == pytest.approx({"red": 1, "blue": 0.6, "yes": 0.3, "maybe": 0.3})
    task = VQA(VQA.Config(answers=("yes", "no", "red", "blue")), Toy(), TOKENIZER)
    batch = task.label(batch_of([sample]))
    assert batch.labels["vqa"].tolist() == [pytest.approx([0.3, 0, 1, 0.6])]
    assert batch.counts == {"vqa": 1.0}


def test_the_classifier_loss_is_bce_summed_over_answers():
    task = VQA(VQA.Config(answers=("yes", "no", "red", "blue")), Toy(), TOKENIZER)
    batch = task.label(batch_of(SAMPLES))
    term = task(batch)["vqa"]
    assert isinstance(term, LossTerm)
    by_hand = 0.0
    for row, target in zip(task.logits(batch), batch.labels["vqa"], strict=True):
        for logit, t in zip(row, target, strict=True):
            by_hand -= t * F.logsigmoid(logit) + (1 - t) * F.logsigmoid(-logit)
    assert torch.allclose(term.sum, by_hand, atol=1e-5)
    assert term.count == 4
    as_in_vilt = F.binary_cross_entropy_with_logits(task.logits(batch), batch.labels["vqa"]) * 4
    assert torch.allclose(term.sum / term.count, as_in_vilt)


def test_the_cloze_puts_a_mask_behind_the_question():
    task = VQA(VQA.Config(head="cloze", answers=("yes", "no", "red", "blue")), Toy(), TOKENIZER)
    long = question(9, "what color is the dog red left ?", ["red"])
    plain = batch_of([SAMPLES[2], long])
    batch = task.label(plain)
    tokens = [[TOKENIZER.token(i) for i in row if i != TOKENIZER.pad_id] for row in batch.text_BT.tolist()]
    assert tokens[0] == ["[CLS]", "is", "the", "dog", "red", "?", "[MASK]", "[SEP]"]
    assert tokens[1] == ["[CLS]", "what", "color", "is", "the", "dog", "[MASK]", "[SEP]"], "a text at the limit makes room"
    assert batch.text_mask_BT.sum(1).tolist() == [8, 8]
    assert batch.word_BT[:, -2:].tolist() == [[-1, -1]] * 2
    assert plain.text_BT.shape == (2, 8), "the batch it came from is as it was"
    short = task.label(batch_of([SAMPLES[2]]))
    assert torch.allclose(task.logits(short)[0], task.logits(batch)[0], atol=1e-5)


def test_the_cloze_loss_is_the_cross_entropy_over_answer_words():
    task = VQA(VQA.Config(head="cloze", answers=("yes", "no", "red", "blue")), Toy(), TOKENIZER)
    split = question(8, "is the dog red?", ["red"] * 2 + ["blue"] * 8)
    unknown = question(9, "is the dog red?", ["left"])
    batch = task.label(batch_of([SAMPLES[0], split, unknown]))
    log_p = task.logits(batch).log_softmax(1)
    expected = -log_p[0, 2] - (0.6 * log_p[1, 2] + 1.0 * log_p[1, 3]) / 1.6
    term = task(batch)["vqa"]
    assert torch.allclose(term.sum, expected, atol=1e-5)
    assert term.count == 2, "an answer outside the vocabulary asks nothing"
    none = task.label(batch_of([unknown]))
    assert task(none)["vqa"].sum.item() == 0
    with pytest.raises(UserError, match=r"answers of one token; 't shirt', 'zebra' are not"):
        VQA(VQA.Config(head="cloze", answers=("yes", "t shirt", "zebra")), Toy(), TOKENIZER)


@pytest.mark.parametrize("head", ["classifier", "cloze"])
def test_it_learns_and_scores_officially(head):
    torch.manual_seed(0)
    task = VQA(VQA.prepare(VQA.Config(head=head), [SAMPLES], TOKENIZER), Toy(), TOKENIZER)
    batch = task.label(batch_of(SAMPLES))
    optimiser = torch.optim.Adam(task.parameters(), 0.05)
    for _ in range(120):
        optimiser.zero_grad()
        term = task(batch)["vqa"]
        (term.sum / term.count).backward()
        optimiser.step()
    unlabelled = Sample("77", images=(bytes((5, 5, 250)),), texts=("what color is the dog?",), labels={"question_id": 77})
    shown = copy.deepcopy(task).evaluate([task.label(batch_of([*SAMPLES[:3], SAMPLES[3], unlabelled], training=False))])
    assert shown.metrics["accuracy"] == shown.metrics["macro"] == shown.metrics["question_type/is the"] == 100
    assert [p["answer"] for p in shown.predictions] == ["red", "blue", "yes", "no", "blue"]
    assert [p["question_id"] for p in shown.predictions] == [0, 1, 2, 3, 77]
    assert len(shown.items) == 4, "what has no public answer is predicted, not scored"
    item = shown.items[1]
    assert (item["key"], item["group"], item["score"], item["type"], item["truth"]) == ("1", "g1", 1.0, "what color", "blue")
    assert item["top"][0][0] == "blue"
    assert item["top"][0][1] > item["top"][1][1]


def test_the_head_learns_faster_than_the_system():
    task = VQA(VQA.Config(answers=("yes", "no")), Toy(), TOKENIZER)
    rates = {group.name: group.lr_factor for group in task.param_groups()}
    assert rates == {"matrices": 1.0, "vectors": 1.0, "head matrices": 10.0, "head vectors": 10.0}
    assert sum(len(group.params) for group in task.param_groups()) == len(list(task.parameters()))


@pytest.mark.parametrize("head", ["classifier", "cloze"])
def test_a_control_answers_alike_where_only_what_it_lacks_differs(head):
    def logits(withhold, samples):
        torch.manual_seed(0)
        task = VQA(VQA.Config(head=head, answers=("yes", "no", "red", "blue"), withhold=withhold), Toy(), TOKENIZER)
        return task.logits(task.label(batch_of(samples)))

    same_question, same_picture = [SAMPLES[0], SAMPLES[1]], [SAMPLES[0], SAMPLES[2]]
    for samples, lacking in ((same_question, "picture"), (same_picture, "question")):
        assert not torch.equal(*logits("none", samples))
        torch.testing.assert_close(*logits(lacking, samples))
