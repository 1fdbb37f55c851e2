"""A crew carries out what is ready; a failure or a death costs one command; its members end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from diptych.study import crew
from diptych.study.lanes import Command


def call(words):
    """Stands in for the command line: `write FILE`, `fail TEXT`, `die`, `sleep FILE`."""
    verb, said = words
    if verb == "write":
        Path(said).write_text(f"{time.monotonic()}\n")
    elif verb == "fail":
        print(f"before\ndiptych: {said}", file=sys.stderr)
        return 2
    elif verb == "die":
        os._exit(9)
    else:
        Path(said).write_text(str(os.getpid()))
        time.sleep(600)
    return 0


class Todo:
    """Commands that wait for files."""

    def __init__(self, *commands: Command):
        self.commands, self.complaints, self.over = commands, {}, set()

    def ready(self):
        return [c for c in self.commands if c.makes not in self.over and (c.needs is None or c.needs.exists())]

    def ended(self, command, complaint, seconds):
        assert seconds >= 0
        self.complaints[command.makes.name] = complaint
        self.over.add(command.makes)

    def standing(self, at_work):
        return str(len(at_work))


def test_a_failure_and_a_death_cost_their_own_command_alone(tmp_path):
    def command(verb, name, needs=None):
        said = str(tmp_path / name) if verb in ("write", "sleep") else "no such thing; did you mean 'this'?"
        return Command(name, (verb, said), tmp_path / "made" / name, needs=needs and tmp_path / needs)

    todo = Todo(command("write", "b", "a"), command("die", "c"), command("fail", "d"), command("write", "a"))
    said = []
    crew.carry_out(todo, 2, tmp_path / "log", call, said.append)
    assert todo.complaints.pop("c").startswith("its process ended with 9 (see ")
    assert todo.complaints == {"a": "", "b": "", "d": "no such thing; did you mean 'this'?"}
    assert float((tmp_path / "a").read_text()) < float((tmp_path / "b").read_text())
    assert "2" in said, "two at a time"


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_crew import Command, Todo, call, crew
if __name__ == "__main__":
    out = Path({out!r})
    crew.carry_out(Todo(Command("", ("sleep", str(out / "pid")), out / "x")), 1, out / "log", call, lambda said: None)
"""


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(here=str(Path(__file__).parent), out=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(int(pid), signal.SIGKILL)
    raise AssertionError("a worker outlived its parent")
