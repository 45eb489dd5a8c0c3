"""A request for completions, from its body to the last byte of its answer.

The event loop only passes things on: bodies are cut into tokens, and answers put into JSON, on
other threads, and the model has one for itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llama_cli.records import Completion
from llama_cli.serving.answers import Stream, event, whole
from llama_cli.serving.calls import Asked, Reader
from llama_cli.serving.exchange import Left, read_body
from llama_cli.serving.limits import Limits
from llama_cli.serving.metrics import Metrics
from llama_cli.serving.refusal import Refused, busy, failed, late
from llama_cli.serving.worker import Job, News, Worker

STREAMED = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # for nginx, which would hold parts back
]


@dataclass(slots=True)
class Service:
    """What all requests share."""

    reader: Reader
    worker: Worker
    clock: Callable[[], float]  # seconds since 1970
    metrics: Metrics = field(default_factory=Metrics)
    requests: int = 0  # under way
    rows: int = 0  # of requests under way

    @property
    def limits(self) -> Limits:
        """Give what is taken at most."""
        return self.reader.limits

    @contextmanager
    def a_request(self) -> Iterator[None]:
        """Count a request while it is under way: else bodies would be held without bound."""
        if self.requests >= self.reader.places:
            raise busy(f"{self.requests:,} requests are under way; none more is taken")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Take places for rows."""
        if self.rows + count > self.reader.places:
            raise busy(f"{self.rows:,} completions are under way, of {self.reader.places:,} taken")
        self.rows += count
        try:
            yield
        finally:
            self.rows -= count


class Completing:
    """The page of completions, or of conversations."""

    def __init__(self, service: Service, *, chat: bool) -> None:
        self.service, self.chat = service, chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with self.service.a_request():
            try:
                await self._within_time(scope, receive, sending)
            except Refused as error:
                if not started:
                    raise
                await send(_part(event(error.body()), last=True))

    async def _within_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        try:
            async with asyncio.timeout(service.limits.seconds):
                raw = await read_body(Request(scope, receive), service.limits)
                asked = await asyncio.to_thread(service.reader.read, raw, chat=self.chat)
                with service.places(len(asked.rows)):
                    await _answer(service, asked, scope, receive, send)
        except TimeoutError:
            raise late(service.limits.seconds) from None


async def _answer(
    service: Service, asked: Asked, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have the rows completed, as long as the client is there."""
    inbox = _Inbox(service.metrics)
    job = Job(asked.rows, asked.stream, inbox.put)
    watching = asyncio.create_task(_watch(receive, inbox))
    service.metrics.read += asked.read
    service.worker.submit(job)
    try:
        if asked.stream:
            await _stream(service, asked, inbox, send)
        else:
            response = await _whole(service, asked, inbox)
            await response(scope, receive, send)
    finally:
        watching.cancel()
        service.worker.drop(job)


class _Inbox:
    """News of the rows of one request."""

    def __init__(self, metrics: Metrics) -> None:
        self._queue: asyncio.Queue[News | None] = asyncio.Queue()
        self._metrics = metrics

    def put(self, news: News | None) -> None:
        """Take news in; None is that the client has gone."""
        self._queue.put_nowait(news)

    async def get(self) -> News:
        """Wait for news.

        Raises:
            Left: the client has gone.
            Refused: the model has failed.
        """
        news = await self._queue.get()
        if news is None:
            raise Left
        if news.failure:
            raise failed(news.failure)
        if news.first_token is not None:
            self._metrics.first_token.add(news.first_token)
        return news


async def _watch(receive: Receive, inbox: _Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.put(None)


def _named(service: Service) -> dict[str, str]:
    return {"name": f"cmpl-{secrets.token_hex(12)}", "model": service.reader.model}


async def _whole(service: Service, asked: Asked, inbox: _Inbox) -> Response:
    found: dict[int, Completion] = {}
    while len(found) < len(asked.rows):
        news = await inbox.get()
        if news.completion:
            found[news.row] = news.completion
    body = await asyncio.to_thread(
        whole,
        asked,
        [found[index] for index in range(len(found))],
        created=int(service.clock()),
        tokenizer=service.reader.tokenizer,
        **_named(service),
    )
    return Response(body, media_type="application/json")


async def _stream(service: Service, asked: Asked, inbox: _Inbox, send: Send) -> None:
    stream = Stream(
        asked,
        created=int(service.clock()),
        tokenizer=service.reader.tokenizer,
        **_named(service),
    )
    await send({"type": "http.response.start", "status": 200, "headers": STREAMED})
    await send(_part(b"".join(stream.begin())))
    running = len(asked.rows)
    while running:
        news = await inbox.get()
        running -= bool(news.finish)
        part = b"".join(stream.add(news))
        if part:
            await send(_part(part))
    await send(_part(b"".join(stream.end()), last=True))


def _part(body: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}
