"""What a server takes at most, so that no client can make it grow, or wait for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """All of it is ours; each is an option of `llama generate --serve`."""

    body: int = 1 << 20  # bytes of a request
    prompt: int | None = None  # tokens; None is what the context takes
    waiting: int = 256  # completions that wait for a place in the batch
    seconds: float = 600.0  # from the request to the end of its answer
    patience: float = 30.0  # seconds for a client to send its request, or to read on


STOPS = 16  # stop strings of a request; ours
STOP = 256  # characters of one; ours
LIKELIEST = 100  # alternatives told to each token; ours
TOLD = 500_000  # of all tokens of a request: some 65 MB; ours
