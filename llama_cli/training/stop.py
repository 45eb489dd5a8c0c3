"""Stopping between two steps: SIGTERM, SIGUSR1 and Ctrl-C are noted, and asked about by the loop.

SIGUSR1 is what Slurm can be asked to send before the time of a job is up.

The second signal of a kind has its usual effect at once, for those who will not wait. Before the
first step there is nothing to save, and a signal ends the run at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from llama_cli.errors import Interrupted

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
    before = {number: _usual(signal.getsignal(number)) for number in ENDS}

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


def nothing_saved() -> Interrupted:
    """Tell of an end before there was anything to save."""
    return Interrupted("stopped before there was a checkpoint", hint="the same command again")


@contextmanager
def unsaved() -> Iterator[None]:
    """End at once at a signal that comes before `stoppable` waits for it; Ctrl-C does so anyway.

    Raises:
        Interrupted: one came.
    """
    before = {number: signal.getsignal(number) for number in ENDS if number != signal.SIGINT}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _AtOnce(handler))
    try:
        yield
    except _NothingYet:
        raise nothing_saved() from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _NothingYet(BaseException):
    """A signal came; not an Exception, which a library that is being loaded might catch."""


@dataclass(frozen=True, slots=True)
class _AtOnce:
    """What a signal does in `unsaved`, and what it usually does."""

    usual: Any

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        raise _NothingYet


def _usual(handler: Any) -> Any:
    return handler.usual if isinstance(handler, _AtOnce) else handler


def raise_as_usual(number: signal.Signals) -> None:
    """Let a signal do what it did before `unsaved`."""
    signal.signal(number, _usual(signal.getsignal(number)))
    signal.raise_signal(number)
