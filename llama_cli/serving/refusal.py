"""What a client is told when it gets no answer, in OpenAI's form.

    {"error": {"message": "...", "type": "invalid_request_error", "param": null, "code": null}}

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson
from starlette.responses import Response

from llama_cli.inference.openai import error

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
NONE: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """An answer that is an error: its HTTP status, and what was wrong in one line."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = NONE,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers)

    def body(self) -> dict[str, Any]:
        """Give the JSON of it.

        >>> Refused(404, "no such model", code="model_not_found").body()["error"]["type"]
        'invalid_request_error'
        """
        known = "invalid_request_error" if self.status < 500 else "server_error"
        kind = KINDS.get(self.status, known)
        return error(self.message, kind=kind, param=self.param, code=self.code)


def busy(message: str) -> Refused:
    """Ask a client to come again in a second."""
    return Refused(429, message, code="rate_limit_exceeded", headers={"Retry-After": "1"})


def late(seconds: float) -> Refused:
    """Give up an answer that takes too long; to ask again would take as long."""
    message = f"no whole answer within {seconds:g} seconds; ask for fewer tokens"
    return Refused(504, message, code="timeout", headers={"x-should-retry": "false"})


def failed(reason: str) -> Refused:
    """Tell that the model could not do it."""
    return Refused(500, f"the model failed: {reason}", headers={"x-should-retry": "false"})


def as_json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a response of JSON."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def as_response(refused: Refused) -> Response:
    """Make the response that tells of it."""
    return as_json(refused.body(), refused.status, refused.headers)
