"""Lanes run their commands in order beside each other, skip what is done, and fail with what was said."""

from __future__ import annotations

import os
import sys
import time

import pytest

from diptych.config import UserError
from diptych.study import lanes
from diptych.study.lanes import Command


def call(words):
    """Stands in for the command line: `write FILE`, `fail TEXT`, `sleep`."""
    verb, said = words
    if verb == "write":
        with open(said, "a") as file:
            file.write(f"{time.monotonic()}\n")
    elif verb == "fail":
        print(f"diptych: {said}", file=sys.stderr)
        return 2
    else:
        time.sleep(600)
    return 0


def test_lanes_run_in_order_wait_for_what_they_need_and_skip_what_is_there(tmp_path):
    def write(name, needs=None):
        return Command(name, ("write", str(tmp_path / name)), tmp_path / name, needs=needs and tmp_path / needs)

    done = write("done")
    done.makes.write_text("before\n")
    one = [done, write("c", needs="b")]
    two = [write("a"), write("b"), write("d", needs="c")]
    lanes.run([one, two], tmp_path / "log", call, lambda said: None)
    times = [float((tmp_path / name).read_text()) for name in "abcd"]
    assert times == sorted(times)
    assert done.makes.read_text() == "before\n"
    assert f"$ {one[1]}" in (tmp_path / "log" / "lane-0.log").read_text()


def test_what_is_older_than_what_it_was_made_from_is_made_again(tmp_path):
    for name, age in (("old", 200), ("source", 100), ("new", 0)):
        (tmp_path / name).write_text("before\n")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    made = [Command(n, ("write", str(tmp_path / n)), tmp_path / n, needs=tmp_path / "source") for n in ("old", "new")]
    lanes.run([made], tmp_path / "log", call, lambda said: None)
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("old", "new")] == [2, 1]


def test_the_first_failure_ends_all_lanes_and_is_told_in_its_own_words(tmp_path):
    fails = Command("", ("fail", "no such thing; did you mean 'this'?"), tmp_path / "x")
    sleeps = Command("", ("sleep", ""), tmp_path / "y")
    with pytest.raises(UserError, match=r"^no such thing; did you mean 'this'\? \(see .*lane-1\.log\)$"):
        lanes.run([[sleeps], [fails]], tmp_path / "log", call, lambda said: None)
