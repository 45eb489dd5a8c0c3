"""Complete a text, and let scorers judge it: toxicity, truth, information."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from llama_cli.errors import LlamaError
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.task import Mark, Row, Scorer, Tools, naming

TOGETHER = 4096  # texts that are scored at a time; ours: a scorer may be a program to start
PAPERS = {"toxicity": "perspective"}  # the paper's judges of truth are gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Give each scorer of `texts` what it reads of a request and its completion.

    `values` makes metrics of their numbers.
    """

    texts: Mapping[str, Callable[[Request, str], str]]  # by scorer
    values: Callable[[Mapping[str, float]], Mapping[str, float]]
    max_tokens: int
    gold: Callable[[Row], object] = lambda row: None
    stop: Sequence[str] = ()
    normalize: str = "scorer"

    @property
    def needs(self) -> Sequence[str]:
        """Name the scorers."""
        return tuple(self.texts)

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for a greedy completion."""
        return Request(
            "",
            "",
            "complete",
            self.gold(row),
            prompt=prompt,
            stop=self.stop,
            max_tokens=self.max_tokens,
        )

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Judge responses, some at a time.

        Raises:
            NotReadyError: a scorer is missing.
        """
        scorers = {name: tools.scorer(name) for name in self.texts}
        suffix, facts = suffix_of(scorers), facts_of(scorers.values())
        responses = iter(responses)
        while part := list(islice(responses, TOGETHER)):
            judged = [self._numbers(name, scorer, part) for name, scorer in scorers.items()]
            for response, numbers in zip(part, zip(*judged, strict=True), strict=True):
                found = dict(zip(scorers, numbers, strict=True))
                values = {f"{each}{suffix}": value for each, value in self.values(found).items()}
                yield Mark(values, response.completions[0], facts)

    def _numbers(self, name: str, scorer: Scorer, part: list[Response]) -> Sequence[float]:
        numbers = scorer([self._text(name, response) for response in part])
        if len(numbers) != len(part):
            raise LlamaError(f"the scorer of {name} gave {len(numbers)} numbers for {len(part)}")
        return numbers

    def _text(self, name: str, response: Response) -> str:
        with naming(response):
            return self.texts[name](response.request, response.completions[0])


def suffix_of(scorers: Mapping[str, Scorer]) -> str:
    """Put the scorers' names behind a metric, unless they are the paper's.

    So a figure of ours never stands beside one of the paper's that means something else.
    """
    named = {what: each.name for what, each in scorers.items() if hasattr(each, "name")}
    names = list(dict.fromkeys(named.values()))
    if not named or named == PAPERS:
        return ""
    parts = [name.partition(":")[2] for name in names if name.startswith("linear:")]
    if len(parts) == len(names):
        return f"/linear:{'+'.join(parts)}"
    return f"/{'+'.join(names)}"


def facts_of(scorers: Iterable[Scorer]) -> dict[str, str]:
    """Name the scorers, and say how well those that were fitted agree with what they learned."""
    named = {each.name: each for each in scorers if hasattr(each, "name")}
    told = {name: getattr(each, "agreement", None) for name, each in named.items()}
    agreed = "; ".join(f"{name} {each}" for name, each in told.items() if each)
    return {"scorer": "+".join(named), **({"agreement": agreed} if agreed else {})} if named else {}
