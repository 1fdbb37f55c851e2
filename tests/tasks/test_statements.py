"""Visual entailment and NLVR2: heads against loops over single rows, scores by hand, controls, and what is refused."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from diptych import find
from diptych.config import UserError
from diptych.contracts import Batch, Sample
from diptych.data.collate import Collate
from diptych.data.picture import decode_sample
from diptych.draw import Draw
from diptych.tasks.nlvr2 import NLVR2, BiAttention, one_by_one
from diptych.tasks.ve import VE
from diptych.text.tokenizer import wordpiece
from diptych.train.evaluate import intervals

TOKENIZER = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "both", "are", "red", "one", "is", "blue", "it"])


def png(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(sum(colour)).integers(0, 60, (*size, 3))
    Image.fromarray((noise + np.array(colour) // 2).astype(np.uint8)).save(file, "png")
    return file.getvalue()


RED, BLUE, GREY = png((250, 5, 5)), png((5, 5, 250), (48, 64)), png((90, 90, 90), (32, 64))


def statement(n: int, pictures: tuple[bytes, ...], text: str, label=None, sentence: str = "s") -> Sample:
    labels = {"question_id": f"q{n}", "sentence": sentence, **({} if label is None else {"label": label})}
    return Sample(f"k{n}", pictures, (text,), labels=labels, group=f"g{n // 2}")


def build(task, **settings):
    found = find.system("vilt:tiny")
    recipe = find.task(task).finetuning(found.recipe)
    cls = find.task_class(task)
    torch.manual_seed(0)
    system = found.cls(recipe.system, TOKENIZER)
    built = cls(recipe.task.model_copy(update=settings), system, TOKENIZER).eval()
    for parameter in built.parameters():  # as after some training
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return built, Collate(TOKENIZER, recipe.text, recipe.data, training=False), recipe


def rows(samples, collate, recipe) -> Batch:
    pictures = [decode_sample(sample, recipe.data.image) for sample in samples]
    return collate(samples, pictures, range(len(samples)), Draw(0))


PAIRS = [
    statement(0, (RED, RED), "both are red", True, "a"),
    statement(1, (RED, BLUE), "both are red", False, "a"),
    statement(2, (BLUE, GREY), "one is blue it is blue", True, "b"),
    statement(3, (GREY, BLUE), "one is blue", None, "b"),
]


@pytest.mark.parametrize("encoding", ["pair", "pair-biattn", "triplet"])
def test_logits_are_those_of_each_row_alone(encoding):
    task, *how = build("nlvr2", encoding=encoding)
    whole = task.label(rows(PAIRS, *how))
    assert whole.labels["nlvr2"].tolist() == [1, 0, 1, -100]
    assert whole.counts["nlvr2"] == 3
    with torch.no_grad():
        found = task.logits(whole)
        for n, sample in enumerate(PAIRS):
            alone = rows([sample], *how)
            if encoding == "triplet":
                expected = task.head(task.system.fuse(alone).pooled_BD)
            else:
                passes = []
                for slot in (0, 1):
                    own = rows([sample], *how)
                    own.image_of_BN[:, 1 - slot] = -1
                    passes.append(task.system.fuse(own))
                if encoding == "pair":
                    expected = task.head(torch.cat([fused.pooled_BD for fused in passes], 1))
                else:
                    expected = task.head(slow_biattention(task.look, *(sequence(fused) for fused in passes)))
            torch.testing.assert_close(found[n : n + 1], expected, atol=1e-5, rtol=1e-4)


def sequence(fused) -> torch.Tensor:
    """[S, D] of one row, without padding."""
    return torch.cat([fused.text_BTD[0, fused.text_mask_BT[0]], fused.image_BVD[0, fused.image_mask_BV[0]]])


def slow_biattention(look: BiAttention, *sides: torch.Tensor) -> torch.Tensor:
    """By torch's own module, a side at a time."""
    pooled = []
    for n, (own, other) in enumerate((sides, sides[::-1])):
        torchs = torch.nn.MultiheadAttention(own.shape[1], look.heads, batch_first=True)
        torchs.in_proj_weight.data = torch.cat([look.query[n].weight, look.pair[n].weight])
        torchs.in_proj_bias.data = torch.cat([look.query[n].bias, look.pair[n].bias])
        torchs.out_proj.weight.data, torchs.out_proj.bias.data = look.out[n].weight.data, look.out[n].bias.data
        looked = torchs(own[None], other[None], other[None], need_weights=False)[0][0]
        mixed = [F.relu(look.mix(torch.cat([a, b]))) for a, b in zip(looked, own, strict=True)]
        weights = torch.stack([F.relu(look.weigh(m))[0] for m in mixed]).softmax(0)
        pooled.append(sum(w * m for w, m in zip(weights, mixed, strict=True)))
    return torch.cat(pooled)[None]


@pytest.mark.parametrize("encoding", ["pair", "pair-biattn", "triplet"])
def test_swapping_the_pictures_changes_the_answer(encoding):
    task, *how = build("nlvr2", encoding=encoding)
    with torch.no_grad():
        here, there = (task.logits(rows([statement(0, pair, "one is red")], *how)) for pair in ((RED, BLUE), (BLUE, RED)))
    assert (here - there).abs().max() > 1e-3


