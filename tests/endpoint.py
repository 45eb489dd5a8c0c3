"""A server that speaks OpenAI's completions, by a tiny model, and fails as it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from llama_cli.inference.engine import Engine, Settings
from llama_cli.inference.openai import TEXT, read_call
from llama_cli.tokenizer.template import Template


@dataclass
class Endpoint:
    """What the server is to do, and what it was asked."""

    engine: Engine
    faults: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)  # status and headers
    least: int = 0  # tokens it insists on making
    hang: int = 0  # calls that it leaves without an answer
    token: str = ""
    scores: bool = True  # it tells logprobs of prompts
    calls: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one call."""
        body = orjson.loads(await request.read())
        self.calls.append(body)
        if self.hang:
            self.hang -= 1
            await asyncio.sleep(30)
        if self.faults:
            status, headers = self.faults.popleft()
            return web.Response(status=status, headers=headers, text="not now")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text='{"error": "who are you?"}')
        if body["max_tokens"] < self.least:
            return web.Response(status=400, text=f"max_tokens is at least {self.least}")
        if body.get("echo") and not self.scores:
            body = {**body, "logprobs": None}
        return web.json_response(self.complete(body))

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Let the model complete."""
        line = orjson.dumps({"custom_id": "x", "url": TEXT, "body": body})
        tokenizer = self.engine.tokenizer
        call = read_call(line, settings=Settings(), tokenizer=tokenizer, template=Template())
        made = list(self.engine.answer(call.requests, batch=4, ahead=64))
        return dict(call.answer(made).body)


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serve on a port that is free, from a thread."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/completions", endpoint.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield endpoint
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
