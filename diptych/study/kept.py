"""Results that are kept: of each finished cell a few kilobytes that can be committed, enough for every interval and gallery.

    results/SYSTEM/TASK/ARM-sSEED-KEY.json     what was done and reached, and each question's score
    results/questions/HASH.json.gz             the questions themselves: key, group, type; one file for all cells that answered them

KEY is a hash of what decides the cell (study/pasts.py): configuration, data, everything before it, and where nothing of that has
changed a cell is not computed again, on this machine or on another. A paired bootstrap needs scores question by question;
they are packed as text: JSON, deflated, base64.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diptych import checkpoint
from diptych.config import UserError
from diptych.report.page import ordinal
from diptych.train.evaluate import Item, headline, intervals

SHOWN = 24  # questions of `test` whose answers are kept for the gallery, chosen by the hash of their keys before anything is known


class Results:
    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, system: str, task: str, name: str, key: str) -> dict[str, Any] | None:
        path = self._path(system, task, name, key)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as a kept result ({error}); remove it, and the cell is computed again") from None

    def put(self, system: str, task: str, name: str, key: str, record: Mapping[str, Any]) -> None:
        path = self._path(system, task, name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, record)

    def pack(self, items: Sequence[Item]) -> dict[str, Any]:
        """A split's scores, and what they are scores of."""
        asked = [[str(item["key"]), str(item.get("group") or item["key"]), str(item.get("type") or "")] for item in items]
        text = json.dumps(asked, ensure_ascii=False).encode()
        name = hashlib.sha256(text).hexdigest()[:16]
        path = self._questions(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_file(path, gzip.compress(text, mtime=0))
        scores = json.dumps([round(float(item["score"]), 5) for item in items], separators=(",", ":"))
        packed = base64.b64encode(zlib.compress(scores.encode(), 9)).decode()
        details = {name: [round(part, 4) for part in interval] for name, interval in intervals(items).items()}
        return {"n": len(items), "score": list(headline(items)), "details": details, "questions": name, "scores": packed}

    def unpack(self, packed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The items again: key, group, type, score."""
        path = self._questions(packed["questions"])
        try:
            asked = _read_questions(path)
            scores = json.loads(zlib.decompress(base64.b64decode(packed["scores"])))
            pairs = zip(asked, scores, strict=True)
            return [{"key": key, "group": group, "type": kind, "score": score} for (key, group, kind), score in pairs]
        except (OSError, ValueError, zlib.error) as error:
            raise UserError(f"{path}: not readable, and kept results name it ({error})") from None

    def _path(self, system: str, task: str, name: str, key: str) -> Path:
        return self.folder / system / task / f"{name}-{key}.json"

    def _questions(self, name: str) -> Path:
        return self.folder / "questions" / f"{name}.json.gz"


@cache
def _read_questions(path: Path) -> list[list[str]]:
    """Their name is a hash of what they hold, so they do not change."""
    return json.loads(gzip.decompress(path.read_bytes()))


def shown(items: Sequence[Item], most: int = SHOWN) -> dict[str, dict[str, Any]]:
    """key -> what was asked, the truth, what was said (a box, in pixels, where that is the answer) and its score.

    Of each type about as many, whatever the outcome.
    """
    of_type: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: hashlib.sha256(str(item["key"]).encode()).digest()):
        of_type.setdefault(str(item.get("type") or ""), []).append(item)
    each = -(-most // max(len(of_type), 1))
    chosen = [item for kind in sorted(of_type) for item in of_type[kind][:each]]
    return {
        str(item["key"]): {
            "type": str(item.get("type") or ""),
            "question": next((text for name in ("question", "phrase", "query") if (text := _told(item, name))), ""),
            "said": said(item),
            "score": round(float(item["score"]), 5),
            **({"box": item["box"], "true_box": item["truth"]} if "box" in item else {"truth": _told(item, "truth")}),
        }
        for item in chosen
    }


def _told(item: Item, name: str) -> str:
    """A text of an item; where a picture is asked for, or asked about, that is its key, which says nothing to a reader."""
    text = str(item.get(name, ""))
    return "" if text == str(item["key"]).partition("#")[0] else text


def said(item: Item) -> str:
    """A model's answer as a reader wants it: in words where it has words, else how well it did."""
    written = next((item[name] for name in ("answer", "text") if name in item), None)
    if written is not None:
        return str(written)
    if "rank" in item:
        return f"found {ordinal(int(item['rank']))}"
    return "the box drawn" if "box" in item else f"{100 * float(item['score']):.0f} % right"
