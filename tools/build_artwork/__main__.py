"""Build diptych/atelier/pack/, NOTICE and licenses/ from the pinned packages.

    python -m tools.build_artwork [--sheets FOLDER] [--check]

    npm tarballs -> choose.py: concepts, twins, icons -> render.py: trimmed WebP -> sprites.bin
                                                                               `-> index.json, one line a concept
                 -> names.py: CLDR's names                                      -> names.json.xz

Needs npm and `pip install -e '.[artwork]'`, and a few minutes; users never run it. The same packages, resvg and libwebp give
the same bytes: --check builds again, writes nothing, and fails where the committed files differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, features

from tools.build_artwork.choose import Choice, choose
from tools.build_artwork.names import all_names, packed
from tools.build_artwork.notice import notice
from tools.build_artwork.render import coverage, sprite, svg, webp
from tools.build_artwork.sheets import write_sheets
from tools.build_artwork.sources import FAMILIES, members

ROOT = Path(__file__).parents[2]
PACK = Path("diptych/atelier/pack")
SCORES = Path(__file__).with_name("concept_scores.json")  # how well ImageNet features find a concept across artists, by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheets", type=Path, help="write contact sheets there: one row a concept, one column a family")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed files differ")
    arguments = parser.parse_args()

    names = all_names()
    choices = choose(names["en"])
    pictures = draw(choices)
    files = {PACK / name: content for name, content in pack(choices, pictures).items()}
    files[PACK / "names.json.xz"] = packed(choices, names)
    files |= {Path(name): text.encode() for name, text in notice().items()}
    if arguments.check:
        check(files)
        return
    for path, content in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
        print(f"{path}: {len(content):,} bytes")
    print(f"{len(choices)} concepts, {len(pictures)} sprites, {len(names)} languages")
    if arguments.sheets:
        write_sheets(choices, pictures, arguments.sheets)


def check(files: dict[Path, bytes]) -> None:
    differing = [str(path) for path, content in files.items() if (ROOT / path).read_bytes() != content]
    if differing:
        raise SystemExit(f"differ from what is built here with libwebp {features.version('webp')}: {', '.join(differing)}")
    print("the committed files are what the pinned packages give")


def draw(choices: Iterable[Choice]) -> dict[tuple[str, str], Image.Image]:
    """(concept, family) -> sprite. Where a family draws two concepts alike (guard, man guard), the first one keeps the drawing."""
    icons = {family: members(source.package, "/icons.json")["icons.json"] for family, source in FAMILIES.items()}
    pictures: dict[tuple[str, str], Image.Image] = {}
    drawn: set[tuple[str, bytes]] = set()
    for choice in choices:
        for family, icon in choice.icons.items():
            picture = sprite(svg(icons[family]["icons"][icon], icons[family]))
            if (family, picture.tobytes()) not in drawn:
                drawn.add((family, picture.tobytes()))
                pictures[choice.slug, family] = picture
    return pictures


def pack(choices: Iterable[Choice], pictures: dict[tuple[str, str], Image.Image]) -> dict[str, bytes]:
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    blob = bytearray()
    lines = []
    for choice in choices:
        sprites: dict[str, list[Any]] = {}
        for family, icon in choice.icons.items():
            if picture := pictures.get((choice.slug, family)):
                content = webp(picture)
                sprites[family] = [icon, len(blob), len(content), round(coverage(picture), 3)]
                blob += content
        entry = {
            "slug": choice.slug,
            "name": choice.name,
            "character": choice.character,
            "group": choice.group,
            "subgroup": choice.subgroup,
            "kind": choice.kind,
            "twin": choice.twin,
            "score": scores.get(choice.name),
            "sprites": sprites,
        }
        lines.append(json.dumps(entry, ensure_ascii=False))
    head = {
        "sha256": hashlib.sha256(blob).hexdigest(),
        "families": {
            family: {
                "title": source.title,
                "licence": source.licence,
                "credit": source.credit,
                "home": source.home,
                "package": f"{source.package.name}@{source.package.version}",
            }
            for family, source in FAMILIES.items()
        },
    }
    index = (
        json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "concepts": [\n' + ",\n".join(lines) + "\n]}\n"
    )
    return {"sprites.bin": bytes(blob), "index.json": index.encode()}


if __name__ == "__main__":
    main()
