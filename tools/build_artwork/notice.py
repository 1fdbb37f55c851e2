"""NOTICE and licenses/: whose drawings and names are shipped, under which terms, and what was done to them."""

from __future__ import annotations

import tarfile

from tools.build_artwork.sources import DERIVED_NAMES, FAMILIES, GROUPS, LISTS, NAMES, Package, fetch

HEAD = """\
Diptych
Copyright The Diptych developers

Licensed under the Apache License, Version 2.0 (see LICENSE), except for the embedded artwork and names below, which keep their
own licences. This file is written by tools/build_artwork.


Artwork: diptych/atelier/pack/sprites.bin
=========================================

Pictures of seven emoji families, taken from the npm packages named here.

Changes: each picture was rendered from its vector form to pixels, cut to what is visible, scaled to at most 128 pixels and
compressed with loss (WebP). The data sets and pictures that Diptych makes from them are further changed: pictures are recoloured,
mirrored, scaled, placed on coloured grounds and composed with pictures of the other families. The weights in
diptych/regions/shipped were learnt from pictures so composed. None of the artists endorses Diptych or those changes.
`index.json` beside the pictures records, for every sprite, its family and the icon it was made from.
"""

NAMES_TEXT = """

Names: diptych/atelier/pack/names.json.xz
=========================================

Names of emoji, and list patterns, in 96 languages from the Unicode Common Locale Data Repository (CLDR), version 48.2.
  Copyright (C) 2004-2026 Unicode, Inc. Unicode is a registered trademark of Unicode, Inc. in the United States and other countries.
  Licence: Unicode-3.0 (licenses/Unicode-3.0.txt)
  Sources: {names}
  Changes: names that contain a comma, and concepts without a shipped picture, are left out.

The grouping of emoji in `index.json` is Unicode's (emoji-test.txt, same licence), read from {groups},
Copyright (c) Miles Johnson, licence MIT (licenses/MIT-emojibase.txt).
"""

MIT = """\
MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE
"""

TEXTS = {  # where the terms can be read; CC BY 4.0 asks for a link or the text
    "Apache-2.0": "LICENSE",
    "MIT": "licenses/MIT-fluent-emoji.txt",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
}


def notice() -> dict[str, str]:
    """Path under the root of the repository -> text."""
    parts = [HEAD]
    for name, family in FAMILIES.items():
        parts.append(
            f"\n{name}: {family.title}\n"
            f"  {family.credit}\n"
            f"  {family.home}\n"
            f"  Licence: {family.licence} ({TEXTS[family.licence]}), as stated at {family.licence_url}\n"
            f"  Source: {_spec(family.package)}\n"
        )
    parts.append(NAMES_TEXT.format(names=", ".join(map(_spec, (NAMES, DERIVED_NAMES, LISTS))), groups=_spec(GROUPS)))
    return {
        "NOTICE": "".join(parts),
        "licenses/MIT-fluent-emoji.txt": MIT,
        "licenses/MIT-emojibase.txt": _licence_of(GROUPS),
        "licenses/Unicode-3.0.txt": _licence_of(NAMES),
    }


def _spec(package: Package) -> str:
    return f"npm {package.name}@{package.version}"


def _licence_of(package: Package) -> str:
    with tarfile.open(fetch(package)) as tar:
        content = tar.extractfile("package/LICENSE")
        assert content is not None  # a plain file
        return content.read().decode().strip() + "\n"
