"""Noise spoils so many texts as it says, always the same ones, in three ways, and nothing else of a sample."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from diptych import config, find
from diptych.config import UserError
from diptych.contracts import Phrase, Sample
from diptych.data.noise import BOILERPLATE, Noisy, cut
from diptych.draw import Draw
from diptych.train import run

HEADS = tuple(text.partition("{")[0] for text in BOILERPLATE)


class Reader:
    fingerprint = "of the reader"
    region_classes = ("background", "dog")

    def __len__(self):
        return 1000

    def __getitem__(self, index: int) -> Sample:
        texts = (f"thing {index} is big", f"thing {index} is red")
        spans = tuple((Phrase(0, 5, "object"),) for _ in texts)
        return Sample(f"{index}", texts=texts, false_texts=("no", "nor"), phrases=spans, labels={"label": index})


def test_a_share_is_spoilt_in_three_ways_and_the_rest_stays():
    noisy, clean = Noisy(Reader(), 0.3, Draw(0)), Reader()
    ways = {"another's": 0, "boilerplate": 0, "cut": 0}
    for index in range(len(clean)):
        was, sample = clean[index], noisy[index]
        assert sample == noisy[index] and (sample.key, sample.labels) == (was.key, was.labels)
        for place, (before, text) in enumerate(zip(was.texts, sample.texts, strict=True)):
            is_same = text == before
            assert (sample.phrases[place], sample.false_texts[place]) == (
                (was.phrases[place], was.false_texts[place]) if is_same else ((), "")
            )
            way = None if is_same else "cut" if text == cut(before) else "boilerplate" if text.startswith(HEADS) else "another's"
            if way == "another's":
                assert text.startswith("thing ") and f"thing {index} " not in text
            if way:
                ways[way] += 1
    assert all(abs(count / 2000 - 0.1) < 0.025 for count in ways.values()), ways


def test_it_tells_what_its_reader_tells_and_goes_to_other_processes():
    noisy = pickle.loads(pickle.dumps(Noisy(Reader(), 0.5, Draw(1))))
    assert (noisy.fingerprint, noisy.region_classes, len(noisy)) == ("of the reader", ("background", "dog"), 1000)
    assert not hasattr(noisy, "no_such_thing")
    assert cut("a red dog there") == "a red" and cut("giraffe") == "gira"


def test_it_is_of_pre_training_alone():
    before = config.resolve(find.system("vilt:tiny").recipe, config.from_setting("data.noise=0.3"))
    recipe = find.finetuning("vqa", "vilt", before)
    assert recipe.data.noise == 0, "a task's questions come as they are, whatever its system was pre-trained on"
    spoilt = config.resolve(recipe, config.from_setting("data.noise=0.3"))
    with pytest.raises(UserError, match=r"data\.noise spoils the texts of pre-training"):
        run.finetune(spoilt, find.system_class("vilt"), find.task_class("vqa"), [], Path("nowhere"))
