"""Which concepts are shipped, which of them are twins, and which icon of each family draws them.

A concept is an emoji of Unicode's groups animals-nature, food-drink, travel-places, activities and objects (kind "object"), or
of the subgroup person-role (kind "role"). Its slug is its English CLDR name in lower case with hyphens. Left out: clock faces and
globes, which are one drawing with small changes.

Two of the families (noto-v1, emojione) name icons by CLDR names, new or old; fxemoji and streamline-emojis have names of their
own. `ICONS` mends what the names alone get wrong or miss: each entry was decided by looking at the contact sheet (`--sheets`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from tools.build_artwork.sources import FAMILIES, GROUPS, members

OBJECT_GROUPS = {"animals-nature", "food-drink", "travel-places", "activities", "objects"}
ROLE_SUBGROUP = "person-role"

DROPPED = re.compile(r"-oclock$|-thirty$|^globe-")

# Concepts that a stranger would call by one name, or that differ by a detail: always on one side of a split.
TWINS = """
rat mouse mouse-face
ox water-buffalo cow cow-face bison
tiger tiger-face leopard
rabbit rabbit-face
cat cat-face black-cat
dragon dragon-face
whale spouting-whale orca
horse horse-face donkey
ram ewe goat
monkey monkey-face
rooster chicken
hatching-chick baby-chick front-facing-baby-chick
dog dog-face guide-dog service-dog poodle
pig pig-face boar pig-nose
camel two-hump-camel
bear polar-bear
bird black-bird
fish tropical-fish
bug beetle cockroach
elephant mammoth
deer moose
rose wilted-flower
evergreen-tree christmas-tree tanabata-tree
shamrock four-leaf-clover
mushroom brown-mushroom
empty-nest nest-with-eggs
lime lemon
red-apple green-apple
doughnut bagel
beer-mug clinking-beer-mugs
fork-and-knife fork-and-knife-with-plate
potato roasted-sweet-potato
cooked-rice curry-rice
new-moon waxing-crescent-moon first-quarter-moon waxing-gibbous-moon full-moon waning-gibbous-moon last-quarter-moon
  waning-crescent-moon crescent-moon new-moon-face first-quarter-moon-face last-quarter-moon-face full-moon-face
sun sun-with-face
star glowing-star
cloud sun-behind-small-cloud sun-behind-large-cloud sun-behind-rain-cloud sun-behind-cloud cloud-with-rain cloud-with-snow
  cloud-with-lightning cloud-with-lightning-and-rain
