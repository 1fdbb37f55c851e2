"""Contrasts against slow loops that read like the formulas, and the queue as a ring."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from diptych.contracts import IGNORE, Sample, Towers
from diptych.objectives import example_rows
from diptych.objectives.contrast import Contrast, Queue

LABELS = torch.tensor([3, 4, 5, 3, IGNORE, 6])  # rows 0 and 3 show one picture, row 4 none


def sides(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    a, b = (F.normalize(torch.randn(rows, 8, generator=random), dim=1).double() for _ in range(2))
    return a.float(), b.float()


def asked(labels: torch.Tensor):
    batch = example_rows.batch()
    return replace(batch, labels={"contrast": labels}, counts={"contrast": float((labels != IGNORE).sum())})


def cross_entropy(true: float, false: list[float], smoothing: float) -> float:
    """Over scores, the true one first; `smoothing` of the target spread evenly over all."""
    scores = [true, *false]
    log_sum = math.log(sum(math.exp(score) for score in scores))
    target = [1 - smoothing + smoothing / len(scores), *([smoothing / len(scores)] * len(false))]
    return sum(share * (log_sum - score) for share, score in zip(target, scores, strict=True))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_sides_ask_as_in_a_slow_loop(within: bool, smoothing: float):
    a, b = sides()
    temperature, expected = 0.3, 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(6):
            if LABELS[i] == IGNORE:
                continue
            others = [j for j in range(6) if LABELS[j] not in (IGNORE, LABELS[i])]
            false = [float(x[i] @ y[j]) / temperature for j in others]
            if within:
                false += [float(x[i] @ x[j]) / temperature for j in others]
            expected += cross_entropy(float(x[i] @ y[i]) / temperature, false, smoothing) / 2
    objective = Contrast(Contrast.Config(within=within, temperature=temperature, smoothing=smoothing))
    term = objective(Towers(a, b, objective.temperature), asked(LABELS))
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert term.count == 5


def test_without_repeats_it_is_the_published_softmax():
    """SimCLR's own arrangement: [a.b | a.a without its diagonal] and [b.a | b.b], halved; ALIGN's through torch's smoothing."""
    a, b = sides()
    labels, own = torch.arange(6), torch.arange(6)
    away = torch.eye(6) * 1e9
    simclr = sum(
        F.cross_entropy(torch.cat([x @ y.T / 0.1, x @ x.T / 0.1 - away], 1), own, reduction="sum") for x, y in ((a, b), (b, a))
    )
    objective = Contrast(Contrast.Config(within=True))
    torch.testing.assert_close(objective(Towers(a, b, objective.temperature), asked(labels)).sum, simclr / 2)
    align = sum(F.cross_entropy(s, own, reduction="sum", label_smoothing=0.1) for s in (a @ b.T / 0.5, b @ a.T / 0.5))
    objective = Contrast(Contrast.Config(temperature=0.5, learnable=True, smoothing=0.1))
    term = objective(Towers(a, b, objective.temperature), asked(labels))
    torch.testing.assert_close(term.sum, align / 2)
    term.sum.backward()
    assert objective.log_temperature is not None and objective.log_temperature.grad.abs() > 0


def test_a_queue_is_asked_as_in_a_slow_loop():
    a, b = sides()
    queue = Queue(7, 8)
    queue.label_K[:3] = torch.tensor([4, 9, 3])
    expected = 0.0
    for i in range(6):
        if LABELS[i] != IGNORE:
            false = [float(a[i] @ queue.key_KE[k]) / 0.2 for k in range(7) if queue.label_K[k] != LABELS[i]]
            expected += cross_entropy(float(a[i] @ b[i]) / 0.2, false, 0)
    objective = Contrast(Contrast.Config(temperature=0.2))
    term = objective.against(Towers(a, b, objective.temperature), queue, asked(LABELS))
    assert term.sum.item() == pytest.approx(expected, rel=1e-5)


def test_a_queue_is_a_ring_that_only_a_successful_step_turns():
    queue = Queue(5, 8)
    start = queue.key_KE.clone()
    keys = torch.arange(64.0).view(8, 8)
    queue.stage(keys[:2], torch.tensor([0, 1]))
    assert torch.equal(queue.key_KE, start)
    queue.discard()
    queue.commit()
    assert torch.equal(queue.key_KE, start) and queue.place == 0
    queue.stage(keys[:2], torch.tensor([0, 1]))
    queue.stage(keys[2:4], torch.tensor([2, IGNORE]))
    queue.commit()
    assert torch.equal(queue.key_KE, torch.cat([keys[:3], start[3:]])) and queue.place == 3
    queue.stage(keys[3:6], torch.tensor([3, 4, 5]))
    queue.commit()
    assert queue.label_K.tolist() == [5, 1, 2, 3, 4] and queue.place == 1
    queue.stage(keys, torch.arange(10, 18))
    queue.commit()
    assert queue.label_K.tolist() == [14, 15, 16, 17, 13], "of more than it holds, the last remain, at their places"


def test_rows_are_of_one_picture_where_the_picture_is_the_same():
    batch = example_rows.batch()
    samples = tuple(
        Sample(key, images=(picture,)) for key, picture in zip("abcdef", [b"x", b"y", b"x", b"z", b"z", b"w"], strict=True)
    )
    objective = Contrast(Contrast.Config())
    label = objective.corrupt(replace(batch, samples=samples), None).labels["contrast"].tolist()
    assert [label.index(one) for one in label] == [0, 1, 0, 3, 3, 5]
    assert min(label) >= 0


@pytest.mark.parametrize("within", [False, True])
def test_many_anchors_are_asked_a_few_at_a_time(within: bool, monkeypatch: pytest.MonkeyPatch):
    """Loss, hits and gradients, that of the temperature too."""
    found = []
    for few in (4, 1024):
        monkeypatch.setattr("diptych.objectives.contrast.ANCHORS", few)
        a, b = (side.requires_grad_() for side in sides())
        objective = Contrast(Contrast.Config(within=within, learnable=True, smoothing=0.1))
        term = objective(Towers(a, b, objective.temperature), asked(LABELS))
        term.sum.backward()
        found.append([term.sum.detach(), term.metrics["accuracy"][0], a.grad, b.grad, objective.log_temperature.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
