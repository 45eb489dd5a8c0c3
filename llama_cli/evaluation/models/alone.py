"""How much a score depends on what is scored beside it: some rows again, each by itself.

Sums in another order differ in their last digits. What remains is to be under 1e-4 nats: more
would be a mistake in how rows share their computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from llama_cli.evaluation.models.answering import Answering
from llama_cli.evaluation.models.local import Local
from llama_cli.evaluation.request import Response


@dataclass(slots=True)
class Alone:
    """The first `rows` that were scored."""

    rows: int
    scored: list[Response] = field(default_factory=list)

    def watch(self, responses: Iterable[Response]) -> Iterator[Response]:
        """Pass responses on."""
        for each in responses:
            if each.request.kind == "score" and len(self.scored) < self.rows:
                self.scored.append(each)
            yield each

    def largest(self, model: Local) -> float:
        """Score each again, and give the largest difference, in nats."""
        by_itself = Local(model.engine, bos=model.bos, budget=1)  # a group is one request
        again = Answering(by_itself)(each.request for each in self.scored)
        return max(
            (
                abs(together - alone)
                for one, other in zip(self.scored, again, strict=True)
                for together, alone in zip(one.logprobs, other.logprobs, strict=True)
            ),
            default=0.0,
        )
