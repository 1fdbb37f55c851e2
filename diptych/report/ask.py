"""The picture `diptych ask` writes: the image, the text, the answers with their scores, and where the model looked.

+-----------+-----------+
|  picture  |  in fog   |
+-----------+-----------+
|  text                 |
|  answer ======== 93 % |
|  answer ==        4 % |
+-----------------------+
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diptych.report.overlay import Look, lit

WIDTH, PANEL, MARGIN, HINGE = 1000, 448, 48, 8  # pixels; two panels, the hinge and both margins make the width
PAPER, INK, SOFT, ACCENT, REST, FAINT = "#f7f5f0", "#1d1c1a", "#67635b", "#c8421c", "#8b8a86", "#e7e2d7"


def ask_picture(
    picture: NDArray[np.uint8],
    text: str,
    answers: Sequence[tuple[str, float]],
    weight_V: NDArray[np.floating] | None = None,
    box_V4: NDArray[np.floating] | None = None,
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> bytes:
    """PNG bytes. `answers` are (text, probability in [0, 1]), best first; weights and boxes as in `overlay.Look`.

    `boxes`: where each answer is, if it is a place, xyxy in [0, 1]. The best is drawn.
    """
    panels = [Image.fromarray(np.ascontiguousarray(picture))]
    if weight_V is not None and box_V4 is not None:
        panels.append(Image.fromarray(lit(picture, Look(weight_V, box_V4))))
    height = min(PANEL, round(PANEL * picture.shape[0] / picture.shape[1]))
    width = min(PANEL, round(height * picture.shape[1] / picture.shape[0]))
    title = _font("DejaVuSerif-Bold.ttf", 34)
    lines = _wrapped(text, title, WIDTH - 2 * MARGIN)
    top = MARGIN + height + 36
    canvas = Image.new("RGB", (WIDTH, top + 46 * len(lines) + 18 + 44 * len(answers) + MARGIN - 12), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, panel in enumerate(panels):
        left = MARGIN + place * (width + HINGE)
        canvas.paste(panel.resize((width, height), Image.Resampling.LANCZOS), (left, MARGIN))
        for x1, y1, x2, y2 in boxes[:1]:
            corners = (left + x1 * width, MARGIN + y1 * height, left + x2 * width - 1, MARGIN + y2 * height - 1)
            draw.rectangle(corners, outline=PAPER, width=6)
            draw.rectangle(corners, outline=ACCENT, width=4)
    for place, line in enumerate(lines):
        draw.text((MARGIN, top + 46 * place), line, fill=INK, font=title)
    top += 46 * len(lines) + 18
    for place, (answer, probability) in enumerate(answers):
        _bar(draw, top + 44 * place, answer, probability, is_best=place == 0)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _bar(draw: ImageDraw.ImageDraw, y: int, answer: str, probability: float, is_best: bool) -> None:
    font = _font("DejaVuSans-Bold.ttf" if is_best else "DejaVuSans.ttf", 22)
    start, stop = MARGIN + 330, WIDTH - MARGIN - 90
    draw.text((MARGIN, y), _wrapped(answer, font, 310)[0], fill=INK, font=font)
    draw.rectangle((start, y + 7, stop, y + 21), fill=FAINT)
    draw.rectangle(
        (start, y + 7, start + round((stop - start) * min(max(probability, 0.0), 1.0)), y + 21), fill=ACCENT if is_best else REST
    )
    draw.text((WIDTH - MARGIN, y), f"{100 * probability:.0f} %", fill=INK if is_best else SOFT, font=font, anchor="ra")


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """From matplotlib's own fonts, which are the same on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit, broken between words, and within a word that is longer than a line."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            fits = max(1, next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width))
            lines += [word[:fits]] if lines[-1] else []
            if not lines[-1]:
                lines[-1] = word[:fits]
            word = word[fits:]
            lines.append("")
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]
