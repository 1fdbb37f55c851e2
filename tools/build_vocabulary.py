"""Builds the vocabulary of the embedded data, diptych/text/atelier_vocab.txt:  python tools/build_vocabulary.py [--check]

A BERT vocabulary (one token a line), in this order:

    special tokens
    every printable ASCII character, at the start of a word and within (##), so that English text never becomes [UNK]
    the words of the scenes' texts, all tasks, whole, the most frequent first
    the words of the artwork's English names, whole
    beginnings and endings that are frequent among those names, for words outside

It belongs to a version of the texts: run it again when the grammar of the scenes or the names change. Checkpoints carry their own
copy. `--check` writes nothing and fails if the file would change.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from diptych.atelier import artwork, make
from diptych.atelier.vocabulary import CATEGORIES
from diptych.text.tokenizer import SHIPPED

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SCENES = 12_000  # enough that every word of the closed grammar comes up; a test reads other scenes
PIECES = 300
TEXT_FIELDS = {
    *("caption", "false_caption", "phrase", "false_phrase", "predicate", "name"),
    *("question", "answer", "multiple_choice_answer", "answer_choices", "rationale_choices"),
    *("sentence", "sentence1", "sentence2", "raw", "sent"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the vocabulary of the embedded data.")
    parser.add_argument("--check", action="store_true", help="fail if the shipped file is not what this builds")
    tokens = build()
    path, content = SHIPPED["atelier"], "".join(f"{token}\n" for token in tokens)
    if parser.parse_args().check:
        sys.exit(0 if path.read_text(encoding="utf-8") == content else f"{path} is out of date: run tools/build_vocabulary.py")
    path.write_text(content, encoding="utf-8")
    print(f"{len(tokens)} tokens in {path}")


def build() -> list[str]:
    letters = string.ascii_lowercase + string.digits
    characters = [*letters, *(sign for sign in string.punctuation)]
    of_scenes = Counter(word for text in scene_texts() for word in words(text))
    of_scenes.update(word for category in CATEGORIES for word in (category.word, category.plural))  # some plurals are rare
    of_names = Counter(word for name in artwork.load().names("en").values() for word in words(name))
    tokens = [*SPECIAL, *characters, *(f"##{letter}" for letter in letters), *by_frequency(of_scenes), *by_frequency(of_names)]
    return list(dict.fromkeys([*tokens, *pieces(of_names)]))


def scene_texts() -> Iterator[str]:
    for chunk in make.chunks(SCENES, seed=0):
        for _, _, tables in make.groups(chunk):
            yield from texts_in(tables, is_text=False)


def texts_in(value: Any, is_text: bool) -> Iterator[str]:
    """Strings under text fields, however deep: VCR's texts are lists of words and of lists of objects."""
    if isinstance(value, str) and is_text:
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_in(inner, is_text or key in TEXT_FIELDS)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner, is_text)


def words(text: str) -> list[str]:
    """As BERT separates them."""
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer(lowercase=True).normalize_str(text))]


def by_frequency(count: Counter[str]) -> list[str]:
    return sorted((word for word in count if word.isascii()), key=lambda word: (-count[word], word))


def pieces(count: Counter[str]) -> list[str]:
    """The beginnings and endings, of two to five letters, that spare most tokens over the distinct words of the names.

    Not the library's WordPiece training: it breaks ties at random, and the file would be another one each time.
    """
    found: Counter[str] = Counter()
    for word in count:
        for length in range(2, min(5, len(word) - 1) + 1):
            found[word[:length]] += length - 1
            found[f"##{word[-length:]}"] += length - 1
    return by_frequency(found)[:PIECES]


if __name__ == "__main__":
    main()
