"""A few changing lines at the foot of a terminal, and lasting ones above them.

A thread of its own draws them: work never waits for a terminal, not even one that Ctrl-S has
stopped. The lines are wiped and written anew in place; no mode of the terminal is changed, so
whatever ends the process, even kill -9, the terminal is as it was.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_cli.stream.progress import Progress

FILE = 2  # stderr
SECONDS = 0.25  # between two pictures; ours
UNKNOWN = (80, 24)  # columns and rows of a terminal that does not say
STYLE = re.compile(r"\x1b\[[0-9;]*m")

Draw = Callable[[int, int], list[str]]  # width and height to lines that are no wider, nor more


class Block:
    """Lines that `draw` gives four times a second, until `close`."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._lasting: deque[str] = deque()
        self._shown: list[str] = []
        self._size = UNKNOWN
        self._end = threading.Event()
        self._heard = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Say whether it is still drawn."""
        return self._thread.is_alive()

    def say(self, line: str) -> None:
        """Put a lasting line above the block."""
        self._lasting.append(line)
        self._heard.set()

    def close(self) -> None:
        """Wipe the block; what was said stays."""
        self._end.set()
        self._heard.set()
        self._thread.join(timeout=2)  # a stopped terminal may keep it
        if not self._thread.is_alive():
            self._show([])

    def _run(self) -> None:
        while not self._end.is_set():
            self._show(self._lines())
            self._heard.wait(SECONDS)
            self._heard.clear()

    def _lines(self) -> list[str]:
        width, height = size()
        try:
            return self._draw(width - 1, height - 1)
        except Exception as error:  # ours to mend; the work goes on
            if os.environ.get("LLAMA_TRACEBACK"):
                raise
            return [f"no panel, a bug of ours: {type(error).__name__}: {error}"[: width - 1]]

    def _show(self, lines: list[str]) -> None:
        said = [self._lasting.popleft() for _ in range(len(self._lasting))]
        if not said and lines == self._shown and size() == self._size:
            return
        text = self._wipe() + "".join(f"{line}\r\n" for line in said) + "\r\n".join(lines)
        self._shown, self._size = lines, size()
        try:
            _write(text)
        except OSError:  # the terminal has gone; the work has not
            self._end.set()

    def _wipe(self) -> str:
        """Go back to the first line of the block, and clear from there."""
        if not self._shown:
            return ""
        up = rows(self._shown, size()[0]) - 1
        return "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J"


@contextmanager
def shown(progress: Progress, draw: Draw) -> Iterator[None]:
    """Show a block while the context lasts, if stderr is a terminal and may be written to."""
    if progress.quiet or not progress.terminal:
        yield
        return
    progress.clear()
    block = Block(draw)
    progress.above = block.say
    try:
        yield
    finally:
        progress.above = None
        block.close()


def _write(text: str) -> None:
    """Write past sys.stderr, whose lock a stopped terminal would keep from other threads."""
    data = text.encode(sys.stderr.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(FILE, data) :]


def rows(lines: list[str], width: int) -> int:
    r"""Count the rows that lines take on a terminal that has become `width` columns wide.

    >>> rows(["12345", "\x1b[1m12345\x1b[0m", ""], 4)
    5
    """
    return sum(max(1, -(-len(STYLE.sub("", line)) // width)) for line in lines)


def size() -> tuple[int, int]:
    """Give columns and rows of the terminal that is stderr."""
    try:
        columns, lines = os.get_terminal_size(FILE)
    except OSError:
        return UNKNOWN
    return (columns or UNKNOWN[0], lines or UNKNOWN[1])


def has_blocks() -> bool:
    """Say whether the terminal is written to in an encoding that has block characters."""
    return (getattr(sys.stderr, "encoding", None) or "").lower().startswith("utf")
