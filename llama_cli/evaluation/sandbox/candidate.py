"""One generated program, in the process that is given up to it.

The verdict is a token that the parent drew for this program alone and that is reported after
the last line has run. `exit()`, a printed "passed" and an exit code of 0 report nothing.

Where a Python is started for each program it runs the text of this file, so nothing is imported
here that would take time or is not Python's own.
"""

from __future__ import annotations

import builtins
import marshal
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

NAME = "program.py"
READY = b"+"
LONGEST = 500  # characters of an error that are kept; ours


def main(report: int) -> NoReturn:
    """Run the program that stands on stdin, beside its token, limits and import path."""
    with open(0, "rb", closefd=False) as file:
        program, token, limits, path = marshal.load(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hold(limits)
    ready(report)
    run(program, token=token, report=report, path=path)


def hold(limits: Sequence[tuple[int, int, int]]) -> None:
    """Set limits of this process, or keep what is stricter already; there is no way back."""
    for kind, soft, hard in limits:
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def ready(report: int) -> None:
    """Report that all is set up: what goes wrong from here on is the program's fault."""
    os.write(report, READY)


def run(program: str, *, token: str, report: int, path: Sequence[str]) -> NoReturn:
    """Run `program` as the main module, report how it ended, and end the process.

    What is used after the program is held from before it, because it may change any module.
    """
    write, leave, describe = os.write, os._exit, _describe
    main = _fresh_main(path)
    said = token
    try:
        try:
            exec(compile(program, NAME, "exec", dont_inherit=True), main)
        except BaseException as error:
            said = describe(error)
        write(report, said.encode("utf-8", "backslashreplace"))
    finally:  # a program may have closed the report, or taken `str` away
        leave(0)


def _fresh_main(path: Sequence[str]) -> dict[str, object]:
    """Leave nothing of ours to import: a program sees Python as it comes."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cli"]:
        del sys.modules[name]
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.path[:] = path
    sys.argv[:] = [NAME]
    return module.__dict__


def _describe(error: BaseException) -> str:
    """Give an exception as the last line of its traceback, marked so that it is no token."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except BaseException:  # a program's own __str__
        text = "…"
    return f"!{name}: {text}"[:LONGEST] if text else f"!{name}"
