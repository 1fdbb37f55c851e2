"""The least bake-off with real commands: killed in the middle, it goes on, and ends with a whole table and page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.atelier import make

BAKE = """
from pathlib import Path
from diptych import cli
from diptych.study import compare
from diptych.study.pasts import Budget

if __name__ == "__main__":
    compare.SPLITS = ("test",)
    least = Budget("least", "tiny", 40, 32, 16, {"": 6}, rates=(1.0,), steps={"cnn": 2, "crossgrid": 2})
    compare.compare(compare.Options(["crossgrid"], ["retrieval"], least, jobs=2), Path("out"), cli.call)
"""


def bake(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "DIPTYCH_DATA": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, str(folder / "bake.py")], cwd=folder, env=environment, start_new_session=True)


def finished(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.glob("results/crossgrid/retrieval/[!.]*-s0-*.json")}


@pytest.mark.slow
def test_a_table_that_was_killed_goes_on_where_it_was(tmp_path):
    make.make(tmp_path / "scenes", small=True, scenes=240)  # with fewer some splits are empty
    (tmp_path / "bake.py").write_text(BAKE)
    process = bake(tmp_path)
    try:
        while not finished(tmp_path):
            assert process.poll() is None, "it ended before a cell was finished"
            time.sleep(0.1)
    finally:
        process.kill()  # the parent alone: its workers notice
        process.wait()
    before, runs = finished(tmp_path), {p: p.stat().st_mtime for p in tmp_path.glob("out/**/result.json")}
    assert not (tmp_path / "out" / "table.json").exists()
    assert bake(tmp_path).wait() == 0
    assert before.items() <= finished(tmp_path).items(), "what was finished is as it was"
    assert all(path.stat().st_mtime == was for path, was in runs.items()), "no run is trained again"
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {cell["arm"] for cell in table["cells"] if "value" in cell} == {"scratch", "root_only", "pretrained"}
    assert table["failed"] == [] and len(table["gains"]) == 2
    (cost,) = table["costs"]
    assert cost["parameters"] > 10_000 and cost["flops"] > 1e6 and cost["milliseconds"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<svg class="shown"') > 0 and "crossgrid" in page
