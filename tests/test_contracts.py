"""Batch: rows are picked, stacked and moved as a whole, and nothing that belongs to a row is left behind."""

from dataclasses import fields

import pytest
import torch

from diptych import contracts
from diptych.contracts import IGNORE, Batch, Images, Phrase, Sample, Texts


def batch(rows: int = 3, tokens: int = 4) -> Batch:
    grid = torch.arange(rows * tokens).reshape(rows, tokens)
    full = torch.ones_like(grid, dtype=torch.bool)
    return Batch(
        text_BT=grid,
        text_mask_BT=full,
        segment_BT=torch.zeros_like(grid),
        word_BT=grid % tokens,
        row_B=torch.arange(rows) + 100,
        image_of_BN=torch.zeros(rows, 1, dtype=torch.long),
        images=Images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.bool)),
        group_B=torch.arange(rows) // 2,
        false_text=Texts(grid + 50, full, torch.zeros_like(grid), grid % tokens),
        labels={"itm": torch.arange(rows)},
        counts={"itm": float(rows)},
        keys=tuple(f"k{i}" for i in range(rows)),
        samples=tuple(Sample(f"k{i}") for i in range(rows)),
        phrases=tuple((Phrase(i, i + 1),) for i in range(rows)),
    )


def test_every_field_is_either_of_rows_or_of_pictures() -> None:
    """A field added to Batch must be told to `rows` and `stack`."""
    of_rows = {*contracts._ROW_TENSORS, *contracts._ROW_TUPLES, "false_text", "labels", "counts"}
    of_pictures = {"images", "regions", "annotated", "image_labels"}
    assert {f.name for f in fields(Batch)} == of_rows | of_pictures | {"step"}


def test_rows_pick_everything_of_a_row() -> None:
    picked = batch().rows(torch.tensor([2, 0, 2]))
    assert picked.row_B.tolist() == [102, 100, 102]
    assert picked.keys == ("k2", "k0", "k2")
    assert [s.key for s in picked.samples] == ["k2", "k0", "k2"]
    assert picked.phrases[0] == (Phrase(2, 3),)
    assert picked.labels["itm"].tolist() == [2, 0, 2]
    assert picked.false_text is not None
    assert picked.false_text.token_BT[:, 0].tolist() == [58, 50, 58]
    assert picked.text_BT[:, 0].tolist() == [8, 0, 8]


def test_stack_asks_each_part_only_its_own_labels() -> None:
    part = batch()
    masked = Batch(**{**vars(part), "labels": {"mlm": part.text_BT}, "counts": {"mlm": 5.0}})
    both = Batch.stack([masked, part])
    assert len(both) == 6
    assert both.labels["itm"].tolist() == [IGNORE] * 3 + [0, 1, 2]
    assert (both.labels["mlm"][3:] == IGNORE).all()
    assert both.counts == {"mlm": 5.0, "itm": 3.0}
    assert both.images is part.images
    assert both.keys == part.keys * 2


def test_to_moves_every_tensor() -> None:
    moved = batch().to("meta")
    assert moved.false_text is not None
    assert moved.images is not None
    tensors = [moved.text_BT, moved.row_B, moved.labels["itm"], moved.false_text.word_BT, moved.images.pixel_I3HW]
    assert all(t.device.type == "meta" for t in tensors)


def test_sample_refuses_fields_that_do_not_line_up() -> None:
    with pytest.raises(ValueError, match="false_texts has 1"):
        Sample("k", texts=("a", "b"), false_texts=("c",))


def test_unpadded_size_of_a_black_picture_is_known() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, :3, :5] = True
    assert Images(torch.zeros(1, 3, 4, 6, dtype=torch.uint8), mask).size_I2.tolist() == [[3, 5]]