cityscape cityscape-at-dusk sunset night-with-stars bridge-at-night foggy fog
sunrise sunrise-over-mountains
umbrella umbrella-with-rain-drops closed-umbrella umbrella-on-ground beach-with-umbrella
snowman snowman-without-snow
mountain snow-capped-mountain mount-fuji
house house-with-garden houses derelict-house
japanese-post-office post-office
hotel love-hotel
office-building department-store
camping tent
high-speed-train bullet-train
train metro light-rail station tram
railway-car tram-car mountain-railway
bus oncoming-bus trolleybus minibus
police-car oncoming-police-car
taxi oncoming-taxi
automobile oncoming-automobile sport-utility-vehicle
delivery-truck articulated-lorry
ship passenger-ship ferry
speedboat motor-boat
airplane small-airplane airplane-departure airplane-arrival
mountain-cableway aerial-tramway suspension-railway
horizontal-traffic-light vertical-traffic-light
hourglass-done hourglass-not-done
admission-tickets ticket
1st-place-medal 2nd-place-medal 3rd-place-medal sports-medal
american-football rugby-football
baseball softball
field-hockey ice-hockey
musical-note musical-notes
camera camera-with-flash
microphone studio-microphone
muted-speaker speaker-low-volume speaker-medium-volume speaker-high-volume
bell bell-with-slash
loudspeaker megaphone
telephone telephone-receiver
mobile-phone mobile-phone-with-arrow
computer-disk optical-disk dvd
laptop desktop-computer
yen-banknote dollar-banknote euro-banknote pound-banknote money-with-wings
chart-increasing chart-decreasing chart-increasing-with-yen
closed-book green-book blue-book orange-book notebook notebook-with-decorative-cover ledger
page-with-curl page-facing-up bookmark-tabs
newspaper rolled-up-newspaper
file-folder open-file-folder
calendar tear-off-calendar spiral-calendar spiral-notepad
pushpin round-pushpin
paperclip linked-paperclips
closed-mailbox-with-lowered-flag closed-mailbox-with-raised-flag open-mailbox-with-raised-flag open-mailbox-with-lowered-flag
envelope e-mail incoming-envelope envelope-with-arrow
outbox-tray inbox-tray
locked unlocked locked-with-pen locked-with-key
key old-key
magnifying-glass-tilted-left magnifying-glass-tilted-right
link chains broken-chain
hammer pick hammer-and-pick hammer-and-wrench wrench
battery low-battery
pen fountain-pen black-nib
pencil memo
glasses sunglasses goggles
high-heeled-shoe womans-sandal
coat lab-coat
handbag purse clutch-bag
droplet drop-of-blood
dagger kitchen-knife
amphora funeral-urn
manual-wheelchair motorized-wheelchair
clinking-glasses wine-glass
film-projector movie-camera
prince princess person-with-crown
breast-feeding woman-feeding-baby man-feeding-baby person-feeding-baby
pregnant-woman pregnant-man pregnant-person
woman-with-headscarf person-with-veil man-with-veil woman-with-veil
"""

# family -> concept -> icon; an empty icon means that the family has no drawing of the concept, whatever its names say.
ICONS: dict[str, dict[str, str]] = {
    "fxemoji": {
        "police-officer": "cop",
        "detective": "sleuthspy",
        "person-wearing-turban": "turban",
        "construction-worker": "construct",
        "evergreen-tree": "evergreen",
        "fallen-leaf": "fallingleaf",
        "leaf-fluttering-in-wind": "leaffluttering",
        "front-facing-baby-chick": "frontfacingchick",
        "hamster": "hampster",
        "hot-pepper": "chilipepper",
        "leopard": "leopardside",
        "rabbit": "bunnyside",
        "rabbit-face": "bunny",
        "dog": "dogside",
        "dog-face": "dog",
        "cat": "catside",
        "cat-face": "cat",
        "pig": "pigside",
        "pig-face": "pig",
        "pig-nose": "pigsnout",
        "mouse": "mouseside",
        "mouse-face": "mouse",
        "tiger": "tigerside",
        "tiger-face": "tiger",
        "dragon": "dragonside",
        "dragon-face": "dragonhead",
        "spouting-whale": "spurtingwhale",
        "waning-gibbous-moon": "waningbibbousmoon",
        "sun": "whitesun",
        "star": "",
        "glowing-star": "star",
        "cloud-with-rain": "raincloud",
        "cloud-with-snow": "snowcloud",
        "cloud-with-lightning": "stormcloud",
        "sun-behind-rain-cloud": "sunraincloud",
        "sun-behind-small-cloud": "whitesunsmallcloud",
        "snow-capped-mountain": "snowmountains",
        "water-wave": "wave",
        "high-voltage": "bolt",
        "umbrella": "",
        "closed-umbrella": "umbrella",
        "beach-with-umbrella": "beachumbrella",
        "tokyo-tower": "toykotower",
        "map-of-japan": "silhouetteohjapan",
        "construction": "constructionsign",
        "building-construction": "construction",
        "racing-car": "racecar",
        "bullet-train": "highspeedtrainbulletnose",
        "tram-car": "",  # black
        "ticket": "",  # white on nothing
        "toilet": "",
        "window": "",  # of a computer's screen
        "game-die": "",
        "gem-stone": "gem",
        "high-heeled-shoe": "heels",
        "womans-boot": "boot",
        "womans-sandal": "sandals",
        "mans-shoe": "mensshoe",
        "running-shoe": "mensrunner",
        "womans-clothes": "womansshirt",
        "t-shirt": "mansshirt",
        "necktie": "tie",
        "purse": "pinkwallet",
        "clutch-bag": "makeupbag",
        "sunglasses": "darksunglasses",
        "ribbon": "bow",
        "wrapped-gift": "present",
        "confetti-ball": "confetti",
        "reminder-ribbon": "reminder",
        "tennis": "tennisball",
        "mahjong-red-dragon": "mahjong",
        "fish-cake-with-swirl": "fishcakeswirl",
        "hourglass-done": "",  # drawn like the next
        "hourglass-not-done": "hourglassflowingsand",
        "mantelpiece-clock": "manltepiececlock",
        "studio-microphone": "studiomic",
        "control-knobs": "controlknob",
        "muted-speaker": "speakercancellation",
        "speaker-medium-volume": "speakeronesoundwave",
        "speaker-high-volume": "speaker3soundwaves",
        "bell-with-slash": "bellcancellation",
        "mobile-phone": "cellphone",
        "mobile-phone-with-arrow": "phonerightarrowleft",
        "telephone-receiver": "telephonereceiver2",
        "laptop": "oldpersonalcomputer",
        "desktop-computer": "personalcomputer",
        "keyboard": "wiredkeyboard",
        "floppy-disk": "floppydisk2",
        "video-camera": "handheldvideocamera",
        "videocassette": "videocasette",
        "magnifying-glass-tilted-left": "leftmagnifyingglass",
        "magnifying-glass-tilted-right": "rightmagnifyingglass",
        "notebook-with-decorative-cover": "notebookdecorativecover",
        "bookmark-tabs": "bookmarktab",
        "yen-banknote": "banknoteyen",
        "dollar-banknote": "banknotedollar",
        "euro-banknote": "banknoteeuro",
        "pound-banknote": "banknotepound",
        "chart-increasing": "chartupwardstrend",
        "chart-decreasing": "chartdownwardstrend",
        "chart-increasing-with-yen": "chartupwardstrendyen",
        "envelope-with-arrow": "envelopedownarrowabove",
        "outbox-tray": "outbox",
        "closed-mailbox-with-lowered-flag": "closedmailboxlowered",
        "closed-mailbox-with-raised-flag": "closedmailboxraised",
        "open-mailbox-with-lowered-flag": "openmailboxlowered",
        "open-mailbox-with-raised-flag": "openmailboxraised",
        "pen": "lowerleftpen",
        "pencil": "lowerleftpencil",
        "unlocked": "openlock",
        "locked-with-key": "lockandkey",
        "water-pistol": "",  # a firearm, as in the three below
    },
    "streamline-emojis": {
        "water-pistol": "",
        "turkey": "",  # the flag
        "headphone": "",  # one earphone
        "backpack": "school-backpack",
        "bird": "bird-2",
        "game-die": "game-dice",
        "hot-beverage": "hot-beverage-2",  # the first has a face
        "shortcake": "shortcake-2",
        "tennis": "tennis-2",
        "watermelon": "watermelon-2",
        "wine-glass": "red-wine-glass",
    },
    "emojione": {
        "water-pistol": "",
        "cricket": "",  # the game
    },
    "noto-v1": {
        "water-pistol": "",
        "cricket": "",
        "comet": "",  # noto's drawing
    },
}


@dataclass(frozen=True)
class Choice:
    """A concept before it is drawn."""

    slug: str
    name: str
    character: str  # without variation selectors, the key of CLDR's annotations
    group: str
    subgroup: str
    kind: str
    twin: str
    icons: dict[str, str]  # family -> icon


def slugged(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.replace("’", "").replace("'", "")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def plain(character: str) -> str:
    """Without variation selectors: the key of CLDR's annotations."""
    return character.replace("\ufe0f", "")


