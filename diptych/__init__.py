"""Diptych: vision-language pre-training systems, trained, compared, searched and served from the same parts."""

__version__ = "0.1.0"
