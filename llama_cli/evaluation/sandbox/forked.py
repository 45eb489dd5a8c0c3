"""Our end of the process that forks programs (zygote.py)."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import llama_cli
from llama_cli.errors import LlamaError
from llama_cli.evaluation.sandbox.candidate import READY
from llama_cli.evaluation.sandbox.channel import receive, send
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.spawn import ENVIRONMENT, python
from llama_cli.evaluation.sandbox.watch import Ended

GRACE = 30.0  # seconds past a program's own, after which the forking process is given up; ours
_PACKAGE = str(Path(llama_cli.__file__).parents[1])
_CODE = "import sys; sys.path.insert(0, {!r}); from {}.zygote import main; main({})"
_LOST = Ended(READY.decode(), "", "lost", -9, 0.0, 0.0)


class Forked:
    """Have programs forked by one process, started for the first, and again if it is lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._stopped = False

    def run(self, program: str, token: str, limits: Limits) -> Ended:
        """Run one program; again if the process was lost with it, and then it is to blame.

        Raises:
            LlamaError: the kernel, or who rules this machine, allows no namespaces.
        """
        for _ in range(0 if self._stopped else 2):
            channel = self._channel or self._start()
            channel.settimeout(limits.wall_seconds + GRACE)
            try:
                send(channel, (program, token, astuple(limits)))
                return Ended(*receive(channel))
            except (OSError, EOFError):
                self.close()
            if self._stopped:
                break
        return _LOST

    def stop(self) -> None:
        """End the program that another thread has running, and start no more."""
        self._stopped = True
        if channel := self._channel:
            with suppress(OSError):  # the thread may be closing it
                channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the process, and with it all that it made."""
        if self._channel:
            self._channel.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CODE.format(_PACKAGE, __package__, theirs.fileno())
            self._process = subprocess.Popen(
                python(["-c", code]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=ENVIRONMENT,
                start_new_session=True,
            )
        self._channel = ours
        ours.settimeout(GRACE)
        try:
            refused = receive(ours)
        except (OSError, EOFError):
            refused = "it ended before it began"
        if refused:
            self.close()
            raise LlamaError(f"no namespaces here: {refused}")
        return ours
