"""The code length that a model gives to whole texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.task import Mark, Row, Tools, each


@dataclass(frozen=True, slots=True)
class Documents:
    """Add up the bits of texts and their UTF-8 bytes; the figure is the ratio of the sums."""

    normalize: str = "bytes"
    stop: Sequence[str] = ()
    needs: Sequence[str] = ()

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for the likelihood of the text after the begin mark alone."""
        return Request("", "", "score", None, pairs=[("", row["text"])])

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Measure each."""
        return each(_measured, responses)


def _measured(response: Response) -> Mark:
    text = response.request.pairs[0][1]
    values = {
        "bits": -response.logprobs[0] / math.log(2),
        "bytes": float(len(text.encode("utf-8", "surrogatepass"))),
    }
    return Mark(values, meta={"tokens": response.tokens[0]} if response.tokens else {})
