"""A Python started afresh for each program: inside bubblewrap, or bare.

Where bubblewrap may make namespaces and we may not (it can be setuid, or named to AppArmor),
it is as good; its start and Python's cost most of the time. Bare is `unsafe`: only limits.
"""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llama_cli.evaluation.sandbox import candidate
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.namespaces import NOBODY
from llama_cli.evaluation.sandbox.seccomp import assemble, build
from llama_cli.evaluation.sandbox.view import (
    DEVICES,
    PASS_THROUGH,
    WORK,
    interpreter,
    parents,
    python_files,
    standard_library,
)
from llama_cli.evaluation.sandbox.watch import Ended, watch

ENVIRONMENT = {"PYTHONHASHSEED": "0", "HOME": WORK}  # sets are in one order, run after run
FLAGS = ("-s", "-P", "-S", "-X", "utf8")  # -I would pass over PYTHONHASHSEED


def python(code: Sequence[str]) -> list[str]:
    """Give the command of a Python with its standard library alone."""
    return [interpreter(), *FLAGS, *code]


class Spawn:
    """Start a command for each program, and see it to its end."""

    def __init__(
        self, wrap: Callable[[Sequence[str], int, Limits], list[str]], *, group: bool
    ) -> None:
        text = Path(candidate.__file__).read_text(encoding="utf-8")
        self._text, self._path = text, standard_library()
        self._wrap, self._group = wrap, group
        self._calls = assemble(build(execute=True))
        self._stop, self._go = os.pipe()

    def run(self, program: str, token: str, limits: Limits) -> Ended:
        """Run one program."""
        job = marshal.dumps((program, token, limits.resources(), self._path))
        with (
            _holding(job) as stdin,
            _holding(self._calls) as calls,
            tempfile.TemporaryDirectory() as directory,
        ):
            return self._started(stdin, calls, directory, limits)

    def stop(self) -> None:
        """End the program that another thread has running."""
        os.close(self._go)

    def close(self) -> None:
        """Let go of what is held between programs."""
        os.close(self._stop)

    def _started(self, stdin: int, calls: int, directory: str, limits: Limits) -> Ended:
        output, output_end = os.pipe()
        report, report_end = os.pipe()
        code = ["-c", f"{self._text}\nmain({report_end})"]
        try:
            process = subprocess.Popen(
                self._wrap(python(code), calls, limits),
                stdin=stdin,
                stdout=output_end,
                stderr=output_end,
                pass_fds=(report_end, calls),
                cwd=directory,
                env=ENVIRONMENT,
                start_new_session=True,
            )
            os.close(output_end)
            os.close(report_end)
            ended = watch(
                process.pid,
                output=output,
                report=report,
                limits=limits,
                group=self._group,
                stop=self._stop,
            )
            process.returncode = ended.code  # reaped
            return ended
        finally:
            os.close(output)
            os.close(report)


def bare(command: Sequence[str], calls: int, limits: Limits) -> list[str]:
    """Start Python as it is."""
    return list(command)


def bubblewrap(command: Sequence[str], calls: int, limits: Limits) -> list[str]:
    """Start Python inside bwrap(1)."""
    files = python_files()
    ways = [word for way in parents([*files, *DEVICES]) for word in _directory(way)]
    shown = [word for path in files for word in ("--ro-bind", path, path)]
    devices = [word for path in DEVICES for word in ("--dev-bind-try", path, path)]
    return [
        shutil.which("bwrap") or "bwrap",
        *("--unshare-all", "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"),
        *(*ways, *shown, *devices),
        *("--perms", "1777", "--size", str(limits.disk), "--tmpfs", WORK, "--remount-ro", "/"),
        *("--chdir", WORK, "--seccomp", str(calls), "--", *command),
    ]


def _directory(path: str) -> tuple[str, ...]:
    return ("--perms", f"{PASS_THROUGH:04o}", "--dir", path)


@contextmanager
def _holding(data: bytes) -> Iterator[int]:
    """Hold bytes in a file in memory, to be read from its start."""
    descriptor = os.memfd_create("llama")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
