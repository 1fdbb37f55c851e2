"""Controls at chance: neither the words without the picture nor the picture without the words are worth anything.

The words: logistic regression on n-grams. The picture: logistic regression on everything there is to know of it (what is there, in
which colours, sizes and quarters, how many of a kind), which is more than a network could see; the slow test trains one on pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from diptych.atelier.compose import Scene, paint
from diptych.atelier.facts import Facts
from diptych.atelier.make import Chunk, groups
from diptych.atelier.vqa import TYPES

MARGIN = 0.02
CHANCE = {"exist": 0.5, "colour": 0.125, "count": 0.2, "relation": 0.5, "larger": 0.5}
CHANCE_OF_PICTURES = CHANCE | {"colour": 1 / 6}  # one of the six things that are there is meant


def rows_of(kind: str, split: str, n: int, table: str) -> list[tuple[dict[int, Scene], list[dict]]]:
    """Of n groups: scenes by picture id, and the rows of a table."""
    return [(dict(zip(ids, scenes, strict=True)), rows[table]) for ids, scenes, rows in groups(Chunk(7, split, kind, range(n), 1))]


def by_words(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float:
    control = make_pipeline(CountVectorizer(ngram_range=(1, 3), token_pattern=r"\w+"), LogisticRegression(max_iter=500))
    control.fit(*zip(*train, strict=True))
    return float(control.score(*zip(*test, strict=True)))


def by_picture(train: Sequence[tuple[dict, str]], test: Sequence[tuple[dict, str]]) -> float:
    control = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=500, C=0.1))
    control.fit(*zip(*train, strict=True))
    return float(control.score(*zip(*test, strict=True)))


def seen(*scenes: Scene) -> dict[str, float]:
    """All there is to know."""
    features: dict[str, float] = {}
    for n, scene in enumerate(scenes):
        facts = Facts(scene)
        for name, values in {"category": facts.categories, "colour": facts.colours, "size": facts.sizes}.items():
            counts = Counter(values)
            features |= {f"{n} {name} {value}": count for value, count in counts.items()}
            features[f"{n} {name} {sorted(counts.values())}"] = 1
        features |= {f"{n} in {facts.quarter(i)}": 1 for i in range(len(scene.things))}
        features |= {f"{n} curtain {scene.curtain}": 1, f"{n} ground {scene.ground}": 1, f"{n} things {len(scene.things)}": 1}
    if len(scenes) == 2:
        left, right = (Facts(scene) for scene in scenes)
        features["shared categories"] = len(set(left.categories) & set(right.categories))
        features["shared colours"] = len(set(left.colours) & set(right.colours))
        features[f"difference {len(left.things) - len(right.things)}"] = 1
    return features


@pytest.fixture(scope="module")
def questions() -> dict[str, dict[str, list[tuple[str, Scene, str]]]]:
    """split -> type -> (question, scene, answer)"""
    found: dict[str, dict[str, list[tuple[str, Scene, str]]]] = {}
    for split, n in (("train", 4000), ("test", 5000)):
        asked = found.setdefault(split, {kind: [] for kind in TYPES})
        for ids, scenes, rows in groups(Chunk(7, split, "vqa", range(n), 1)):
            for question, row in zip(rows["questions"], rows["annotations"], strict=True):
                scene = scenes[ids.index(row["image_id"])]
                asked[row["question_type"]].append((question["question"], scene, row["multiple_choice_answer"]))
    return found


@pytest.mark.parametrize("kind", TYPES)
def test_questions_alone(questions, kind):
    train, test = ([(words, answer) for words, _, answer in questions[split][kind]] for split in ("train", "test"))
    assert len(test) == 2000
    assert by_words(train, test) == pytest.approx(CHANCE[kind], abs=MARGIN)


@pytest.mark.parametrize("kind", TYPES)
def test_pictures_of_questions_alone(questions, kind):
    train, test = ([(seen(scene), answer) for _, scene, answer in questions[split][kind]] for split in ("train", "test"))
    assert by_picture(train, test) <= CHANCE_OF_PICTURES[kind] + MARGIN


def test_answers_come_equally_often(questions):
    for kind, chance in CHANCE.items():
        answers = Counter(answer for _, _, answer in questions["train"][kind])
        assert len(answers) == round(1 / chance)
        assert max(answers.values()) / sum(answers.values()) < chance + MARGIN


def test_pairs_of_pictures():
    train, test = (
        [(row, [scenes[int(row[side][-12:-4])] for side in ("left_url", "right_url")]) for scenes, rows in found for row in rows]
        for found in (rows_of("nlvr2", split, 1000, "nlvr2") for split in ("train", "test"))
    )
    assert len(test) == 8000
    assert by_words(*([(row["sentence"], row["label"]) for row, _ in part] for part in (train, test))) == pytest.approx(
        0.5, abs=MARGIN
    )
    assert by_picture(*([(seen(*pair), row["label"]) for row, pair in part] for part in (train, test))) <= 0.5 + MARGIN


def test_entailment():
    train, test = (
        [(row, scenes[int(row["Flickr30K_ID"][-8:])]) for scenes, rows in found for row in rows]
        for found in (rows_of("snli_ve", split, 450, "snli_ve") for split in ("train", "test"))
    )
    assert len(test) > 4000
    chance = pytest.approx(1 / 3, abs=MARGIN)
    assert by_words(*([(row["sentence2"], row["gold_label"]) for row, _ in part] for part in (train, test))) == chance
    assert by_picture(*([(seen(scene), row["gold_label"]) for row, scene in part] for part in (train, test))) == chance


def test_choices():
    """Each of the four candidates is judged by its words, after the question (and the right answer); the best is chosen."""
    train, test = (
        [row for _, rows in rows_of("vcr", split, n, "vcr") for row in rows] for split, n in (("train", 1000), ("test", 2000))
    )
    assert len(test) == 4000
    for choices, label in (("answer_choices", "answer_label"), ("rationale_choices", "rationale_label")):
        words = CountVectorizer(ngram_range=(1, 3), token_pattern=r"\w+|\[\d\]")
        control = LogisticRegression(max_iter=500)
        control.fit(
            words.fit_transform(_candidates(train, choices)), np.array([n == row[label] for row in train for n in range(4)])
        )
        score = control.decision_function(words.transform(_candidates(test, choices))).reshape(-1, 4)
        score += np.random.default_rng(0).normal(0, 1e-9, score.shape)  # equal candidates: any
        right = np.array([row[label] for row in test])
        assert float((score.argmax(1) == right).mean()) == pytest.approx(0.25, abs=MARGIN)
        places = Counter(row[label] for row in test)
        assert max(places.values()) / len(test) < 0.25 + MARGIN


def _candidates(rows: list[dict], choices: str) -> list[str]:
    known = ["question"] if choices == "answer_choices" else ["question", "right"]
    told = [row | {"right": row["answer_choices"][row["answer_label"]]} for row in rows]
    return [
        " ".join(str(token) for key in known for token in row[key]) + " : " + " ".join(map(str, c))
        for row in told
        for c in row[choices]
    ]


def test_expressions():
    """Boxes without words: each thing of a picture is referred to once, so any choice is right once in n."""
    rows = rows_of("refcoco", "test", 1000, "refs")
    assert sum(len(refs) for _, refs in rows) > 4000
    for scenes, refs in rows:
        assert len({ref["ann_id"] for ref in refs}) == len(refs) == len(scenes[refs[0]["image_id"]].things)
    chance = len(rows) / sum(len(refs) for _, refs in rows)
    assert chance == pytest.approx(0.205, abs=MARGIN)


@pytest.mark.slow
def test_pixels_alone(questions):
    """A small convolutional network, told the type but not the question."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    torch.manual_seed(0)
    answers = sorted({answer for kind in TYPES for _, _, answer in questions["train"][kind]})

    def tensors(split: str):
        rows = [(scene, n, answers.index(answer)) for n, kind in enumerate(TYPES) for _, scene, answer in questions[split][kind]]
        pictures = np.stack([np.asarray(paint(scene).resize((64, 64))) for scene, _, _ in rows])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, *torch.tensor([row[1:] for row in rows]).T

    layers = [layer for a, b in ((3, 24), (24, 48), (48, 96)) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())]
    trunk, heads = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(4), nn.Flatten()), nn.Linear(96 * 16, len(TYPES) * len(answers))
    optimizer = torch.optim.AdamW([*trunk.parameters(), *heads.parameters()], 1e-3)
    picture, kind, label = tensors("train")

    def scores(picture, kind):
        return heads(trunk(picture)).view(-1, len(TYPES), len(answers))[torch.arange(len(kind)), kind]

    for _ in range(4):
        for rows in torch.randperm(len(label)).split(64):
            optimizer.zero_grad()
            cross_entropy(scores(picture[rows], kind[rows]), label[rows]).backward()
            optimizer.step()
    trunk.eval()
    picture, kind, label = tensors("test")
    with torch.no_grad():
        right = torch.cat([scores(p, k).argmax(1) for p, k in zip(picture.split(256), kind.split(256), strict=True)]) == label
    for n, name in enumerate(TYPES):
        assert right[kind == n].float().mean().item() <= CHANCE_OF_PICTURES[name] + MARGIN, name
