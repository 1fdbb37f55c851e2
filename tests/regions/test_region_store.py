"""What goes into a region store comes out of it, wherever the writing was cut."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from diptych.config import DataConfig, ImageConfig, TextConfig, UserError
from diptych.contracts import Box, Detected, Sample
from diptych.data.collate import Collate
from diptych.draw import Draw
from diptych.regions.store import RegionStore, WithRegions, Writer
from diptych.regions.verify import compare, verify
from diptych.text.tokenizer import wordpiece

WIDTH, CLASSES = 6, ("background", "dog", "cat")
PICTURES = [Path(f"somewhere/train/{n:08d}.jpg") for n in range(8)]


def detected(n: int) -> Detected:
    random = np.random.default_rng(n)
    count = n % 4  # pictures without any region among them
    corner_R4 = np.sort(random.random((count, 2, 2)), 1).reshape(count, 4)
    return Detected(
        corner_R4.astype(np.float32),
        random.standard_normal((count, WIDTH)).astype(np.float16),
        random.dirichlet((1, 1, 1), count).astype(np.float16),
    )


def write(root: Path, pictures: list[Path], finish: bool = True) -> None:
    writer = Writer(root, WIDTH, CLASSES, {"by": "test"})
    for picture in pictures:
        if not writer.has(picture):
            writer.add({f"{picture.parent.name}/{picture.name}": detected(int(picture.stem))})
    if finish:
        writer.finish()
    else:
        writer.close()


def assert_whole(root: Path) -> None:
    store = pickle.loads(pickle.dumps(RegionStore(root)))
    assert (store.width, store.classes, len(store)) == (WIDTH, CLASSES, len(PICTURES))
    for picture in PICTURES:
        for there, expected in zip(store[picture], detected(int(picture.stem)), strict=True):
            assert there.dtype == expected.dtype
            assert np.array_equal(there, expected)


def test_what_is_written_is_read_and_public_names_find_it(tmp_path):
    write(tmp_path / "store", PICTURES)
    assert_whole(tmp_path / "store")
    writer = Writer(tmp_path / "public", WIDTH, CLASSES, {})
    writer.add({"25": detected(2)})
    assert np.array_equal(writer.finish()[Path("val2014/COCO_val2014_000000000025.jpg")].feature_RD, detected(2).feature_RD)


@pytest.mark.parametrize("name", ["index.jsonl", "box.f32", "feature.f16", "soft_label.f16"])
def test_a_store_cut_at_any_byte_is_continued_to_the_same_store(tmp_path, name):
    write(tmp_path / "whole", PICTURES)
    begun = tmp_path / "begun"
    write(begun, PICTURES[:5], finish=False)
    content = {file.name: file.read_bytes() for file in begun.iterdir()}
    for cut in range(0, len(content[name]) + 1, 7):
        for file, whole in content.items():
            (begun / file).write_bytes(whole[:cut] if file == name else whole)
        with pytest.raises(UserError, match="not finished"):
            RegionStore(begun)
        write(begun, PICTURES)
        assert RegionStore(begun).fingerprint == RegionStore(tmp_path / "whole").fingerprint
        assert_whole(begun)
        (begun / "store.json").unlink()


def test_a_finished_store_takes_more_pictures_of_the_same_detector(tmp_path):
    write(tmp_path, PICTURES[:3])
    write(tmp_path, PICTURES)
    assert_whole(tmp_path)
    with pytest.raises(UserError, match="begun with other made"):
        Writer(tmp_path, WIDTH, CLASSES, {"by": "another"})
    with pytest.raises(UserError, match="begun with other width"):
        Writer(tmp_path, WIDTH + 1, CLASSES, {"by": "test"})
    assert_whole(tmp_path)


def test_complaints_name_the_place(tmp_path):
    with pytest.raises(UserError, match="no such region store"):
        RegionStore(tmp_path / "nowhere")
    write(tmp_path / "store", PICTURES)
    with pytest.raises(UserError, match=r"no regions of train/00000009.jpg; the nearest is 'train/0000000\d.jpg'"):
        RegionStore(tmp_path / "store")[Path("train/00000009.jpg")]
    feature = tmp_path / "store" / "feature.f16"
    feature.write_bytes(feature.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"feature.f16: has .* bytes, .* torn"):
        RegionStore(tmp_path / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        Writer(tmp_path / "other", WIDTH, CLASSES, {})


def test_a_store_is_verified_to_the_last_byte_and_compared_with_another(tmp_path):
    write(tmp_path / "store", PICTURES)
    whole = verify(tmp_path / "store")
    assert (whole["pictures"], whole["without_regions"], whole["regions"]) == (8, 2, 12)
    writer = Writer(tmp_path / "other", WIDTH, CLASSES, {"by": "another"})
    moved, wider = detected(1), detected(3)
    moved = moved._replace(box_R4=moved.box_R4 / 2)
    wider = wider._replace(feature_RD=wider.feature_RD + np.float16(0.5))
    writer.add({"train/00000001.jpg": moved, "train/00000003.jpg": wider, "else.jpg": detected(2)})
    writer.finish()
    found = compare(tmp_path / "store", tmp_path / "other")
    assert (found["pictures"], found["only_here"], found["only_there"], found["same_boxes"], found["same_class"]) == (2, 6, 1, 1, 3)
    assert found["largest_feature_difference"] == pytest.approx(0.5, abs=2e-3)
    feature = tmp_path / "store" / "feature.f16"
    content = bytearray(feature.read_bytes())
    content[5] ^= 1
    feature.write_bytes(content)
    with pytest.raises(UserError, match="sha256 differs"):
        verify(tmp_path / "store")
    writer = Writer(tmp_path / "wrong", WIDTH, CLASSES, {})
    writer.add({"x": wider._replace(box_R4=wider.box_R4 + 1)})
    writer.finish()
    with pytest.raises(UserError, match="x has a box outside the picture"):
        verify(tmp_path / "wrong")


class Reader:
    fingerprint = "a"

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), images=(PICTURES[index],), texts=("a", "a"), boxes=(Box((0, 0, 4, 4), "dog"),))


def test_collate_puts_rows_of_the_store_beside_each_distinct_picture(tmp_path):
    write(tmp_path / "store", PICTURES)
    reader = WithRegions(Reader(), RegionStore(tmp_path / "store"))
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    data = DataConfig(image=ImageConfig(short=16, long=16, multiple=16))
    samples = [reader[i] for i in (3, 0, 2)]
    pictures = [[np.zeros((16, 16, 3), np.uint8)] for _ in samples]
    batch = Collate(tokenizer, TextConfig(), data, training=False)(samples, pictures, [0, 1, 2], Draw(0))
    assert batch.regions is not None and batch.regions.feature_IRD is not None and batch.regions.soft_label_IRK is not None
    assert batch.regions.mask_IR.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert batch.image_of_BN is not None and batch.image_of_BN[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    for i, n in ((0, 3), (2, 2)):
        own = detected(n)
        assert np.array_equal(batch.regions.box_IR4[i, :n], own.box_R4)
        assert np.array_equal(batch.regions.feature_IRD[i, :n], own.feature_RD.astype(np.float32))
        assert np.array_equal(batch.regions.soft_label_IRK[i, :n], own.soft_label_RK.astype(np.float32))
    augmented = data.model_copy(update={"image": data.image.model_copy(update={"augment": "flip"})})
    with pytest.raises(UserError, match="augment=flip"):
        Collate(tokenizer, TextConfig(), augmented, training=True)(samples, pictures, [0, 1, 2], Draw(0))
    assert json.dumps(reader.fingerprint)
    other = WithRegions(Reader(), RegionStore(tmp_path / "store"))
    assert other.fingerprint == reader.fingerprint != Reader.fingerprint
