"""Contact sheets: one row a concept, one column a family. What a person looks at before a map of icons is trusted."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tools.build_artwork.choose import Choice
from tools.build_artwork.sources import FAMILIES

CELL, NAME, ROWS, COLUMNS = 44, 116, 22, 3


def write_sheets(choices: list[Choice], pictures: dict[tuple[str, str], Image.Image], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    width = NAME + CELL * len(FAMILIES)
    for page, start in enumerate(range(0, len(choices), ROWS * COLUMNS)):
        sheet = Image.new("RGB", (width * COLUMNS, CELL * ROWS), "#d8dde2")
        draw = ImageDraw.Draw(sheet)
        for place, choice in enumerate(choices[start : start + ROWS * COLUMNS]):
            left, top = place // ROWS * width, place % ROWS * CELL
            draw.text((left + 3, top + 8), choice.slug[:20], "black")
            draw.text((left + 3, top + 20), f"{choice.twin[:14] if choice.twin != choice.slug else ''}", "#a04000")
            for column, family in enumerate(FAMILIES):
                if picture := pictures.get((choice.slug, family)):
                    small = picture.copy()
                    small.thumbnail((CELL - 4, CELL - 4))
                    sheet.paste(small, (left + NAME + column * CELL + 2, top + 2), small)
        sheet.save(folder / f"sheet_{page:02}.png")
