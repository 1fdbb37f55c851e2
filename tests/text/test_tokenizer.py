"""Token ids equal transformers' BertTokenizer; words, offsets, cutting and saving keep their promises; shipped words stay whole."""

import pickle

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer

from diptych.atelier import make
from diptych.config import UserError
from diptych.text import tokenizer
from tools.build_vocabulary import in_pieces

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
UNCASED = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS[:10],
    *(f"##{letter}" for letter in LETTERS),
    *(
        "the",
        "dog",
        "un",
        "##believ",
        "##able",
        "caf",
        "cafe",
        "!",
        "?",
        "'",
        "-",
        ",",
        "中",
        "文",
        "straße",
        "strasse",
        "naive",
    ),
]
TEXTS = [
    "The dogs, unbelievable!",
    "Un-believable dog's CAFÉ?",
    "naïve 中文 the\u200bdog \t straße\n",
    "[MASK] the dog [SEP] dog",
    "zzz dog \x00 the" + "x" * 120,
    "",
    "  ",
]


@pytest.fixture
def vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(UNCASED) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(vocab_file, text):
    theirs = BertTokenizer(vocab=str(vocab_file), do_lower_case=True)
    ours = tokenizer.load(str(vocab_file))
    assert ours.encode(text, 512).ids == theirs(text)["input_ids"]
    assert ours.encode(text, 7).ids == theirs(text, truncation=True, max_length=7)["input_ids"]
    assert ours.decode(ours.encode(text, 512).ids) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)


def test_a_vocabulary_with_capitals_keeps_case_and_accents(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*UNCASED, "The", "Café"]), encoding="utf-8")
    theirs = BertTokenizer(vocab=str(path), do_lower_case=False)
    ours = tokenizer.load(str(tmp_path))
    assert ours.encode("The the Café DOG", 20).ids == theirs("The the Café DOG")["input_ids"]


def test_words_and_offsets(vocab_file):
    ours = tokenizer.load(str(vocab_file))
    text = "Unbelievable café-dogs [MASK] 中"
    encoding = ours.encode(text, 40)
    assert [ours.token(i) for i in encoding.ids] == [
        *("[CLS]", "un", "##believ", "##able", "cafe", "-", "dog", "##s", "[MASK]", "中", "[SEP]")
    ]
    words = {}
    for word, (start, end) in zip(encoding.words, encoding.offsets, strict=True):
        if word >= 0:
            words.setdefault(word, []).append(text[start:end])
    assert list(words.values()) == [["Un", "believ", "able"], ["café"], ["-"], ["dog", "s"], ["中"]]
    assert [w for w in encoding.words if w < 0] == [-1, -1, -1], "special tokens are no words"
    assert ours.ids_of("dogs") == [UNCASED.index("dog"), UNCASED.index("##s")]


@pytest.mark.parametrize("copy", ["saved", "pickled"])
def test_a_copy_encodes_alike(vocab_file, tmp_path, copy):
    ours = tokenizer.load(str(vocab_file))
    ours.encode("the dog", 9)
    if copy == "saved":
        ours.save(tmp_path / "tokenizer.json")
        again = tokenizer.load(str(tmp_path / "tokenizer.json"))
    else:
        again = pickle.loads(pickle.dumps(ours))
    assert [again.encode(text, 12) for text in TEXTS] == [ours.encode(text, 12) for text in TEXTS]
    for name in ("vocab_size", "pad_id", "unk_id", "cls_id", "sep_id", "mask_id"):
        assert getattr(again, name) == getattr(ours, name)


def test_a_multilingual_tokenizer_json(tmp_path):
    """As XLM-R's: other names of special tokens, pieces that begin at a blank, ids with its own order."""
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁der", -1.0),
        ("▁Hund", -2.0),
        ("e", -3.0),
        ("▁", -4.0),
        ("犬", -5.0),
    ]
    engine = Tokenizer(models.Unigram(pieces, unk_id=3))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.add_special_tokens(
        [*(AddedToken(name, special=True) for name, _ in pieces[:4]), AddedToken("<mask>", special=True, lstrip=True)]
    )
    engine.enable_truncation(4)
    engine.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert (ours.cls_id, ours.pad_id, ours.sep_id, ours.unk_id, ours.mask_id, ours.vocab_size) == (0, 1, 2, 3, 9, 10)
    encoding = ours.encode("der Hunde 犬", 40)
    assert encoding.ids == [0, 4, 5, 6, 7, 8, 2]
    assert encoding.words == [-1, 0, 1, 1, 2, 2, -1]


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"no vocabulary at 'nowhere.txt'.*atelier"):
        tokenizer.load("nowhere.txt")
    (tmp_path / "vocab.txt").write_text("the\ndog\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        tokenizer.load(str(tmp_path / "vocab.txt"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        tokenizer.load(str(tmp_path / "tokenizer.json"))


def test_the_shipped_vocabulary_keeps_the_words_of_unseen_scenes_whole():
    ours = tokenizer.load("atelier")
    shattered = set()
    for chunk in make.chunks(400, seed=123):
        for _, _, tables in make.groups(chunk):
            regions = [region for picture in tables.get("region_descriptions", ()) for region in picture["regions"]]
            texts = [text for region in regions for text in (region["phrase"], region["false_phrase"])]
            texts += [row["caption"] for row in tables.get("captions", ())] + [
                row["question"] for row in tables.get("questions", ())
            ]
            for text in [*texts, *(row["multiple_choice_answer"] for row in tables.get("annotations", ()))]:
                encoding = ours.encode(text, 100)
                if len(set(encoding.words)) != len(encoding.ids) - 1 or ours.unk_id in encoding.ids:
                    shattered.add(text)
    assert not shattered


def test_no_english_text_is_unknown_to_the_shipped_vocabulary():
    ours = tokenizer.load("atelier")
    encoding = ours.encode("Quixotic jazz-vamps; (fjord & 1984)!", 100)
    assert ours.unk_id not in encoding.ids
    assert ours.vocab_size < 2000


def test_the_vocabulary_of_pieces_is_built_from_that_of_words_and_takes_most_words_apart():
    whole, pieces = (tokenizer.SHIPPED[name].read_text().splitlines() for name in ("atelier", "atelier-pieces"))
    assert pieces == in_pieces(whole)
    ours = tokenizer.load("atelier-pieces")
    encoding = ours.encode("a red giraffe, below three umbrellas", 40)
    assert ours.unk_id not in encoding.ids and ours.decode(encoding.ids) == "a red giraffe, below three umbrellas"
    words = [word for word in encoding.words if word >= 0]
    assert words.count(0) == words.count(1) == 1 and words.count(2) > 2 and words.count(6) > 2
