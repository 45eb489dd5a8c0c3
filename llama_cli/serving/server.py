"""From a socket to the end of the process: uvicorn, with patience for no client without end.

SIGTERM closes the socket, lets all that was begun be finished, and returns. A second one, or
SIGINT, ends the work at once, and the process by that signal.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llama_cli.serving.app import make_app
from llama_cli.serving.completing import Service

BACKLOG = 1024  # connections that wait to be accepted; ours
IDLE = 30  # seconds a connection is kept between two requests; ours
LOGGERS = ("uvicorn.error", "asyncio")


class Server:
    """What serves a `service` on a socket that is bound."""

    def __init__(
        self,
        service: Service,
        bound: socket.socket,
        *,
        tokens: tuple[str, ...],
        say: Callable[[str], None],
        ready: Callable[[], None],
    ) -> None:
        _tell_errors(say)
        config = uvicorn.Config(
            make_app(service, tokens=tokens),
            http=_patient(service.limits.patience),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=IDLE,
        )
        self._service, self._bound = service, bound
        self._uvicorn = _Uvicorn(config, ready)

    def run(self) -> None:
        """Serve until a signal comes, or `stop` is called from another thread."""
        try:
            with asyncio.Runner() as runner:
                runner.run(self._uvicorn.serve([self._bound]))
        except asyncio.CancelledError:  # at once
            if self._uvicorn.ended is None:
                raise
            signal.raise_signal(self._uvicorn.ended)
        self._service.worker.join()

    def stop(self) -> None:
        """Stop as after a SIGTERM."""
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Ends as a process of ours does."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready
        self.ended: int | None = None  # the signal that ends it at once

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while it serves."""
        loop, main = asyncio.get_running_loop(), asyncio.current_task()

        def handle(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGTERM and not self.should_exit:
                self.should_exit = True
            elif main is not None:
                self.ended = number
                for name in LOGGERS:  # that all is cancelled is no error
                    logging.getLogger(name).disabled = True
                loop.call_soon_threadsafe(main.cancel)

        before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's, or that of `&`
                    before[number] = signal.signal(number, handle)
        except ValueError:  # not in the main thread, which alone has signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Timer:
    """Does something once so many seconds have passed, unless it is stopped."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, function: Callable[[], object]) -> None:
        """Begin to wait, if it does not yet."""
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(self.seconds, function)

    def stop(self) -> None:
        """Wait no more."""
        if self._handle:
            self._handle.cancel()
            self._handle = None


def _patient(seconds: float) -> type[H11Protocol]:
    """Make a protocol that drops who sends no request, or reads no answer, for so long."""

    class Patient(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head, self._reading = _Timer(seconds), _Timer(seconds)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head.start(transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head.stop()  # the request has begun; its body has a time of its own
            else:
                self._head.start(self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading.start(self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._reading.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.stop()
            self._reading.stop()
            super().connection_lost(exc)

    return Patient


class _Errors(logging.Handler):
    """Say uvicorn's errors in our way."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say one, in a line."""
        error = record.exc_info[1] if record.exc_info else None
        words = f"{record.getMessage().strip().lower()}{f': {error!r}' if error else ''}"
        self.say(" ".join(words.split()))


def _tell_errors(say: Callable[[str], None]) -> None:
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.disabled = [_Errors(say)], False, False
