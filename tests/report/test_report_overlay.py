"""A look is clear where the weight lies, whatever the tokens are; the asked picture and a run's page say what was found."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.report.ask import ask_picture
from diptych.report.overlay import Look, light, lit
from diptych.report.run import run_page


def grid(side: int) -> np.ndarray:
    return np.array([[x, y, x + 1, y + 1] for y in range(side) for x in range(side)]) / side


def test_light_is_weight_per_area():
    weight_V = np.array([2.0, 1.0, 1.0])
    box_V4 = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 0.5]])  # the whole, the left half, a quarter
    loop_HW = np.zeros((8, 8))
    for weight, (x1, y1, x2, y2) in zip(weight_V, box_V4, strict=True):
        for y in range(8):
            for x in range(8):
                if x1 <= (x + 0.5) / 8 < x2 and y1 <= (y + 0.5) / 8 < y2:
                    loop_HW[y, x] += weight / ((x2 - x1) * (y2 - y1))
    close = light(Look(weight_V, box_V4), 8, 8)
    assert np.corrcoef(close.ravel(), loop_HW.ravel())[0, 1] > 0.8  # smoothed, so not equal
    assert close.max() == 1
    assert close.min() > 0.3  # the whole-picture token reaches everywhere


def test_one_cell_is_clear_and_the_rest_in_fog():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 0] = 255
    weight_V = np.zeros(16)
    weight_V[5] = 0.3  # row 1, column 1
    seen = lit(picture, Look(weight_V, grid(4)))
    assert seen.shape == (256, 256, 3)
    assert np.abs(seen[96, 96].astype(int) - [255, 0, 0]).max() < 40
    assert np.ptp(seen[224, 224]) == 0  # grey
    brightest = np.unravel_index(seen[..., 0].astype(int).argmax(), (256, 256))
    assert all(64 <= place < 128 for place in brightest)


def test_smoothing_keeps_the_edges_light():
    even = light(Look(np.ones(16), grid(4)), 40, 60)
    assert np.allclose(even, 1)


def test_strange_looks_do_not_break():
    picture = np.full((5, 300, 3), 9, np.uint8)
    assert lit(picture, Look(np.zeros(4), grid(2))).shape == (5, 300, 3)
    assert lit(picture, Look(np.ones(1), np.array([[0.9999, 1.0, 1.0, 1.0]]))).shape == (5, 300, 3)
    assert lit(picture, Look(np.zeros(0), np.zeros((0, 4)))).shape == (5, 300, 3)


def test_asked_picture():
    picture = np.full((128, 128, 3), 200, np.uint8)
    png = ask_picture(picture, "is there a dog? " * 9 + "x" * 200, [("yes", 0.93), ("no", 0.07)], np.ones(4), grid(2))
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert image.width == 1000
    short = Image.open(io.BytesIO(ask_picture(picture, "?", [("yes", 0.93)])))
    assert short.height < image.height


def test_run_page(tmp_path: Path):
    about = {
        "diptych": "1",
        "verb": "finetune",
        "system": "vilt",
        "preset": "tiny",
        "task": "vqa",
        "data": ["scenes"],
        "recipe": {"a": "<i>"},
    }
    result = {"split": "test", "metrics": {"macro": 78.24, "pairs": 61.2}, "n": 10, "ci95": {"macro": [76.91, 79.46]}, "skipped": 2}
    records = [
        {"step": s, "samples": 32 * s, "seconds": s, "loss": 1 / s, "loss/vqa": 1 / s, "vqa/right": 0.5} for s in range(1, 2001)
    ]
    assert "Configuration" not in run_page(tmp_path)  # nothing there yet
    (tmp_path / "config.json").write_text(json.dumps(about))
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "metrics.jsonl").write_text(lines + '\n{"step": 20')  # a line that is being written
    (tmp_path / "result.json").write_text(json.dumps(result))
    html = run_page(tmp_path)
    for told in ("vilt:tiny", "2,000", "64,000", "33.3 min", "78.2", "76.9–79.5", "61.2", "a: &lt;i&gt;"):
        assert told in html
    assert "<i>" not in html
    assert len(html) < 200_000  # long logs are thinned