def emoji() -> list[dict[str, Any]]:
    """All emoji without skin tones, in Unicode's order."""
    entries = members(GROUPS, "package/en/data.json")["en/data.json"]
    return sorted((entry for entry in entries if "subgroup" in entry), key=lambda entry: entry["order"])


def choose(english: dict[str, str]) -> list[Choice]:
    """All concepts in Unicode's order. `english` maps characters to CLDR names."""
    unicode_names = members(GROUPS, "meta/unicode-names.json")["meta/unicode-names.json"]
    groups = members(GROUPS, "meta/groups.json")["meta/groups.json"]
    twin_of = twins()
    finders = {family: Finder(family) for family in FAMILIES}
    chosen = []
    for entry in emoji():
        group, subgroup = groups["groups"][str(entry["group"])], groups["subgroups"][str(entry["subgroup"])]
        if group not in OBJECT_GROUPS and subgroup != ROLE_SUBGROUP:
            continue
        character = plain(entry["emoji"])
        slug = slugged(english[character])
        if DROPPED.search(slug):
            continue
        kind = "role" if subgroup == ROLE_SUBGROUP else "object"
        names = [slug, slugged(entry["label"]), slugged(unicode_names.get(entry["hexcode"], ""))]
        icons = {family: icon for family, finder in finders.items() if (icon := finder.icon(entry["hexcode"], names))}
        if icons:
            twin = twin_of.get(slug) or (role(slug) if kind == "role" else slug)
            chosen.append(Choice(slug, english[character], character, group, subgroup, kind, twin, icons))
    slugs = {choice.slug for choice in chosen}
    if unknown := sorted(set(twin_of) - slugs):
        raise SystemExit(f"choose.py: TWINS names concepts that do not exist: {', '.join(unknown)}")
    return chosen


