"""The portraits on the systems' pages: whoever sits is there, with a page, a picture and runs that can be made."""

import re
from pathlib import Path

import pytest

from diptych import find
from tools.marked import put
from tools.portraits.pictures import DRAWN
from tools.portraits.runs import TRAININGS, chain, needs, words_of
from tools.portraits.sitters import SITTERS

DOCS = Path(__file__).parents[2] / "docs/systems"


def test_every_training_names_what_there_is_and_comes_after_it():
    for name, command in TRAININGS.items():
        order = chain(name)
        assert order[-1] == name and all(order.index(one) < order.index(name) for one in needs(command))
        for spec in re.findall(r"\b([a-z_0-9]+:small)\b", command):
            find.system(spec)
        assert not any(word.startswith(("@", "image=@", "text=@", "fusion=@")) for word in words_of(command, Path("runs")))


@pytest.mark.parametrize("name", SITTERS)
def test_who_sits_has_runs_a_picture_and_a_place_on_a_page(name, tmp_path):
    sitter = SITTERS[name]
    assert name in DRAWN
    assert all(one in TRAININGS for column in sitter.columns for one in re.findall(r"^@(.+)$", column.of))
    page = tmp_path / "page.md"
    before = (DOCS / f"{sitter.page or name}.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    put(page, name, "measured", "portrait")
    after = page.read_text(encoding="utf-8")
    assert "measured" in after and before.partition("<!-- portrait")[0] == after.partition("<!-- portrait")[0]
    with pytest.raises(SystemExit, match="has no place for nobody"):
        put(page, "nobody", "measured", "portrait")
