"""The process from which the programs of the namespaces tier are forked.

It is a Python started fresh, with no environment but what we write, so a program that reads all
of its memory finds nothing of the user's. It enters the namespaces once; each program is then a
fork in a process namespace of its own, inside fresh mounts: a start of Python saved for each.

    parent ──▶ python -m …zygote ──▶ first of a process namespace ──▶ program, first of another
                waits                  `serve`, a message a program     `candidate.run`

Whoever dies takes what is right of it along: a namespace ends with its first process, and
`serve` ends when its parent's end of the channel is closed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import astuple
from typing import NoReturn

from llama_cli.evaluation.sandbox import candidate, kernel, namespaces
from llama_cli.evaluation.sandbox.channel import receive, send
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.seccomp import assemble, build
from llama_cli.evaluation.sandbox.view import python_files, standard_library
from llama_cli.evaluation.sandbox.watch import Ended, watch

REPORT = 3  # its place in a program
COMMON = ("collections", "functools", "heapq", "itertools", "math", "random", "re", "typing")


def main(descriptor: int) -> NoReturn:
    """Enter the namespaces, and serve who holds the other end."""
    with socket.socket(fileno=descriptor) as channel:
        try:
            calls, path = assemble(build(execute=False)), standard_library()
            for name in COMMON:  # most programs begin with some; the rest is found on disk
                __import__(name)
            namespaces.enter(python_files())
            kernel.unshare(kernel.NEW_PIDS)
        except (OSError, ValueError) as error:
            send(channel, getattr(error, "strerror", None) or str(error))
            os._exit(1)
        if first := os.fork():
            channel.close()
            os.waitpid(first, 0)
            os._exit(0)
        kernel.prctl(kernel.PARENT_DEATH, signal.SIGKILL)
        send(channel, "")
        serve(channel, calls, path)


def serve(channel: socket.socket, calls: bytes, path: Sequence[str]) -> NoReturn:
    """Run a program for each message, until the channel is closed."""
    here = os.pidfd_open(os.getpid())
    gc.freeze()  # pages that are never collected stay shared with every fork
    while True:
        try:
            program, token, limits = receive(channel)
        except (EOFError, ConnectionError):
            os._exit(0)
        ended = _run(program, token, Limits(*limits), calls, path, here, channel.fileno())
        send(channel, astuple(ended))


def _run(
    program: str,
    token: str,
    limits: Limits,
    calls: bytes,
    path: Sequence[str],
    here: int,
    channel: int,
) -> Ended:
    """Fork one program as the first process of a new namespace, and see it to its end."""
    output, output_end = os.pipe()
    report, report_end = os.pipe()
    kernel.unshare(kernel.NEW_PIDS)
    pid = os.fork()
    if not pid:
        _become(output_end, report_end, limits, calls)
        candidate.run(program, token=token, report=REPORT, path=path)
    os.close(output_end)
    os.close(report_end)
    kernel.set_namespace(here, kernel.NEW_PIDS)  # so that the next one may be new again
    try:
        return watch(pid, output=output, report=report, limits=limits, stop=channel)
    finally:
        os.close(output)
        os.close(report)


def _become(output: int, report: int, limits: Limits, calls: bytes) -> None:
    """Turn this fork into a sandboxed process; where that fails, it ends and says why."""
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(report, REPORT)
        os.closerange(REPORT + 1, 2**16)
        namespaces.isolate(limits, calls)
        candidate.ready(REPORT)
    except BaseException as error:
        os.write(1, str(error).encode())
        os._exit(1)
