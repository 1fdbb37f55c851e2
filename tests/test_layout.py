"""The house rules that a reader can rely on: who may import whom, and that every file says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diptych"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each room imports from rooms on lines above it and from itself; rooms on one line don't know one another.
LEVELS = (
    ("contracts", "config", "draw", "launch"),
    ("nn", "dist", "checkpoint", "metrics", "replies"),
    ("image", "text", "fusion", "objectives", "data", "atelier"),
    ("weights", "systems", "tasks"),
    ("regions", "train"),
    ("find", "load", "plan"),
    ("study", "report"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# `atelier` writes what `data` reads; within a line, `contracts`, `load` and `study` lean on the ones named here.
ALLOWED = {
    ("atelier", "data"),
    ("contracts", "config"),
    ("contracts", "draw"),
    ("launch", "config"),
    ("load", "find"),
    ("study", "report"),
}
TORCHLESS = ("data", "atelier", "metrics")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module that a file names in an import, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_imports_only_what_stands_before_it(path: Path):
    room = room_of(path)
    assert room in LEVEL, f"{room} has no place in the order of imports"
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module begins with what it is"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "diptych" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != room:
            allowed = LEVEL[parts[1]] < LEVEL[room] or (room, parts[1]) in ALLOWED
            assert allowed, f"{room} must not import {parts[1]}"
        if room in TORCHLESS:
            assert not name.startswith(("torch.nn", "torchvision")), f"{room} knows no networks"
        if room == "train":
            assert not name.startswith("diptych.systems"), "training knows no system"


def test_no_drawer_for_odds_and_ends():
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base", "registry"}
    assert not [path for path in PACKAGE.rglob("*") if path.stem in vague]


def test_names_of_test_files_are_unique():
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
