"""A server in a thread of this process, on a free port, with a tiny model."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from llama_cli.inference.backend import take_over
from llama_cli.inference.batch import Batch
from llama_cli.inference.engine import Engine
from llama_cli.inference.rows import Settings
from llama_cli.serving.address import bind
from llama_cli.serving.calls import Reader
from llama_cli.serving.completing import Service
from llama_cli.serving.limits import Limits
from llama_cli.serving.server import Server
from llama_cli.serving.worker import Worker
from llama_cli.tokenizer.template import Template
from tests.tiny import tiny_model, tiny_tokenizer

MODEL = "tiny"


@dataclass
class Running:
    """A server that runs."""

    port: int
    service: Service
    bound: socket.socket
    server: Server
    said: list[str] = field(default_factory=list)

    @property
    def held(self) -> tuple[int, ...]:
        """Requests, rows, connections and tasks of now; no pages but those of completions."""
        state = self.server._uvicorn.server_state
        worker = self.service.worker
        rows = (self.service.rows, worker.running, worker.waiting)
        return (self.service.requests, *rows, len(state.connections), len(state.tasks))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(
        self, body: Any = b"", path: str = "/v1/completions", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Send a body, as JSON if it is no bytes, and give status, headers and text."""
        return self.ask("POST", path, body, **headers)

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, None if body is None else data, names)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read().decode()
        finally:
            connection.close()

    def connect(self, request: bytes = b"") -> socket.socket:
        """Open a connection, and send something."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(request)
        return connection


@contextmanager
def serving(
    *,
    engine: Engine | None = None,
    settings: Settings | None = None,
    limits: Limits | None = None,
    tokens: tuple[str, ...] = (),
    batch: int = 4,
) -> Iterator[Running]:
    """Serve until the block ends, and then stop as after a SIGTERM."""
    engine, limits = engine or Engine(take_over(tiny_model()), tiny_tokenizer()), limits or Limits()
    reader = Reader(
        model=MODEL,
        tokenizer=engine.tokenizer,
        template=Template(),
        settings=settings or Settings(),
        context=engine.context,
        limits=limits,
        places=batch + limits.waiting,
        clock=time.monotonic,
    )
    said: list[str] = []
    service = Service(
        reader, Worker(engine, size=batch, clock=time.monotonic, say=said.append), clock=time.time
    )
    bound, ready = bind("127.0.0.1", 0, anywhere=False), threading.Event()
    server = Server(service, bound, tokens=tokens, say=said.append, ready=ready.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(30), said
        yield Running(bound.getsockname()[1], service, bound, server, said)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


class Held:
    """Steps of a batch that wait until they are let go."""

    def __init__(self, monkeypatch: Any) -> None:
        self.go = threading.Event()
        step = Batch.step

        def wait(batch: Batch, waiting: Any) -> None:
            batch._admit(waiting)  # so that they count as running
            assert self.go.wait(30)
            step(batch, waiting)

        monkeypatch.setattr(Batch, "step", wait)


def until(true: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for something, and fail if it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
