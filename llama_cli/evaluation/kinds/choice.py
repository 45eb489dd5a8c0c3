"""Pick the likeliest of several continuations, by one of four rules.

LLaMA, section 3: the answer is "the completion with the highest likelihood given the provided
context ... normalized by the number of characters in the completion" (Gao et al., 2021), "except
for certain datasets (OpenBookQA, BoolQ), for which we follow Brown et al. (2020), and select a
completion based on the likelihood normalized by the likelihood of the completion given 'Answer:'
as context: P(completion|context)/P(completion|"Answer:")".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llama_cli.errors import LlamaError
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.small import small_values
from llama_cli.evaluation.task import Mark, Row, Tools, each

Normalize = Literal["none", "characters", "tokens", "prior"]
Continuation = str | tuple[str, str]  # with what stands before it and is not scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Rank continuations; the first of equals is picked.

    `normalize` says by what: the likelihood itself ("none"), a character ("characters"; the space
    that joins a choice to its prompt is not counted), a token ("tokens", the order of
    perplexities), or beside the likelihood after `alone` only ("prior").
    """

    choices: Callable[[Row], Sequence[Continuation]]
    gold: Callable[[Row], int]
    normalize: Normalize = "characters"
    alone: str = "Answer:"
    metric: str = "accuracy"
    stop: Sequence[str] = ()
    needs: Sequence[str] = ()

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for the likelihood of each choice, and for "prior" of each alone."""
        choices = [each if isinstance(each, tuple) else ("", each) for each in self.choices(row)]
        if len(choices) < 2:
            raise ValueError(f"{len(choices)} options to choose from")
        gold = self.gold(row)
        if not 0 <= gold < len(choices):
            raise ValueError(f"label {gold} is outside its {len(choices)} options")
        pairs = [(prompt + before, text) for before, text in choices]
        if self.normalize == "prior":
            pairs += [(self.alone, text) for _, text in choices]
        return Request("", "", "score", gold, pairs=pairs)

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Mark each response."""
        return each(self.mark, responses)

    def mark(self, response: Response) -> Mark:
        """Pick, and tell by how much the gold answer leads and in how many bits a byte it is said.

        `margin` is in nats, normalised as the task is; `gold_bits_per_byte` is not normalised.
        """
        values = self._values(response)
        picked, gold = values.index(max(values)), response.request.gold
        beside = small_values(
            values, gold, logprob=response.logprobs[gold], text=response.request.pairs[gold][1]
        )
        return Mark({self.metric: float(picked == gold), **beside}, answer=picked)

    def _values(self, response: Response) -> list[float]:
        logprobs, pairs = response.logprobs, response.request.pairs
        if self.normalize == "prior":
            half = len(pairs) // 2
            halves = zip(logprobs[:half], logprobs[half:], strict=True)
            return [after - alone for after, alone in halves]
        return [
            value / length for value, length in zip(logprobs, self._lengths(response), strict=True)
        ]

    def _lengths(self, response: Response) -> Sequence[int]:
        pairs = response.request.pairs
        if self.normalize == "characters":
            return [max(1, len(text.removeprefix(" "))) for _, text in pairs]
        if self.normalize == "none":
            return [1] * len(pairs)
        if len(response.tokens) != len(pairs):
            request = response.request
            raise LlamaError(
                f"{request.task} {request.id}: the model does not say how many tokens it scored, "
                "and this task is decided by perplexity"
            )
        return [max(1, count) for count in response.tokens]
