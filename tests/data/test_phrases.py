"""Noun phrases by spaCy: a pipeline is trained on the spot, for none can be downloaded where these tests run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from diptych.config import DataConfig, UserError
from diptych.contracts import Phrase, Sample
from diptych.data.mixture import Source
from diptych.data.phrases import Marked, marked, noun_phrases

spacy = pytest.importorskip("spacy")

# words, parts of speech, place of each word's head, relation to it
TAUGHT = (
    ("A red dog sees it .", "DET ADJ NOUN VERB PRON PUNCT", (2, 2, 3, 3, 3, 3), "det amod nsubj ROOT dobj punct"),
    (
        "The tall tree hides two cats .",
        "DET ADJ NOUN VERB NUM NOUN PUNCT",
        (2, 2, 3, 3, 5, 3, 3),
        "det amod nsubj ROOT nummod dobj punct",
    ),
    ("It sees the red tree .", "PRON VERB DET ADJ NOUN PUNCT", (1, 1, 4, 4, 1, 1), "nsubj ROOT det amod dobj punct"),
    ("Two tall dogs hide .", "NUM ADJ NOUN VERB PUNCT", (2, 2, 3, 3, 3), "nummod amod nsubj ROOT punct"),
)


class Rows(list[Sample]):
    fingerprint = "rows"
    region_classes = ("background", "dog")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    from spacy.tokens import Doc
    from spacy.training import Example

    nlp = spacy.blank("en")
    nlp.add_pipe("morphologizer")
    nlp.add_pipe("parser", config={"min_action_freq": 1})  # or what is as rare as here were no relation of its own
    examples = []
    for text, pos, heads, deps in TAUGHT:
        words = text.split()
        true = Doc(nlp.vocab, words=words, pos=pos.split(), heads=list(heads), deps=deps.split(), morphs=[""] * len(words))
        examples.append(Example(Doc(nlp.vocab, words=words), true))
    learning = nlp.initialize(lambda: examples)
    for _ in range(40):
        nlp.update(examples, sgd=learning)
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return str(folder)


def found(text: str, pipeline: str) -> list[str]:
    return [text[phrase.start : phrase.end] for phrase in noun_phrases(text, pipeline)]


def test_chunks_without_their_article_and_no_pronouns(pipeline: str):
    assert found("A red dog sees it.", pipeline) == ["red dog"]
    assert found("The tall tree hides two cats.", pipeline) == ["tall tree", "two cats"]
    assert found("", pipeline) == []


def test_marks_that_the_data_have_stay(pipeline: str):
    own = (Phrase(2, 5, "colour", 0),)
    rows = Rows([Sample("a", texts=("A red dog sees it.", "It sees the red tree."), phrases=(own, ())), Sample("b")])
    reader = pickle.loads(pickle.dumps(Marked(rows, pipeline)))
    assert reader[0].phrases == (own, (Phrase(12, 20),)) and reader[1] == rows[1]
    assert len(reader) == 2 and reader.region_classes == Rows.region_classes and reader.fingerprint != Rows.fingerprint


def test_what_is_missing_is_said(tmp_path: Path, pipeline: str):
    sources = [Source("own", Rows([Sample("a", texts=("A red dog.",))]))]
    assert marked(sources, DataConfig()) == sources
    assert marked(sources, DataConfig(noun_phrases=pipeline))[0].reader[0].phrases
    with pytest.raises(UserError, match=r"^data.noun_phrases: .*no_such_pipeline"):
        marked(sources, DataConfig(noun_phrases="no_such_pipeline"))
    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} finds no noun chunks: "):
        marked(sources, DataConfig(noun_phrases=str(tmp_path)))
