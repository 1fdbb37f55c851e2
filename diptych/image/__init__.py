"""Pixels or regions to visual tokens."""
