"""The claims' page says what their tables say."""

from __future__ import annotations

import pytest

from diptych.study.claims import CLAIMS
from tools import claims


def row(name: str, **more: object) -> dict[str, object]:
    sides = [{"name": "with", "value": 55.25, "ci95": [53.0, 57.5], "by_chance": 36.0}, {"name": "without"}]
    told = {"claim": name, "says": "It helps.", "measure": "VQA", "unit": "points", "value": 2.5, "ci95": [-0.5, 5.0], "why": ""}
    return {**told, "sides": sides, "verdict": "too small to tell", **more}


def test_tables_become_one_in_the_order_of_the_claims():
    first = {
        "budget": "small",
        "seeds": 1,
        "claims": [row("bert-masks", unit="times", value=3.0, ci95=[2.5, 3.5], sides=[{"name": "with", "value": 8.9}])],
    }
    second = {"budget": "small", "seeds": 1, "claims": [row("soho-dictionary", why="no side has learnt")]}
    lines = claims.page(claims.merged([first, second])).splitlines()
    assert "diptych compare --claims --systems soho-dictionary,bert-masks --budget small --seeds 1" in lines
    soho, bert = (line for line in lines if line.startswith("| `"))
    assert soho == (
        "| `soho-dictionary` It helps. | VQA: with 55.2 (53.0 to 57.5, 36.0 by chance); without failed | +2.5 (-0.5 to +5.0) "
        "| **too small to tell**: no side has learnt |"
    )
    assert "VQA: with 8.9 ms | 3.00x (2.50 to 3.50) |" in bert
    assert lines[-1].count("`") == 2 * (len(CLAIMS) - 2), "the others are named as not run"
    with pytest.raises(SystemExit, match="bert-masks stands in more than one"):
        claims.merged([first, first])
    with pytest.raises(SystemExit, match="several budgets"):
        claims.merged([first, second | {"budget": "quick"}])
