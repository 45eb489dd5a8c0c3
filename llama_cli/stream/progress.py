"""What a command says while it works, on stderr.

One changing line when stderr is a terminal; otherwise a plain line every 30 seconds, so
that logs stay readable. `-q` silences both, and line-level messages, but never an error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from llama_cli.errors import one_line

TERMINAL_SECONDS = 0.1  # between two pictures of the changing line; ours
LOG_SECONDS = 30.0  # between two plain lines; ours
WIDTH = 100  # characters; ours


def coloured() -> bool:
    """Tell whether messages on stderr may have colour (https://no-color.org).

    `--color` sets one of the two variables, and unsets the other.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def tell(text: str, *, end: str = "\n") -> None:
    """Print on stderr; where nothing can be written, go on without words.

    Raises:
        BrokenPipeError: whoever listened has gone.
    """
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:  # a full disk must not undo the work, nor Python's last flush fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _width() -> int:
    try:
        columns = os.get_terminal_size(2).columns
    except OSError:
        columns = 0
    return min(WIDTH, columns - 1) if columns > 1 else WIDTH  # a wrapped line cannot be wiped


class Progress:
    """Say lines on stderr, and keep at most one changing line below them."""

    def __init__(self, command: str, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._prefix = f"llama {command}: "
        self._every = TERMINAL_SECONDS if self.terminal else LOG_SECONDS
        self._last = time.monotonic()
        self._shown = False
        self.above: Callable[[str], None] | None = None  # who prints lines above a block, if any

    def say(self, message: str) -> None:
        """Print one lasting line, unless quiet."""
        if self.quiet:
            return
        line = f"{self._prefix}{one_line(message)}"
        if self.above:
            self.above(line)
        else:
            self.clear()
            tell(line)

    def tick(self, text: Callable[[], str]) -> None:
        """Show the state, if it is time to; `text` is called only then."""
        now = time.monotonic()
        if self.quiet or now - self._last < self._every:
            return
        self._last = now
        line = f"{self._prefix}{one_line(text())}"
        if self.terminal:
            tell(f"\r{line[: _width()]}\x1b[K", end="")
            self._shown = True
        else:
            tell(line)

    def clear(self) -> None:
        """Wipe the changing line, so that the next message starts on a clean one."""
        if self._shown:
            tell("\r\x1b[K", end="")
            self._shown = False
