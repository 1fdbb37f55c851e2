"""Measured parts of pages: what lies between two marks is made by a command, all around it by hand."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, name: str, text: str, kind: str = "") -> None:
    """Into the page, between `<!-- [KIND of] NAME -->` and `<!-- end of NAME -->`, in the place of what was there."""
    begin, end = f"<!-- {kind and f'{kind} of '}{name} -->", f"<!-- end of {name} -->"
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"{page} has no place for {name}: it needs a line '{begin}' and, below it, '{end}'")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
