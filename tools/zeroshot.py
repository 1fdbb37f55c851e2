"""`python -m tools.zeroshot RUN [--write]`: what a system that was only pre-trained calls things, for docs/tasks/zeroshot.md.

Things of held-out scenes are cut out with what is around them, six of each name, into a folder for each class: CUT/NAME/N.png.
`diptych evaluate zeroshot` is asked of that folder, and twelve of the pictures are drawn with the names that come first.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.picture import decode
from diptych.draw import Draw
from tools.marked import put
from tools.portraits.pictures import RIGHT, Tile, scenes, sheet
from tools.portraits.runs import carry_out

ROOT = Path(__file__).parents[1]
EACH, LEAST, AROUND, SHOWN = 6, 20, 2.5, 12  # pictures of a name, pixels of a thing, its surroundings by its longer side, drawn


def cut(folder: Path) -> int:
    """Things of `test`, in an order of their own, into a new folder; how many there are."""
    reader, taken = scenes(), Counter[str]()
    for index in np.argsort(Draw(0).uniform("zeroshot", np.arange(len(reader)), 1)[:, 0]).tolist():
        sample = reader[index]
        image = Image.fromarray(decode(sample.images[0]))
        for box in sample.boxes:
            x1, y1, x2, y2 = box.xyxy
            if min(x2 - x1, y2 - y1) < LEAST or taken[box.name] == EACH:
                continue
            half = max(x2 - x1, y2 - y1) * AROUND / 2
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            left, top, right, bottom = max(0, x - half), max(0, y - half), min(image.width, x + half), min(image.height, y + half)
            (folder / box.name).mkdir(parents=True, exist_ok=True)
            image.crop((round(left), round(top), round(right), round(bottom))).save(folder / box.name / f"{taken[box.name]}.png")
            taken[box.name] += 1
    return taken.total()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.zeroshot", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--folder", type=Path, default=Path("cut_out"), metavar="DIR", help="where the pictures go")
    parser.add_argument("--write", action="store_true", help="into docs/")
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"--folder {asked.folder}: already there; name one to be made")
    count, items = cut(asked.folder), asked.folder.with_suffix(".jsonl")
    words = ["evaluate", "zeroshot", "--from", str(asked.run), "--data", str(asked.folder), "--split", "all"]
    said = json.loads(carry_out([*words, "--items", str(items), "--json"]))
    metrics, ci95 = said["metrics"], said["ci95"]
    first, among = (f"{metrics[key]:.1f} ({ci95[key][0]:.1f} to {ci95[key][1]:.1f})" for key in ("top1", "top5"))
    text = (
        f"`{' '.join(['diptych', *words])}`, where `{asked.folder.name}` has {count} things of held-out scenes, cut out with what "
        f"is around them, by their {len(list(asked.folder.iterdir()))} names. The first name is right for {first} of 100, one of "
        f"the first five for {among}; {metrics['chance']:.1f} by chance.\n\n"
        "![twelve things, and the three names that come first for each](../images/tasks/zeroshot.png)"
    )
    print(text)
    if asked.write:
        draw(asked.folder, items, ROOT / "docs/images/tasks/zeroshot.png")
        put(ROOT / "docs/tasks/zeroshot.md", "zeroshot", text)


def draw(folder: Path, items: Path, file: Path) -> None:
    """Every so many pictures, none chosen; a right first name is green."""
    answers = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    tiles = []
    for answer in answers[:: len(answers) // SHOWN][:SHOWN]:
        names = [name for name, _ in answer["top"][:3]]
        with Image.open(folder / answer["key"]) as image:
            said = "\n".join([f"[{answer['truth']}]", *names])
            tiles.append(Tile(image.convert("RGB").resize((128, 128)), said, RIGHT if names[0] == answer["truth"] else ""))
    sheet([tiles[: SHOWN // 2], tiles[SHOWN // 2 :]], file)


if __name__ == "__main__":
    main()
