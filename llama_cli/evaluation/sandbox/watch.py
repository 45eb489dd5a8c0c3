"""Wait for a program to end, and end it where it uses too much time or writes too much.

The process is held by a pidfd (pidfd_open(2)), so no other can be killed in its place.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from llama_cli.evaluation.sandbox.limits import Limits

BLOCK = 2**16
WORDS = 500  # bytes of the output that are kept; ours
REPORT = 2**16  # bytes of a report that are read; a pipe holds no more


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, in plain data that crosses a pipe."""

    report: str  # what its process wrote there
    words: str  # how what it wrote to stdout and stderr begins
    stopped: str  # "", or why it was killed: wall, output, parent
    code: int  # of exit, or minus the signal
    seconds: float
    cpu_seconds: float


def watch(
    pid: int, *, output: int, report: int, limits: Limits, group: bool = False, stop: int = -1
) -> Ended:
    """Follow a child to its end, and reap it.

    Args:
        pid: the child.
        output: what it writes, counted and thrown away.
        report: read once it has ended; never blocks on who else holds it.
        limits: the bounds on output and on the clock.
        group: the child leads a process group that is to end with it.
        stop: a descriptor; when it can be read or is closed, the child is ended.
    """
    start = time.monotonic()
    process = os.pidfd_open(pid)
    try:
        stopped, words = _wait(process, output, stop, limits, start + limits.wall_seconds)
        with suppress(ProcessLookupError):
            if group:
                os.killpg(pid, signal.SIGKILL)
            signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)
    _, status, usage = os.wait4(pid, 0)
    return Ended(
        report=_read(report),
        words=words.decode("utf-8", "replace"),
        stopped=stopped,
        code=os.waitstatus_to_exitcode(status),
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


def _wait(
    process: int, output: int, stop: int, limits: Limits, deadline: float
) -> tuple[str, bytes]:
    """Return when the process has ended (""), or with the reason to end it, and its words."""
    poll = select.poll()
    for descriptor in (process, output, stop):
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    written, words = 0, b""
    while (left := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in poll.poll(left * 1e3)}
        if stop in ready:
            return "parent", words
        if output in ready:
            block = os.read(output, BLOCK)
            words += block[: WORDS - len(words)]
            written += len(block)
            if not block:  # closed; the process may go on
                poll.unregister(output)
            if written > limits.output:
                return "output", words
        elif process in ready:
            return "", words
    return "wall", words


def _read(report: int) -> str:
    os.set_blocking(report, False)
    try:
        return os.read(report, REPORT).decode("utf-8", "replace")
    except BlockingIOError:
        return ""