def twins() -> dict[str, str]:
    """concept -> first concept of its line in TWINS."""
    found: dict[str, str] = {}
    for line in re.sub(r"\n +", " ", TWINS.strip()).splitlines():
        for slug in line.split():
            if slug in found:
                raise SystemExit(f"choose.py: TWINS names {slug} twice")
            found[slug] = line.split()[0]
    return found


def role(slug: str) -> str:
    """man-cook, woman-cook and cook are one role."""
    return re.sub(r"^(man|woman|person)-(?=[a-z-]+$)", "", slug)


class Finder:
    """The icon of one family that draws an emoji."""

    def __init__(self, family: str):
        source = FAMILIES[family]
        icons = members(source.package, "/icons.json")["icons.json"]
        self.known: dict[str, dict[str, Any]] = icons["icons"]
        self.by_code: dict[str, str] = {}
        self.by_name: dict[str, str] = {}
        if source.has_code_points:
            characters = members(source.package, "/chars.json")["chars.json"]
            self.by_code = {code.replace("-fe0f", ""): icon for code, icon in characters.items()}
        else:
            self.by_name = {icon.replace("-", ""): icon for icon in self.known}
            for alias, target in icons.get("aliases", {}).items():
                if set(target) == {"parent"}:  # others are mirrored or turned
                    self.by_name.setdefault(alias.replace("-", ""), target["parent"])
        self.mended = ICONS.get(family, {})
        if unknown := sorted(icon for icon in self.mended.values() if icon and icon not in self.known):
            raise SystemExit(f"choose.py: {family} has no icons {', '.join(unknown)}")

    def icon(self, hexcode: str, names: list[str]) -> str | None:
        if names[0] in self.mended:
            return self.mended[names[0]] or None
        if self.by_code:
            return self.by_code.get(hexcode.lower().replace("-fe0f", ""))
        squashed = [name.replace("-", "") for name in names if name]
        numbered = [name + "1" for name in squashed]  # streamline numbers several drawings of one thing; the first stands for all
        return next((self.by_name[name] for name in squashed + numbered if name in self.by_name), None)
