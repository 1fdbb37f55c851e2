"""Text to token ids, on the `tokenizers` library: `contracts.Tokenizer` for every vocabulary.

Four sources, one class: the vocabularies shipped for the embedded data ("atelier", with all its words whole, and "atelier-pieces",
in which most come apart), the 256 bytes of UTF-8 ("bytes"), a WordPiece `vocab.txt` (Devlin et al., 2019), or a `tokenizer.json`
of any model, multilingual ones too. Bytes are a vocabulary of every language that needs no file and knows no unknown word, for
texts short enough to be spelt. A `vocab.txt` without a single capital is read as uncased, with accents stripped, as
bert-base-uncased is; its ids equal those of transformers' BertTokenizer. A special token in a text, such as [MASK], is read as
such, as there.

Words, for whole-word masking, are what the vocabulary's own pre-tokeniser separates: runs of letters or single punctuation marks
for WordPiece, runs between blanks for SentencePiece.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import NFC, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel

from diptych.checkpoint import write_file
from diptych.config import UserError
from diptych.contracts import Encoding

SHIPPED = {
    name: Path(__file__).with_name(f"{file}.txt")
    for name, file in (("atelier", "atelier_vocab"), ("atelier-pieces", "atelier_pieces"))
}
_CACHE = 1 << 16  # texts remembered; phrases of the embedded data repeat a lot, and encoding is half of collating

# the names under which vocabularies hold the five tokens that Diptych needs
_SPECIAL = {
    "pad_id": ("[PAD]", "<pad>"),
    "unk_id": ("[UNK]", "<unk>"),
    "cls_id": ("[CLS]", "<s>"),
    "sep_id": ("[SEP]", "</s>"),
    "mask_id": ("[MASK]", "<mask>"),
}


def load(vocab: str) -> Subwords:
    """`TextConfig.vocab`: the name of a shipped vocabulary, or the path of a vocab.txt or tokenizer.json."""
    if vocab == "bytes":
        return spelt()
    path = SHIPPED.get(vocab, Path(vocab).expanduser())
    if path.is_dir():
        path = next((path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()), path)
    if not path.is_file():
        raise UserError(
            f"text.vocab: no vocabulary at '{vocab}'; give a vocab.txt, a tokenizer.json, or {' or '.join([*SHIPPED, 'bytes'])}"
        )
    if path.suffix == ".json":
        try:
            engine = Engine.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"text.vocab: {path} is not a tokenizer.json of the tokenizers library ({error})") from None
        return Subwords(engine, str(path))
    try:
        return wordpiece(path.read_text(encoding="utf-8").splitlines(), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"text.vocab: {path} is not a text in UTF-8 ({error.reason} at byte {error.start})") from None


def wordpiece(tokens: Sequence[str], name: str = "vocabulary") -> Subwords:
    """BERT's WordPiece over tokens in the order of their ids. Continuations start with ##."""
    ids = {token: i for i, token in enumerate(token.rstrip("\n") for token in tokens)}
    absent = [names[0] for names in _SPECIAL.values() if names[0] not in ids]
    if absent:
        raise UserError(f"text.vocab: {name} has no {', '.join(absent)}; it is not a BERT vocabulary (one token a line)")
    is_cased = any(token != token.lower() for token in ids if not token.startswith("["))
    engine = Engine(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    engine.normalizer = BertNormalizer(lowercase=not is_cased)
    engine.pre_tokenizer = BertPreTokenizer()
    engine.decoder = WordPieceDecoder()
    engine.add_special_tokens([AddedToken(names[0], normalized=False, special=True) for names in _SPECIAL.values()])
    return Subwords(engine, name)


def spelt() -> Subwords:
    """Texts byte by byte, composed characters first; a word is a run between blanks, and its blank is its own first byte."""
    tokens = [*(names[0] for names in _SPECIAL.values()), *sorted(ByteLevel.alphabet())]
    engine = Engine(BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    engine.normalizer = NFC()
    engine.pre_tokenizer = ByteLevel(add_prefix_space=False)
    engine.decoder = ByteLevelDecoder()
    engine.add_special_tokens([AddedToken(names[0], normalized=False, special=True) for names in _SPECIAL.values()])
    return Subwords(engine, "bytes")


class Subwords:
    """A `contracts.Tokenizer`. Encodings are remembered and shared: don't change their lists."""

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    def __init__(self, engine: Engine, name: str = "vocabulary"):
        engine.no_truncation()
        engine.no_padding()
        for field, names in _SPECIAL.items():
            found = next((token_id for n in names if (token_id := engine.token_to_id(n)) is not None), None)
            if found is None:
                raise UserError(f"text.vocab: {name} has no {' or '.join(names)} token, which masked-word learning needs")
            setattr(self, field, found)
        self.vocab_size = max(engine.get_vocab(with_added_tokens=True).values()) + 1  # ids may have holes
        self._engine = engine
        self._remembered: dict[tuple[str, int], Encoding] = {}

    def encode(self, text: str, max_tokens: int) -> Encoding:
        key = (text, max_tokens)
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _CACHE:
                self._remembered.clear()
            found = self._remembered[key] = self._encode(text, max_tokens)
        return found

    def _encode(self, text: str, max_tokens: int) -> Encoding:
        pieces = self._engine.encode(text, add_special_tokens=False)
        kept = max(max_tokens - 2, 0)
        words, is_special = pieces.word_ids[:kept], {self.cls_id, self.sep_id, self.mask_id, self.pad_id}
        return Encoding(
            [self.cls_id, *pieces.ids[:kept], self.sep_id],
            [-1, *(-1 if w is None or i in is_special else w for w, i in zip(words, pieces.ids, strict=False)), -1],
            [(0, 0), *pieces.offsets[:kept], (0, 0)],
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode(list(ids), skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        return self._engine.id_to_token(token_id) or ""

    def ids_of(self, word: str) -> list[int]:
        return self._engine.encode(word, add_special_tokens=False).ids

    def save(self, path: Path) -> None:
        """A tokenizer.json, which `load` and transformers read."""
        write_file(path, self._engine.to_str(pretty=True).encode())  # the library's own `save` raises bare Exception on a full disk

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": {}}  # what was remembered stays in its process
