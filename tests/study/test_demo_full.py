"""`diptych demo --full` in the least number of steps: every command is carried out, and the page tells the comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diptych import cli
from diptych.atelier import make
from diptych.study import demo, demo_full
from diptych.study.demo import SIZES


@pytest.mark.slow
def test_everything_that_full_adds_runs_and_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make.make(Path("data/scenes"), small=True, scenes=600)
    least = replace(SIZES["large"], root=2, pretrain=2, tune=2, equal=2, controls=2, labels=40, asked=20, gallery=10)
    monkeypatch.setitem(SIZES, "large", least)
    monkeypatch.setattr(demo_full, "FURTHER", demo_full.Further(*[2] * 7))
    monkeypatch.setattr(demo, "GRID", (5e-4, 1e-3))
    monkeypatch.setattr(demo.find, "make_embedded", lambda name, small: {})
    result = demo.demo("full", Path("out"), cli.call)
    assert result["further"].keys() == {"all_labels", "all_labels_equal_total", "hinges"}
    assert all("macro" in scores for arms in result["further"].values() for scores in arms.values())
    assert json.loads(Path("out/rates.json").read_text())["best"].keys() == set(demo.ARMS)
    page = Path("out/report.html").read_text()
    assert "Both hinges, cells and patches" in page and "Patches, one stream (ViLT)" in page
