"""`report.html` of one run directory: what it was, its curves, its result, its configuration."""

from __future__ import annotations

from pathlib import Path


def run_page(run_dir: Path) -> str:
    """The report of a run, whichever its verb, from config.json, metrics.jsonl and result.json (whichever are there)."""
    raise NotImplementedError
