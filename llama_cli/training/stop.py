"""Stopping between two steps: SIGTERM, SIGUSR1 and Ctrl-C are noted, and asked about by the loop.

SIGUSR1 is what Slurm can be asked to send before the time of a job is up.

The second signal of a kind has its usual effect at once, for those who will not wait.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stop:
    """Which signal asked for the end, if any did."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Note `ENDS` while the context lasts."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in ENDS}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number)
        signal.signal(number, before[stop.signal])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
