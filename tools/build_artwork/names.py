"""The names: CLDR's spoken names of emoji, in every language that names nearly all of them, and how it joins them to a list."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Mapping

from tools.build_artwork.choose import Choice, emoji, plain
from tools.build_artwork.sources import DERIVED_NAMES, LISTS, NAMES, members

ENOUGH = 1800  # of the 1,923 emoji without skin tones
COMMAS = frozenset(",،、，;؛")  # a name with one is a list of keywords in some languages: dropped
INHERITED = "↑"  # CLDR's mark for "as in the parent language"


def all_names() -> dict[str, dict[str, str]]:
    """language -> character -> name; languages without region or script, that name at least `ENOUGH` emoji."""
    found: dict[str, dict[str, str]] = {}
    for package, folder in ((DERIVED_NAMES, "annotationsDerived"), (NAMES, "annotations")):
        for path, content in sorted(members(package, "annotations.json").items()):
            language = path.split("/")[1]
            if "-" not in language and language != "und":
                table = content[folder].get("annotations", {})  # some languages have only a head
                found.setdefault(language, {}).update(
                    (plain(character), entry["tts"][0])
                    for character, entry in table.items()
                    if entry.get("tts") and INHERITED not in entry["tts"][0]
                )
    characters = [plain(entry["emoji"]) for entry in emoji()]
    return {
        language: names
        for language, names in sorted(found.items())
        if sum(character in names for character in characters) >= ENOUGH
    }


def list_patterns(languages: Iterable[str]) -> dict[str, list[str]]:
    """language -> patterns for two items, and for the start, middle and end of more; {0} and {1} are filled from the left."""
    tables = members(LISTS, "/listPatterns.json")
    found = {}
    for language in languages:
        pattern = tables[f"main/{language}/listPatterns.json"]["main"][language]["listPatterns"]["listPattern-type-standard"]
        found[language] = [pattern[part] for part in ("2", "start", "middle", "end")]
    return found


def packed(choices: Iterable[Choice], names: Mapping[str, Mapping[str, str]]) -> bytes:
    """{"names": language -> concept -> name, "lists": language -> patterns}, as compressed JSON."""
    kept = {
        language: {c.slug: table[c.character] for c in choices if c.character in table and not COMMAS & set(table[c.character])}
        for language, table in names.items()
    }
    text = json.dumps({"names": kept, "lists": list_patterns(kept)}, ensure_ascii=False, separators=(",", ":"))
    return lzma.compress(text.encode(), format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