def test_each_row_stands_twice_beside_one_picture_in_its_place():
    _, *how = build("nlvr2")
    batch = rows(PAIRS, *how)
    both = one_by_one(batch)
    assert both.image_of_BN.tolist() == [[i, -1] for i, _ in batch.image_of_BN.tolist()] + [
        [-1, j] for _, j in batch.image_of_BN.tolist()
    ]
    assert both.keys == batch.keys * 2
    assert (batch.image_of_BN >= 0).all(), "the batch itself stays as it is"


class Says(NLVR2):
    """Answers by heart."""

    def __init__(self, *answers: bool):
        torch.nn.Module.__init__(self)
        self.answers = list(answers)

    def logits(self, batch):
        return torch.tensor([[0.0, 9.0] if self.answers.pop(0) else [9.0, 0.0] for _ in batch.samples])


def test_accuracy_and_consistency_with_their_intervals():
    sentences = ("a", "b", "a", "b", "c", "d")
    samples = [statement(n, (RED, BLUE), "x", n % 2 == 0, sentence) for n, sentence in enumerate(sentences)]
    samples.append(statement(6, (RED, BLUE), "x"))
    _, *how = build("nlvr2")
    task = Says(True, False, True, True, False, False, True)  # wrong: the second of "b", and the only one of "c"
    evaluation = task.evaluate([rows(samples[:4], *how), rows(samples[4:], *how)])
    assert evaluation.metrics == {"accuracy": pytest.approx(100 * 4 / 6), "consistency": pytest.approx(50)}
    assert {name: found.value for name, found in intervals(evaluation.items).items()} == pytest.approx(evaluation.metrics)
    assert [("consistency" in item["scores"]) for item in evaluation.items] == [True, True, False, False, True, True]
    assert evaluation.predictions[-1] == {"identifier": "q6", "label": "True"}
    assert len(evaluation.items) == 6, "what has no label is predicted, not scored"


def test_one_picture_is_one_too_few():
    task, *how = build("nlvr2")
    with pytest.raises(UserError, match=r"^nlvr2 compares two pictures, and k0 has 1$"):
        task.label(rows([statement(0, (RED,), "x", True)], *how))
    found = find.system("vilt:tiny")
    with pytest.raises(UserError, match=r"set system\.fusion\.pictures=2"):
        found.cls(found.recipe.system, TOKENIZER).fuse(rows(PAIRS, *how))


def test_entailment_by_label():
    task, *how = build("ve")
    said = ["entailment", "neutral", "neutral", "contradiction", None]
    samples = [statement(n, (RED if n % 2 else BLUE,), "it is red", label) for n, label in enumerate(said)]
    batch = task.label(rows(samples, *how))
    assert batch.labels["ve"].tolist() == [0, 1, 1, 2, -100]
    evaluation = task.evaluate([batch])
    told = [prediction["gold_label"] for prediction in evaluation.predictions]
    assert [prediction["pairID"] for prediction in evaluation.predictions] == [f"q{n}" for n in range(5)]
    right = [one == other for one, other in zip(told, said, strict=True)][:4]
    assert evaluation.metrics == pytest.approx(
        {
            "accuracy": 25 * sum(right),
            "entailment": 100 * right[0],
            "neutral": 50 * (right[1] + right[2]),
            "contradiction": 100 * right[3],
        }
    )
    assert {name: found.value for name, found in intervals(evaluation.items).items()} == pytest.approx(evaluation.metrics)
    loss = task(batch)["ve"]
    expected = F.cross_entropy(task.logits(batch)[:4], torch.tensor([0, 1, 1, 2]), reduction="sum")
    torch.testing.assert_close(loss.sum, expected)
    assert (loss.count, float(loss.metrics["accuracy"][0])) == (4, sum(right))


@pytest.mark.parametrize(("name", "pictures"), [("ve", ((RED,), (BLUE,))), ("nlvr2", ((RED, BLUE), (BLUE, BLUE)))])
def test_a_control_answers_alike_where_only_what_it_lacks_differs(name, pictures):
    a, b = pictures
    a, b = tuple(one if one is not BLUE else RED for one in a), tuple(png((5, 5, 250)) for _ in b)  # of one size: that may be seen
    other_picture = [statement(0, a, "it is red"), statement(1, b, "it is red")]
    other_text = [statement(0, a, "it is red"), statement(1, a, "one is blue")]
    for samples, lacking in ((other_picture, "picture"), (other_text, "text")):
        for withhold in ("none", lacking):
            task, *how = build(name, withhold=withhold)
            with torch.no_grad():
                one, other = task.logits(task.label(rows(samples, *how)))
            assert ((one - other).abs().max() < 1e-5) == (withhold == lacking)


def test_training_data_without_a_label_are_refused():
    silent = [[statement(0, (RED, BLUE), "x")]]
    for cls in (VE, NLVR2):
        with pytest.raises(UserError, match="learns from labels, and the training data have none"):
            cls.prepare(cls.Config(), silent, TOKENIZER)
        assert cls.prepare(cls.Config(), [[statement(0, (RED, BLUE), "x", True)]], TOKENIZER) == cls.Config()


def test_the_head_learns_faster_and_every_parameter_once():
    for name in ("ve", "nlvr2"):
        task, *_ = build(name, **({"encoding": "pair-biattn"} if name == "nlvr2" else {}))
        groups = task.param_groups()
        assert {group.name: group.lr_factor for group in groups}["head matrices"] == 10
        assert sorted(id(p) for g in groups for p in g.params) == sorted(id(p) for p in task.parameters())
