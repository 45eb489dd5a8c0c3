"""Stopping between two steps: SIGTERM, SIGUSR1 and Ctrl-C are noted, and asked about by the loop.

SIGUSR1 is what Slurm can be asked to send before the time of a job is up.

The second signal of a kind has its usual effect at once, for those who will not wait.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
TWICE = 1.0  # seconds in which the same signal is the same message; ours


class Stop:
    """Which signal asked for the end, if any did."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    def first(self, number: int) -> bool:
        """Note a signal; False for a second one, which is to have its usual effect.

        What is sent to all processes of a job comes twice: directly, and through the launcher.
        """
        now = time.monotonic()
        again = self.signal == number and number != signal.SIGINT and now - self._since < TWICE
        if self.signal == number and not again:
            return False
        self.signal, self._since = signal.Signals(number), now
        return True


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Note `ENDS` while the context lasts."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in ENDS}

    def note(number: int, frame: FrameType | None) -> None:
        if not stop.first(number):
            signal.signal(number, before[signal.Signals(number)])
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
