"""Rows and indices: what is drawn depends on ids alone, tokens and boxes line up with their texts and pixels."""

import numpy as np
import pytest
import torch

from diptych.config import DataConfig, ImageConfig, TextConfig
from diptych.contracts import ROWS_PER_SAMPLE, Box, Phrase, Sample
from diptych.data.collate import Collate
from diptych.draw import Draw
from diptych.text.tokenizer import wordpiece

TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue dog ##s pear is left of the small . there are 2 un ##lucky"
TOKENIZER = wordpiece(TOKENS.split())
TEXTS = ("a red dog", "the dog is left of the pear", "there are 2 dogs", "the small pear is blue")


def a_sample(n: int, **fields) -> Sample:
    return Sample(f"key{n}", images=(f"picture {n}".encode(),), **({"texts": TEXTS} | fields))


def a_picture(n: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)


def collate(training=True, max_tokens=40, **data) -> Collate:
    image = data.pop("image", ImageConfig(short=64, long=96, multiple=32))
    return Collate(TOKENIZER, TextConfig(max_tokens=max_tokens), DataConfig(image=image, **data), training)


def texts_of(batch):
    return [TOKENIZER.decode(row) for row in batch.text_BT.tolist()]


def test_evaluation_takes_every_text_in_order():
    batch = collate(training=False)(
        [a_sample(0), a_sample(1, texts=("a pear",))], [[a_picture(0)], [a_picture(1)]], [7, 8], Draw(0)
    )
    assert texts_of(batch) == [*TEXTS, "a pear"]
    assert batch.keys == ("key0",) * 4 + ("key1",)
    assert batch.row_B.tolist() == [7 * ROWS_PER_SAMPLE + place for place in range(4)] + [8 * ROWS_PER_SAMPLE]
    assert batch.image_of_BN.tolist() == [[0], [0], [0], [0], [1]]
    assert batch.false_text is None
    assert batch.text_mask_BT.sum(1).tolist() == [5, 9, 7, 7, 4]
    assert batch.word_BT[2].tolist() == [-1, 0, 1, 2, 3, 3, -1, -1, -1]


@pytest.mark.parametrize("augment", ["none", "flip", "randaugment"])
def test_training_draws_depend_on_ids_alone(augment):
    """The same sample among others, in another order, gives the same rows and the same pixels."""
    image = ImageConfig(short=64, long=64, multiple=32, augment=augment)
    make = collate(texts_per_image=2, image=image)
    texts = ("a red dog", "the small pear", "there are 2 dogs", "a blue pear")  # none speaks of left or right
    samples = [a_sample(n, texts=texts) for n in range(6)]
    others = [[samples[(n + 1) % 6], samples[(n + 2) % 6]] for n in range(6)]
    whole = make(samples, [[a_picture(n)] for n in range(6)], list(range(100, 106)), Draw(3), others)
    for order in ([2], [5, 0], [4, 2, 1]):
        part = make(
            [samples[n] for n in order],
            [[a_picture(n)] for n in order],
            [100 + n for n in order],
            Draw(3),
            [others[n] for n in order],
        )
        rows = [2 * n + k for n in order for k in range(2)]
        assert part.row_B.tolist() == whole.row_B[rows].tolist()
        assert texts_of(part) == [texts_of(whole)[row] for row in rows]
        assert torch.equal(part.images.pixel_I3HW, whole.images.pixel_I3HW[order])
    other_seed = make(samples, [[a_picture(n)] for n in range(6)], list(range(100, 106)), Draw(4), others)
    assert other_seed.row_B.tolist() != whole.row_B.tolist()


def test_texts_are_drawn_evenly_and_without_repeats():
    make = collate(texts_per_image=2)
    batch = make([a_sample(0)] * 600, [[a_picture(0, 32, 32)]] * 600, list(range(600)), Draw(0))
    place = (batch.row_B % ROWS_PER_SAMPLE).reshape(600, 2)
    assert (place[:, 0] != place[:, 1]).all()
    assert torch.bincount(place.flatten(), minlength=4).sub(300).abs().max() < 60
    few = make([a_sample(0, texts=("a dog",)), a_sample(1, texts=())], [[a_picture(0)]] * 2, [0, 1], Draw(0))
    assert texts_of(few) == ["a dog", ""], "no text is the empty text"


def test_false_texts_come_from_the_sample_or_from_another():
    own = a_sample(0, texts=("a red dog", "a dog"), false_texts=("a blue dog", ""))
    other = Sample("other", texts=("a red dog", "a small pear"))
    make = collate(training=False)
    batch = make([own], [[a_picture(0)]], [0], Draw(0), [[Sample("same", texts=own.texts), other]])
    assert [TOKENIZER.decode(row) for row in batch.false_text.token_BT.tolist()] == ["a blue dog", "a small pear"]
    assert batch.false_text.token_BT.shape == batch.text_BT.shape
    assert batch.others == ((Sample("same", texts=own.texts), other),) * 2
    alone = make([own], [[a_picture(0)]], [0], Draw(0), [[Sample("same", texts=own.texts)]])
    assert alone.false_text.mask_BT.any(1).tolist() == [True, False], "a row without a false text is masked out"
    assert make([a_sample(0)], [[a_picture(0)]], [0], Draw(0)).false_text is None


