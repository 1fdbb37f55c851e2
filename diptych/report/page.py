"""The page: a header, sections in order, a footer; and the one place where templates are filled.

Templates escape every value. The page carries its own security policy: no script, no address but `data:`, so a caption that
slipped through as markup could neither run nor load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """One heading and what stands under it. A section with an empty body is left out."""

    id: str
    contents: str  # its name in the list of contents
    title: str
    lead: str  # what to see here, in one or two sentences
    body: Markup


def number(value: float) -> str:
    """One decimal, a true minus sign."""
    return f"{value:.1f}".replace("-", "−")


def signed(value: float) -> str:
    return ("+" if value >= 0 else "") + number(value)


def duration(minutes: float) -> str:
    """0.72 -> "43 s"; 11.04 -> "11.0 min"; 95 -> "1 h 35 min"."""
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    if minutes < 60:
        return f"{minutes:.1f} min"
    return f"{int(minutes // 60)} h {minutes % 60:02.0f} min"


def ordinal(rank: int) -> str:
    suffix = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{suffix}"


_environment = Environment(
    loader=PackageLoader("diptych.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters.update(number=number, signed=signed, duration=duration, ordinal=ordinal, count=lambda n: f"{n:,}")


def fill(template: str, **values: Any) -> Markup:
    """A template of `templates/` with these values, as markup."""
    return Markup(_environment.get_template(template).render(**values))


def macro(template: str, name: str, *values: Any) -> Markup:
    """One macro of a template, called with these values."""
    return Markup(getattr(_environment.get_template(template).module, name)(*values))


def page(title: str, kicker: str, header: Markup, sections: Sequence[Section]) -> str:
    """The whole document. `kicker` is the small line above the title; `header` stands between the title and the contents."""
    shown = [section for section in sections if section.body]
    return str(fill("page.html", title=title, kicker=kicker, header=header, sections=shown))
