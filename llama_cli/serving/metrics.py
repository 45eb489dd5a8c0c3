"""What a server counts, in the text form that Prometheus reads.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds; ours


@dataclass(slots=True)
class Histogram:
    """How many values are up to each of BOUNDS, and beyond."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one; a value on a bound is up to it."""
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        """Write it."""
        count = 0
        for bound, more in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            count += more
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {count}"


@dataclass(slots=True)
class Metrics:
    """Only the event loop writes here."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by path and status
    read: int = 0  # tokens of prompts
    made: int = 0  # tokens of completions
    first_token: Histogram = field(default_factory=Histogram)  # seconds since the request

    def text(self, *, running: int, waiting: int) -> str:
        """Write all, with the rows that run and wait now."""
        return "\n".join([*self._lines(running, waiting), ""])

    def _lines(self, running: int, waiting: int) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests by path and HTTP status.")
        for (path, status), count in sorted(self.requests.items()):
            yield f'llama_requests_total{{path="{path}",status="{status}"}} {count}'
        singles = (
            ("prompt_tokens_total", "counter", "Tokens of prompts that were taken.", self.read),
            ("completion_tokens_total", "counter", "Tokens that were made.", self.made),
            ("rows_running", "gauge", "Completions in the batch.", running),
            ("rows_waiting", "gauge", "Completions that wait for a place in it.", waiting),
        )
        for name, kind, help_, value in singles:
            yield from _head(name, kind, help_)
            yield f"llama_{name} {value}"
        name = "first_token_seconds"
        yield from _head(name, "histogram", "From the request to the first token of each row.")
        yield from self.first_token.lines(f"llama_{name}")


def _head(name: str, kind: str, help_: str) -> Iterator[str]:
    yield f"# HELP llama_{name} {help_}"
    yield f"# TYPE llama_{name} {kind}"
