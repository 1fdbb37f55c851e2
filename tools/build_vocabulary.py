"""Builds the vocabularies of the embedded data, diptych/text/atelier_*.txt:  python tools/build_vocabulary.py [--check]

BERT vocabularies (one token a line). The one of words, in this order:

    special tokens
    every printable ASCII character, at the start of a word and within (##), so that English text never becomes [UNK]
    the words of the scenes' texts, all tasks, whole, the most frequent first
    the words of the artwork's English names, whole
    beginnings and endings that are frequent among those names, for words outside

and the one of pieces, in which words of more than three letters come apart, as most do in a real vocabulary where they are rare:

    special tokens, characters
    words of at most three letters, whole
    beginnings, and runs of letters within, that are frequent among all words

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
LETTERS = string.ascii_lowercase + string.digits
CHARACTERS = [*LETTERS, *string.punctuation, *(f"##{letter}" for letter in LETTERS)]
TEXT_FIELDS = {
    *("caption", "false_caption", "phrase", "false_phrase", "predicate", "name"),
    *("question", "answer", "multiple_choice_answer", "answer_choices", "rationale_choices"),
    *("sentence", "sentence1", "sentence2", "raw", "sent"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the vocabulary of the embedded data.")
    parser.add_argument("--check", action="store_true", help="fail if the shipped file is not what this builds")
    whole = build()
    files = {SHIPPED[name]: tokens for name, tokens in (("atelier", whole), ("atelier-pieces", in_pieces(whole)))}
    contents = {path: "".join(f"{token}\n" for token in tokens) for path, tokens in files.items()}
    if parser.parse_args().check:
        stale = [str(path) for path, content in contents.items() if path.read_text(encoding="utf-8") != content]
        sys.exit(f"out of date: {', '.join(stale)}; run tools/build_vocabulary.py" if stale else 0)
    for path, content in contents.items():
        path.write_text(content, encoding="utf-8")
        print(f"{len(files[path])} tokens in {path}")


def build() -> list[str]:
    of_scenes = Counter(word for text in scene_texts() for word in words(text))
    of_scenes.update(word for category in CATEGORIES for word in (category.word, category.plural))  # some plurals are rare
    of_names = Counter(word for name in artwork.load().names("en").values() for word in words(name))
    tokens = [*SPECIAL, *CHARACTERS, *by_frequency(of_scenes), *by_frequency(of_names)]
    return list(dict.fromkeys([*tokens, *pieces(of_names)]))


def in_pieces(whole: list[str]) -> list[str]:
    """The vocabulary of pieces, from that of words."""
    known = [token for token in whole if token.isalpha() and len(token) > 1]
    short = [word for word in known if len(word) <= 3]
    return list(dict.fromkeys([*SPECIAL, *CHARACTERS, *short, *pieces(Counter(known), 3, anywhere=True)]))


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


def pieces(count: Counter[str], most: int = 5, anywhere: bool = False) -> list[str]:
    """The beginnings and endings, of two to so many letters, that spare most tokens over distinct words; or what lies within, too.

    Not the library's WordPiece training: it breaks ties at random, and the file would be another one each time.
    """
    found: Counter[str] = Counter()
    for word in count:
        for length in range(2, min(most, len(word) - 1) + 1):
            found[word[:length]] += length - 1
            for start in range(1 if anywhere else len(word) - length, len(word) - length + 1):
                found[f"##{word[start : start + length]}"] += length - 1
    return by_frequency(found)[:PIECES]


if __name__ == "__main__":
    main()
