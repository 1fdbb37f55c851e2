"""CIDEr-D and BLEU-4 by hand, against a loop in the manner of the field's evaluation code, and against what that code says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from diptych.metrics.bleu import bleu
from diptych.metrics.cider import cider_d
from diptych.metrics.penn import words

HERE = Path(__file__).parent
OTHERWISE = (  # than Stanford's tokeniser: smileys, weekdays, decades behind an article, a stop before a comma, code
    ":) :-( <3",
    "lbs. oz. min. sec. hr. approx. dept. est. fig. jan. feb. mon. tues. no. nos.",
    "the '50's",
    "dog.,",
    "3:30-4:30",
    "c++ c#",
    "v2.0",
)


def test_words_are_those_of_stanfords_tokeniser():
    """penn.tsv: difficult lines, and what PTBTokenizer of CoreNLP 3.4.1 makes of them, less what COCO's code drops."""
    lines = [line.split("\t") for line in (HERE / "penn.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 240
    assert tuple(text for text, told in lines if " ".join(words(text)) != told) == OTHERWISE


def test_scores_are_those_of_cocos_code():
    """coco_caption.json: what pycocoevalcap 1.2 says of these captions."""
    kept = json.loads((HERE / "coco_caption.json").read_text(encoding="utf-8"))
    candidates, references = kept["candidates"], kept["references"]
    assert np.mean(cider_d(candidates, references)) == pytest.approx(kept["cider_d"], rel=1e-12)
    assert bleu(candidates, references) == pytest.approx(kept["bleu_4"], rel=1e-9)  # that code adds 1e-15 here and there


def test_two_pictures_by_hand():
    """Every n-gram of one picture alone weighs log 2; those of both weigh nothing."""
    references = [["a red dog runs"], ["a blue cat sits"]]
    assert cider_d(["a red dog runs", "a blue cat sits"], references) == pytest.approx([10, 10])
    # unigrams: red and dog of red, dog, runs -> 2 / (sqrt 2 sqrt 3); "a" weighs nothing. bigrams: "a red", "red dog" of three.
    # trigrams: one of two. no 4-grams: norm 0, similarity 0. One bigram less: exp(-1 / 72)
    expected = (2 / math.sqrt(6) + 2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72) * 10
    assert cider_d(["a red dog", "a blue cat sits"], references)[0] == pytest.approx(expected)
    # words that no reference has weigh log 2 too: they make the norm longer
    assert cider_d(["green dog sings now", "a blue cat sits"], references)[0] == pytest.approx(
        10 / 4 * (1 / (math.sqrt(4) * math.sqrt(3)))
    ), "four words of which one is right, against three that weigh"
    assert cider_d(["", "a blue cat sits"], references)[0] == 0


def test_one_picture_alone_scores_nothing():
    assert cider_d(["a dog"], [["a dog"]]) == [0]
    with pytest.raises(ValueError, match="at least one reference"):
        cider_d(["a dog"], [[]])


def test_a_word_said_too_often_counts_as_often_as_in_the_reference():
    once, often = (cider_d([text, "x y"], [["dog dog"], ["x y"]])[0] for text in ("dog dog", "dog dog dog"))
    assert often < once
    # unigram: min(3, 2) 2 / (3 * 2) = 2/3; bigram (dog dog): min(2, 1) 1 / (2 * 1) = 1/2; longer by one bigram
    assert often == pytest.approx((2 / 3 + 1 / 2) / 4 * 10 * math.exp(-1 / 72))


def slow(candidates, references):
    """As the field's code goes about it: vectors over all n-grams of one length, numpy arrays over n."""

    def grams(text, n):
        tokens = text.split()
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    scores = []
    for candidate, texts in zip(candidates, references, strict=True):
        value = np.zeros(4)
        for n in range(1, 5):
            names = sorted({g for many in references for text in many for g in grams(text, n)} | set(grams(candidate, n)))
            idf = [
                math.log(len(references)) - math.log(max(1, sum(any(g in grams(t, n) for t in many) for many in references)))
                for g in names
            ]
            for text in texts:
                c, r = (np.array([grams(t, n).count(g) * w for g, w in zip(names, idf, strict=True)]) for t in (candidate, text))
                norm = np.linalg.norm(c) * np.linalg.norm(r)
                apart = max(len(candidate.split()) - 1, 0) - max(len(text.split()) - 1, 0)
                value[n - 1] += (np.minimum(c, r) @ r / norm if norm else 0) * math.exp(-(apart**2) / 72) / len(texts)
        scores.append(10 * value.mean())
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop(seed):
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(list("abcde"), rng.integers(1, 9)))

    references = [[text() for _ in range(rng.integers(1, 5))] for _ in range(6)]
    candidates = [text() for _ in range(6)]
    assert cider_d(candidates, references) == pytest.approx(slow(candidates, references))


def test_bleu_by_hand():
    """The example of the paper (section 2.1): "the" seven times is right twice."""
    assert bleu(["the the the the the the the"], [["the cat is on the mat", "there is a cat on the mat"]]) == 0
    assert bleu(["a b c d e"], [["a b c d e"]]) == pytest.approx(1)
    # unigrams 5 of 6, bigrams 4 of 5, trigrams 3 of 4, 4-grams 2 of 3; as long as the reference
    assert bleu(["a b c d e x"], [["a b c d e f"]]) == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    # all right, but five words where the nearest reference has six; of lengths 4 and 6, equally near, the shorter
    assert bleu(["a b c d e"], [["a b c d e f"]]) == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu(["a b c d e"], [["a b c d e f", "a b c d"]]) == pytest.approx(1)
    # counts of all pictures are added up before anything is divided
    assert bleu(["a b c d", "x y z"], [["a b c d"], ["x y z w"]]) == pytest.approx(math.exp(1 - 8 / 7))
