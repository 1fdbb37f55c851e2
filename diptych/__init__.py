"""Diptych: vision-language pre-training systems, trained, compared, searched and served from the same parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.load import Model as Model
    from diptych.load import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`diptych.load` imports torch, so it comes when it is asked for. It is a module that can be called."""
    if name in ("load", "Model"):
        import importlib

        module = importlib.import_module("diptych.load")
        return module if name == "load" else module.Model
    raise AttributeError(f"module 'diptych' has no attribute '{name}'")
