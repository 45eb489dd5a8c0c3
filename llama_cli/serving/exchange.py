"""One request and its answer: who may ask, how its body comes, and how it ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_cli.inference.openai import CHAT, TEXT
from llama_cli.serving.bearer import check_origin, check_token
from llama_cli.serving.limits import Limits
from llama_cli.serving.refusal import Refused, as_response

HEALTH = "/health"
PATHS = (TEXT, CHAT, "/v1/models", "/metrics", HEALTH)  # those counted by name
LEFT = 499  # counted for a client that went away, as nginx does
LINGER = 2.0  # seconds to read on from a client that is refused, so that it reads why; ours


class Left(Exception):
    """The client has gone."""


class Gate:
    """Let in who may ask, and count how each request ended.

    Without `tokens` only this machine may ask. /health is open to all.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: tuple[str, ...], requests: Counter[tuple[str, int]]
    ) -> None:
        self.app, self.tokens, self.requests = app, tokens, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            self._check(Headers(scope=scope), scope["path"])
            await self.app(scope, exchange.receive, exchange.send)
        except Refused as error:
            await as_response(error)(scope, exchange.receive, exchange.send)
        except (Left, ClientDisconnect):
            exchange.status = LEFT
        except Exception:
            exchange.status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.requests[path, exchange.status] += 1

    def _check(self, headers: Headers, path: str) -> None:
        if path == HEALTH:
            return
        if self.tokens:
            check_token(headers.get("authorization"), self.tokens)
        else:
            check_origin(headers)


class _Exchange:
    """What is received and sent; an answer may be sent before the body has come.

    A connection that is closed over bytes that nobody read is reset, and with it what was sent.
    So whoever is refused is read from a little longer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._receive, self._send = receive, send
        self._unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self.status = LEFT

    async def receive(self) -> Message:
        """Take what comes next."""
        message = await self._receive()
        self._unread = self._unread and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send what is next."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._unread:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        elif self._unread and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while self._unread:
                        await self.receive()
            message = {**message, "body": b""}
        await self._send(message)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a body, and of one that is too long no more than is taken.

    Raises:
        Refused: it is too long, too slow, or packed.
    """
    too_long = Refused(413, f"a body of more than {limits.body:,} bytes", code="body_too_large")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.body:
        raise too_long
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "a body that is packed is not taken")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                body += part
                if len(body) > limits.body:
                    raise too_long
    except TimeoutError:
        message = f"the body has not come within {limits.patience:g} seconds"
        raise Refused(408, message, code="timeout") from None
    return bytes(body)
