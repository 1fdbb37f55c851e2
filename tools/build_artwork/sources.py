"""Where every shipped picture and name comes from: npm packages pinned by version and sha512.

`fetch` runs `npm pack` once a package, compares the tarball with the pin, and reads members from it without unpacking anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE = Path(".artwork")


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha512: str  # base64, as in npm's `dist.integrity`

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Family:
    """One artist's drawings, with what NOTICE has to say about them."""

    title: str
    package: Package
    licence: str  # SPDX
    licence_url: str
    credit: str
    home: str
    has_code_points: bool  # else concepts are found by the icon's name


FAMILIES = {
    "noto": Family(
        "Noto Emoji",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        "Apache-2.0",
        "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE",
        "Copyright Google LLC and the Noto Emoji authors",
        "https://github.com/googlefonts/noto-emoji",
        True,
    ),
    "noto-v1": Family(
        "Noto Emoji (v1)",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        "Apache-2.0",
        "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE",
        "Copyright Google LLC and the Noto Emoji authors",
        "https://github.com/googlefonts/noto-emoji",
        False,
    ),
    "twemoji": Family(
        "Twemoji",
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Copyright Twitter, Inc. and other contributors",
        "https://github.com/jdecked/twemoji",
        True,
    ),
    "emojione": Family(
        "Emoji One (v2), as Emojitwo",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Copyright Emoji One and the Emojitwo contributors",
        "https://github.com/EmojiTwo/emojitwo",
        False,
    ),
    "fxemoji": Family(
        "Firefox OS Emoji",
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        "Apache-2.0",
        "https://mozilla.github.io/fxemoji/LICENSE.md",
        "Copyright Mozilla Foundation",
        "https://github.com/mozilla/fxemoji",
        False,
    ),
    "fluent-emoji-flat": Family(
        "Fluent Emoji Flat",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        "MIT",
        "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
        "Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
        True,
    ),
    "streamline-emojis": Family(
        "Streamline Emojis",
        Package(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        ),
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Copyright Streamline (Webalys)",
        "https://github.com/webalys-hq/streamline-vectors",
        False,
    ),
}

NAMES = Package(
    "cldr-annotations-full",
    "48.2.0",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
)
DERIVED_NAMES = Package(
    "cldr-annotations-derived-full",
    "48.2.0",
    "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
)
LISTS = Package(  # how each language joins the items of a list
    "cldr-misc-full",
    "48.2.0",
    "dSc2Tr53dQcUGwsTinamEeoP2YXOhQrIZ+SyeuUrv4MzJOSjT/Q0qkSmX11ZwfcTbYSkIqbrgALQLhAm1yf5fA==",
)
GROUPS = Package(  # Unicode's groups, subgroups and character names, as JSON
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)


def fetch(package: Package, cache: Path = CACHE) -> Path:
    """The package's tarball, downloaded if it is not in `cache`, and equal to the pin."""
    tarball = cache / package.file
    if not tarball.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=cache, check=True, stdout=subprocess.DEVNULL
        )
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise SystemExit(f"{tarball}: sha512 is {digest}, pinned {package.sha512}; delete the file to fetch it again")
    return tarball


def members(package: Package, suffix: str) -> dict[str, Any]:
    """Parsed JSON members whose path ends in `suffix`, by path without the leading `package/`."""
    found = {}
    with tarfile.open(fetch(package)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(suffix):
                content = tar.extractfile(member)
                assert content is not None  # a plain file
                found[member.name.removeprefix("package/")] = json.load(content)
    return found
