"""How a vocabulary takes texts: words that it does not know, or breaks into many pieces, and texts that it cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from diptych.config import UserError
from diptych.contracts import Tokenizer
from diptych.data.mixture import Source

WHOLE = 1 << 20  # tokens: a text that is not cut
SHATTERED = 4  # pieces from which on a word is called shattered
SHOWN = 5  # words
LOOKED_AT, MOST_UNREAD = 64, 0.5


@dataclass
class Words:
    """How the vocabulary takes the texts that were looked at."""

    lengths: list[int] = field(default_factory=list)  # in tokens, uncut
    words: int = 0
    pieces: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    shattered: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, tokenizer: Tokenizer) -> None:
        encoding = tokenizer.encode(text, WHOLE)
        self.lengths.append(len(encoding.ids))
        of_word: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.words):
            if word >= 0:
                of_word.setdefault(word, []).append(place)
        self.words += len(of_word)
        for places in of_word.values():
            self.pieces += len(places)
            word = text[encoding.offsets[places[0]][0] : encoding.offsets[places[-1]][1]]
            if any(encoding.ids[place] == tokenizer.unk_id for place in places):
                self.unknown[word] += 1
            elif len(places) >= SHATTERED:
                self.shattered[word] += 1

    def share(self, of: Counter[str]) -> float:
        return of.total() / max(self.words, 1)

    def cut(self, max_tokens: int) -> float:
        return sum(length > max_tokens for length in self.lengths) / max(len(self.lengths), 1)

    @staticmethod
    def commonest(words: Counter[str]) -> str:
        return ", ".join(f"'{word}'" for word, _ in words.most_common(SHOWN))


def refuse_unread(sources: Sequence[Source], tokenizer: Tokenizer) -> None:
    """Raise `UserError` where a vocabulary knows less than half of the words of a source: what it is blind to is not learnt.

    The first `LOOKED_AT` samples tell. Single words that are unknown are the pre-flight's matter (`diptych data check`).
    """
    for source in sources:
        words, reader = Words(), source.reader
        for sample in (reader[place] for place in range(min(len(reader), LOOKED_AT))):
            for text in sample.texts:
                words.add(text, tokenizer)
        if words.share(words.unknown) > MOST_UNREAD:
            of_what = f"{words.share(words.unknown):.0%} of the words in its first texts, such as {words.commonest(words.unknown)}"
            cure = "--set text.vocab=PATH takes one that does, and text.vocab=bytes reads every language"
            raise UserError(f"{source.name}: the vocabulary does not know {of_what}; {cure}")
