"""The server's pages.

POST /v1/completions   /v1/chat/completions     GET /v1/models   /metrics   /health
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llama_cli.inference.openai import CHAT, TEXT
from llama_cli.serving.completing import Completing, Service
from llama_cli.serving.exchange import HEALTH, Gate
from llama_cli.serving.metrics import TYPE
from llama_cli.serving.refusal import Refused, as_json, as_response


def make_app(service: Service, *, tokens: tuple[str, ...] = ()) -> Starlette:
    """Put the pages together; without `tokens` only this machine may ask."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start(asyncio.get_running_loop().call_soon_threadsafe)
        try:
            yield
        finally:
            service.worker.stop()

    pages = _Pages(service)
    routes = [
        Route(TEXT, Completing(service, chat=False), methods=["POST"]),
        Route(CHAT, Completing(service, chat=True), methods=["POST"]),
        Route("/v1/models", pages.models),
        Route("/v1/models/{name:path}", pages.model),
        Route("/metrics", pages.metrics),
        Route(HEALTH, pages.health),
    ]
    gate = Middleware(Gate, tokens=tokens, requests=service.metrics.requests)
    handlers = {Refused: _refuse, HTTPException: _refuse_http, Exception: _fail}
    return Starlette(
        routes=routes, lifespan=lifespan, middleware=[gate], exception_handlers=handlers
    )


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return as_response(error)


def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return as_response(Refused(error.status_code, message, headers=error.headers or {}))


def _fail(request: Request, error: Exception) -> Response:
    return as_response(Refused(500, "a bug of ours; the server has said which"))


class _Pages:
    """What can be got."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.started = int(service.clock())

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return as_json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe it."""
        name, known = request.path_params["name"], self.service.reader.model
        if name != known:
            message = f"no model '{name}' here; there is '{known}'"
            raise Refused(404, message, code="model_not_found", param="model")
        return as_json(self._model())

    async def metrics(self, request: Request) -> Response:
        """Tell what was counted."""
        worker, metrics = self.service.worker, self.service.metrics
        metrics.made = worker.made
        text = metrics.text(running=worker.running, waiting=worker.waiting)
        return Response(text, headers={"Content-Type": TYPE})

    async def health(self, request: Request) -> Response:
        """Say whether the model runs."""
        if self.service.worker.runs:
            return as_json({"status": "ok"})
        return as_response(Refused(503, "the model has stopped"))

    def _model(self) -> dict[str, object]:
        reader = self.service.reader
        return {
            "id": reader.model,
            "object": "model",
            "created": self.started,
            "owned_by": "llama",
            "max_model_len": reader.context,
        }
