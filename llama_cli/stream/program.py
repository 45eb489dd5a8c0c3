"""A program of the user's, with a pipe to it and one back.

It is started by the shell, in a group of its own, and does not outlive the block it is used in:
an error there ends all that the shell has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs."""

    given: IO[bytes]  # what it reads
    told: IO[bytes]  # what it writes
    wait: Callable[[], int]  # for its end, and its exit code


@contextmanager
def started(line: str) -> Iterator[Program]:
    """Start what a shell would start; what it says on stderr is the user's to see."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, shell=True, stdin=pipe, stdout=pipe, start_new_session=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Program(process.stdin, process.stdout, process.wait)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(BrokenPipeError):  # what it has not read
                process.stdin.close()
            raise
