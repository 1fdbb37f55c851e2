"""Decoding what people have on their disks; the resize rule against ViLT's own arithmetic; augmentations that move boxes along."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from diptych.config import ImageConfig
from diptych.contracts import Box, Sample
from diptych.data import picture
from diptych.data.picture import BrokenPicture, decode, decode_sample, flip, randaugment, resize, resized, upright_size


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_mode_becomes_rgb():
    red = Image.new("RGB", (5, 4), (255, 0, 0))
    assert (decode(stored(red)) == [255, 0, 0]).all()
    assert decode(stored(red)).shape == (4, 5, 3)
    assert (decode(stored(Image.new("L", (5, 4), 77))) == 77).all()
    clear = Image.new("RGBA", (5, 4), (255, 0, 0, 0))
    assert (decode(stored(clear)) == 255).all(), "transparency is laid on white"
    assert (decode(stored(red.quantize(2), transparency=0)) == 255).all()
    assert (decode(stored(Image.fromarray(np.full((4, 5), 51 * 257, np.uint16)))) == 51).all(), "16 bits are scaled, not clipped"
    assert abs(decode(stored(red.convert("CMYK"), "JPEG")).astype(int) - [255, 0, 0]).max() < 12


def test_exif_turns_the_picture_upright():
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(stored(image, "JPEG", exif=exif)).shape == (40, 20, 3)


@pytest.mark.parametrize("content", [b"", b"not a picture", stored(Image.new("RGB", (64, 64)), "JPEG")[:300]])
def test_damaged_files_are_broken_pictures(content, tmp_path):
    with pytest.raises(BrokenPicture):
        decode(content)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BrokenPicture):
        decode(tmp_path / "a.jpg")


def test_the_pixel_cap_is_checked_before_decoding(tmp_path, monkeypatch):
    with pytest.raises(BrokenPicture, match="no such file"):
        decode(tmp_path / "absent.jpg")
    bomb = stored(Image.new("1", (9000, 9000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BrokenPicture, match="9000 x 9000 pixels, above the cap"):
        decode(bomb)


def vilt_size(height, width, short, long, multiple):
    """The published order of steps, with its own names."""
    scale = short / min(width, height)
    new_height, new_width = (short, scale * width) if height < width else (scale * height, short)
    if max(new_height, new_width) > long:
        scale = long / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5) // multiple * multiple, int(new_width + 0.5) // multiple * multiple


def test_the_resize_rule_equals_vilts():
    rng = np.random.default_rng(0)
    config = ImageConfig(short=384, long=639, multiple=32)
    for height, width in rng.integers(60, 900, (500, 2)):
        expected = vilt_size(height, width, 384, 639, 32)
        if min(expected):
            assert resized(height, width, config) == expected
    assert resized(480, 640, config) == (384, 512)
    assert resized(384, 1000, config) == (224, 608)
    assert resized(4, 4000, config) == (32, 608), "at least one multiple"


def test_resizing_keeps_a_picture_that_fits():
    pixel = np.zeros((128, 96, 3), np.uint8)
    assert resize(pixel, ImageConfig()) is pixel
    assert resize(np.full((300, 200, 3), 9, np.uint8), ImageConfig()).shape == (128, 64, 3)


def test_a_jpeg_shrinks_while_decoding_but_not_under_the_rule(tmp_path):
    path = tmp_path / "big.jpg"
    ramp = np.tile(np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None], (1200, 1, 3))
    Image.fromarray(ramp).save(path)
    config = ImageConfig(short=128, long=192, multiple=32)
    small = decode(path, config)
    assert small.shape == (300, 400, 3)
    assert abs(resize(small, config).astype(int) - resize(decode(path), config).astype(int)).mean() < 2
    boxed = Sample("k", images=(path,), boxes=(Box((0, 0, 1600, 1200)),))
    assert decode_sample(boxed, config)[0].shape == (1200, 1600, 3), "boxes are in pixels of the stored picture"
    assert decode_sample(Sample("k", images=(path,)), config)[0].shape == (300, 400, 3)


def with_square(x1, y1, x2, y2, side=100):
    pixel = np.full((side, side, 3), 128, np.uint8)
    pixel[y1:y2, x1:x2] = (250, 10, 10)
    return pixel, [(x1 / side, y1 / side, x2 / side, y2 / side)]


def found(pixel):
    """The box around what is redder than the ground."""
    ys, xs = np.nonzero(pixel[..., 0].astype(int) - pixel[..., 1] > 60)
    return xs.min() / 100, ys.min() / 100, (xs.max() + 1) / 100, (ys.max() + 1) / 100


def test_flip_moves_boxes():
    pixel, boxes = flip(*with_square(10, 20, 30, 60))
    assert boxes == [pytest.approx((0.7, 0.2, 0.9, 0.6))]
    assert found(pixel) == pytest.approx(boxes[0])


@pytest.mark.parametrize("which", range(len(picture._GEOMETRY)))
@pytest.mark.parametrize("strength", [-0.6, 0.6])
def test_warped_boxes_follow_the_pixels(which, strength):
    pixel, boxes = with_square(25, 22, 45, 35)
    matrix = picture._GEOMETRY[which](strength)
    warped = np.asarray(picture._warp(Image.fromarray(pixel), matrix))
    box = picture._warp_box(boxes[0], matrix, (100, 100))
    assert found(warped) == pytest.approx(box, abs=0.025)
    assert max(abs(a - b) for a, b in zip(box, boxes[0], strict=True)) > 0.02, "it did move"


def test_randaugment_is_a_function_of_its_generator():
    pixel = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    boxes = [(0.1, 0.2, 0.5, 0.9)]
    seen = set()
    for seed in range(40):
        once, moved = randaugment(pixel, boxes, np.random.default_rng(seed))
        again, moved_again = randaugment(pixel, boxes, np.random.default_rng(seed))
        assert np.array_equal(once, again)
        assert moved == moved_again
        assert once.shape == pixel.shape
        assert once.dtype == np.uint8
        assert all(0 <= v <= 1 for v in moved[0])
        seen.add(once.tobytes())
    assert len(seen) > 30


def test_a_size_is_that_of_the_decoded_picture_and_a_pipe_is_no_picture(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 6
    for name, exif in (("upright.jpg", Image.Exif()), ("lying.jpg", lying)):
        Image.new("RGB", (60, 40)).save(tmp_path / name, exif=exif)
        height, width = decode(tmp_path / name).shape[:2]
        assert upright_size(tmp_path / name) == (width, height)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for odd in ("pipe.jpg", "page.eps"):
        assert upright_size(tmp_path / odd) is None
        with pytest.raises(BrokenPicture):
            decode(tmp_path / odd)
