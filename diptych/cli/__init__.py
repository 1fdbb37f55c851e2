"""The command line: one function a verb, each a thin way from words to the library's calls.

    verbs.py     demo, pretrain, finetune, evaluate, score, ask, list, plan, convert
    data.py      data make, check, show
    regions.py   regions train, score, extract, import, export, verify
    study.py     compare, scale
    work.py      what is around each: shared options, processes, what is printed

What is heavy is imported by the verb that needs it, so that help answers at once. Every verb takes --json: one object on standard
output and nothing else there; what is for reading during the work goes to standard error. Exit codes: 0 success, 2 a user's
mistake, told in one line, 1 our fault, 130 interrupted. DIPTYCH_DEBUG=1 shows tracebacks. Under torchrun only the first process
speaks.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import typer

from diptych.cli import data, regions, study, verbs, work

# what a disk or its owner refuses: a matter of the user's machine, wherever it is met
_REFUSALS = {getattr(errno, name, None) for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO")}
_REFUSALS |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, getattr(errno, "ELOOP", None)}

app = verbs.app
app.add_typer(study.app)
app.add_typer(data.app, name="data")
app.add_typer(regions.app, name="regions")


def main() -> None:
    sys.exit(call())


def call(words: Sequence[str] | None = None) -> int:
    """Carry out one command line (default: this process's own); its exit code. Complaints go to standard error."""
    work.words[:] = sys.argv[1:] if words is None else words
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]  # click's, which newer Typers carry inside themselves
    try:
        code = app(None if words is None else list(words), prog_name="diptych", standalone_mode=False) or 0
        return _complain("interrupted", 130) if code == 130 else code  # Typer makes a code of Ctrl-C; a run's own passes it by
    except usage_error as error:
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        if "\n" in message:  # a bare `diptych` asks for help
            print(message)
            return 0
        return _complain(message, 2)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except Exception as error:
        if os.environ.get("DIPTYCH_DEBUG"):
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One line for any error. Ours is kept in a file, to be sent to us."""
    from pydantic import ValidationError

    from diptych.config import UserError, explain

    if isinstance(error, UserError):
        return _complain(str(error), 2)
    if isinstance(error, ValidationError):
        return _complain("; ".join(explain(error, None)), 2)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return _complain(f"{error.filename or 'the disk'}: {error.strerror}", 2)
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="diptych-error-", suffix=".txt")
    with open(descriptor, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    said = str(error).strip().partition("\n")[0]
    return _complain(f"an error of ours, sorry ({type(error).__name__}: {said}); please report it with {path}", 1)


def _complain(message: str, code: int) -> int:
    from diptych.launch import is_launched

    if work.speaks() or is_launched():  # one that was launched speaks to who launched it
        print(f"diptych: {' '.join(message.split())}", file=sys.stderr)
    return code