def test_phrases_become_spans_of_whole_words():
    text = "the unlucky dogs are left of a pear"
    spans = (Phrase(6, 9, "part", 0), Phrase(12, 16, "object", 1), Phrase(21, 28, "relation"), Phrase(31, 35, "object"))
    sample = a_sample(0, texts=(text,), phrases=(spans,))
    batch = collate()([sample], [[a_picture(0)]], [0], Draw(0))
    tokens = [TOKENIZER.token(i) for i in batch.text_BT[0].tolist()]
    assert [tokens[p.start : p.end] for p in batch.phrases[0]] == [["un", "##lucky"], ["dog", "##s"], ["left", "of"], ["pear"]]
    assert [p.box for p in batch.phrases[0]] == [0, 1, None, None]
    cut = collate(max_tokens=6)([sample], [[a_picture(0)]], [0], Draw(0))
    assert [p.kind for p in cut.phrases[0]] == ["part", "object"]
    assert cut.text_BT.shape == (1, 6)
    assert cut.text_BT[0, -1] == TOKENIZER.sep_id


def test_phrases_of_false_texts_are_marked_too():
    """Or the words that are hidden would tell a mismatch: of a near text the same words, of another's its own."""
    spans = ((Phrase(2, 5, "colour", 0), Phrase(6, 9, "object", 0)), ())
    own = a_sample(0, texts=("a red dog", "a pear"), false_texts=("a blue dog.", ""), phrases=spans)
    other = Sample("other", texts=("the small pear",), phrases=((Phrase(10, 14, "object", 3),),))
    batch = collate(training=False)([own], [[a_picture(0)]], [0], Draw(0), [[other]])
    swapped = batch.with_false_text(torch.tensor([True, True]))
    words = [[TOKENIZER.token(i) for i in row] for row in swapped.text_BT.tolist()]
    marked = [[" ".join(row[p.start : p.end]) for p in phrases] for row, phrases in zip(words, swapped.phrases, strict=True)]
    assert marked == [["blue", "dog"], ["pear"]]
    assert all(p.box is None for phrases in swapped.phrases for p in phrases), "nothing there lies in this picture"
    assert batch.with_false_text(torch.tensor([False, True])).phrases[0] == batch.phrases[0]


def test_pictures_are_padded_with_a_mask_and_boxes_are_relative():
    boxes = (Box((10, 20, 50, 40)), Box((-5, 10, 500, 30)), Box((80, 10, 80, 30)))
    wide, square = a_sample(0, boxes=boxes), a_sample(1)
    black = np.zeros((64, 64, 3), np.uint8)
    batch = collate()([wide, square], [[a_picture(0, 50, 100)], [black]], [0, 1], Draw(0))
    assert batch.images.pixel_I3HW.shape == (2, 3, 64, 96)
    assert batch.images.size_I2.tolist() == [[32, 96], [64, 64]], "a black picture is real too"
    assert not batch.images.pixel_I3HW[0, :, 32:].any()
    assert batch.regions.box_IR4[0].flatten().tolist() == pytest.approx([0.1, 0.4, 0.5, 0.8, 0, 0.2, 1, 0.6, 0.8, 0.2, 0.8, 0.6])
    assert batch.regions.mask_IR.tolist() == [[True, True, False], [False, False, False]]


def test_pictures_are_shared_in_evaluation_only():
    questions = [Sample(f"q{n}", images=(b"same",), texts=("a dog",)) for n in range(3)]
    pictures = [[a_picture(0)]] * 3
    assert collate(training=False)(questions, pictures, [0, 1, 2], Draw(0)).image_of_BN.tolist() == [[0], [0], [0]]
    assert collate()(questions, pictures, [0, 1, 2], Draw(0)).image_of_BN.tolist() == [[0], [1], [2]]


def test_rows_of_several_pictures_or_none():
    pair = Sample("pair", images=(b"l", b"r"), texts=("a dog",))
    batch = collate()([pair, a_sample(1, texts=("a",))], [[a_picture(0), a_picture(1)], [a_picture(2)]], [0, 1], Draw(0))
    assert batch.image_of_BN.tolist() == [[0, 1], [2, -1]]
    silent = collate()([Sample("t", texts=("a dog",))], [[]], [0], Draw(0))
    assert silent.images is None
    assert silent.image_of_BN is None


def test_flip_spares_pictures_whose_texts_tell_left_from_right():
    image = ImageConfig(short=64, long=64, multiple=32, augment="flip")
    make = collate(image=image)
    boxes = (Box((0, 0, 16, 64)),)
    spoken = a_sample(0, texts=("the dog is LEFT of the pear",), boxes=boxes)
    silent = a_sample(1, texts=("a red dog",), boxes=boxes)
    pixel = a_picture(0)
    batch = make([spoken] * 200 + [silent] * 200, [[pixel]] * 400, list(range(400)), Draw(0))
    is_flipped = (batch.images.pixel_I3HW != torch.from_numpy(pixel).permute(2, 0, 1)).flatten(1).any(1)
    assert not is_flipped[:200].any()
    assert 70 < is_flipped[200:].sum() < 130
    assert torch.equal(batch.regions.box_IR4[:, 0, 0] > 0.5, is_flipped)
    calm = Collate(TOKENIZER, TextConfig(), DataConfig(image=image), training=False)
    assert torch.equal(calm([silent], [[pixel]], [7], Draw(0)).images.pixel_I3HW[0], torch.from_numpy(pixel).permute(2, 0, 1))
