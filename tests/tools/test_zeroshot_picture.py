"""Things are cut out whole, with what is around them, and not more than so many of a name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.contracts import Box, Sample
from tools import zeroshot


def test_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pixel_HW3 = np.zeros((100, 100, 3), np.uint8)
    pixel_HW3[40:60, 40:70] = 255
    file = io.BytesIO()
    Image.fromarray(pixel_HW3).save(file, "PNG")
    boxes = (Box((40, 40, 70, 60), "bar"), Box((0, 0, 10, 10), "speck"))
    samples = [Sample(f"{n}", images=(file.getvalue(),), boxes=boxes) for n in range(zeroshot.EACH + 2)]
    monkeypatch.setattr(zeroshot, "scenes", lambda: samples)
    assert zeroshot.cut(tmp_path / "cut") == zeroshot.EACH
    assert [folder.name for folder in (tmp_path / "cut").iterdir()] == ["bar"]
    with Image.open(tmp_path / "cut/bar/0.png") as image:
        side = 2.5 * 30
        assert max(abs(image.width - side), abs(image.height - side)) <= 1
        assert (np.asarray(image)[..., 0] == 255).sum() == 20 * 30
