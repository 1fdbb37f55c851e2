"""The public layout: what goes out comes in again, others' files too, and mistakes are told by line."""

import base64
import json

import numpy as np
import pytest
from test_region_store import CLASSES, PICTURES, WIDTH, assert_whole, detected, write

from diptych.config import UserError
from diptych.regions import tsv
from diptych.regions.store import RegionStore


def test_a_store_goes_out_and_comes_in_the_same(tmp_path):
    write(tmp_path / "store", PICTURES)
    tsv.write(RegionStore(tmp_path / "store"), tmp_path / "train.tsv")
    lines = (tmp_path / "train.tsv").read_bytes().splitlines(keepends=True)
    offsets = list(map(int, (tmp_path / "train.lineidx").read_text().split()))
    assert offsets == [sum(map(len, lines[:n])) for n in range(len(lines))]
    image_id, count, text = lines[3].split(b"\t")  # as their readers take it
    row_RF = np.frombuffer(base64.b64decode(text), np.float32).reshape(int(count), WIDTH + 6)
    own = detected(3)
    assert np.array_equal(row_RF[:, :WIDTH], own.feature_RD)
    assert np.allclose(row_RF[:, WIDTH:], np.concatenate([own.box_R4, own.box_R4[:, 2:] - own.box_R4[:, :2]], 1))
    assert image_id == b"3"
    tsv.read(tmp_path / "train.tsv", tmp_path / "again")
    assert_whole(tmp_path / "again")
    assert RegionStore(tmp_path / "again").fingerprint == RegionStore(tmp_path / "store").fingerprint


def test_a_file_of_others_becomes_a_store_with_or_without_its_labels(tmp_path):
    write(tmp_path / "store", PICTURES[:4])
    tsv.write(RegionStore(tmp_path / "store"), tmp_path / "theirs.tsv")
    for ours in ("theirs.json", "theirs.labels.tsv", "theirs.lineidx"):
        (tmp_path / ours).unlink()
    bare = tsv.read(tmp_path / "theirs.tsv", tmp_path / "bare")
    assert (len(bare), bare.width, bare.classes) == (4, WIDTH, ("background",))
    said = {n: [{"class": CLASSES[1 + r % 2], "conf": 0.25 + r / 4, "rect": [0, 0, 1, 1]} for r in range(n)] for n in range(4)}
    said[2] = {"image_h": 9, "image_w": 9, "objects": said[2]}
    (tmp_path / "predictions.tsv").write_text("".join(f"{n}\t{json.dumps(own)}\n" for n, own in said.items()))
    named = tsv.read(tmp_path / "theirs.tsv", tmp_path / "named", tmp_path / "predictions.tsv")
    assert named.classes == ("background", "cat", "dog")
    assert named.at("3").soft_label_RK.tolist() == [[0.75, 0, 0.25], [0.5, 0.5, 0], [0.25, 0, 0.75]]
    assert np.array_equal(named.at("3").feature_RD, detected(3).feature_RD)


def test_mistakes_are_told_by_line(tmp_path):
    write(tmp_path / "store", PICTURES[:4])
    tsv.write(RegionStore(tmp_path / "store"), tmp_path / "some.tsv")
    (tmp_path / "some.json").unlink()
    whole = (tmp_path / "some.tsv").read_text().splitlines()
    features = base64.b64encode(np.ones((2, WIDTH + 6), "<f4").tobytes()).decode()
    for bad, message in (
        ("nothing", r"some.tsv:3: not `image id"),
        ("2\t2\tAAA", r"some.tsv:3: not `image id"),
        (f"2\t2\t{features}", r"some.tsv:3: image 2: the last 6 numbers"),
    ):
        (tmp_path / "some.tsv").write_text("\n".join([*whole[:2], bad, *whole[3:]]) + "\n")
        with pytest.raises(UserError, match=message):
            tsv.read(tmp_path / "some.tsv", tmp_path / bad[:4].strip())
    with pytest.raises(UserError, match="no such file"):
        tsv.read(tmp_path / "nowhere.tsv", tmp_path / "out")
    (tmp_path / "some.tsv").write_text("\n".join(whole) + "\n")
    (tmp_path / "labels.tsv").write_text("1\t[]\n")
    with pytest.raises(UserError, match=r"some.tsv:2: image 1: 1 regions, but 0 labels"):
        tsv.read(tmp_path / "some.tsv", tmp_path / "labelled", tmp_path / "labels.tsv")
