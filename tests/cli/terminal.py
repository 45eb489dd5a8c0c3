"""A terminal with a size, a program on it, and what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.screen import Screen
from tests.shell import LLAMA, ROOT

KEPT = ("COVERAGE", "COV_")


class Terminal:
    """Run a command with a terminal for its standard streams, or for some of them."""

    def __init__(
        self,
        command: str,
        cwd: Path,
        *,
        size: tuple[int, int] = (80, 24),
        stdout: Path | None = None,
        **env: str,
    ) -> None:
        self.main, side = pty.openpty()
        self._side = side
        self.screen = Screen(size[0])
        self.text = ""
        self.resize(*size)
        kept = {k: v for k, v in os.environ.items() if k.startswith(KEPT)}
        given = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "TERM": "xterm", **kept}
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command.replace('llama ', f'{LLAMA} ', 1)}"],
            cwd=cwd,
            stdin=side,
            stdout=stdout.open("w") if stdout else side,
            stderr=side,
            env={**given, "LC_ALL": "C.UTF-8", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal
        )

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def see(self, condition: Callable[[list[str]], bool], seconds: float = 60) -> None:
        """Read until the lines of the screen fulfil a condition."""
        end = time.monotonic() + seconds
        while not condition(self.screen.lines):
            assert time.monotonic() < end, self.text
            assert self._read(1.0) or self.process.poll() is None, self.text

    def end(self, seconds: float = 60) -> int:
        """Wait for the program, and read what is left."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self.main], [], [], seconds)[0]:
            return False
        try:
            text = os.read(self.main, 65536).decode(errors="replace")
        except OSError:
            return False
        self.text += text
        self.screen.write(text)
        return True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self._side)
