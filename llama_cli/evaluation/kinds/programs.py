"""Complete code, run it with its tests in a sandbox, and estimate pass@k.

LLaMA, section 3.5: "pass@1 ... obtained with temperature 0.1, pass@100 and pass@80 with
temperature 0.8", by the unbiased estimator of Chen et al., 2021.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llama_cli.errors import NotReadyError
from llama_cli.evaluation.programs import pass_at_k
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.sandbox.result import Result
from llama_cli.evaluation.task import Mark, Row, Tools, naming


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Draw `samples` programs a row; `program` puts one together from the row and a completion.

    `fields` of the row go into the request, for grading.
    """

    program: Callable[[Row, str], str]
    fields: Sequence[str]
    k: int
    samples: int
    temperature: float
    stop: Sequence[str]
    max_tokens: int = 512  # ours: the paper gives none
    top_p: float = 0.95  # ours: that of Chen et al.
    normalize: str = "tests pass"
    needs: Sequence[str] = ("sandbox",)

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for completions of the prompt."""
        return Request(
            "",
            "",
            "complete",
            {name: row[name] for name in self.fields},
            prompt=prompt,
            stop=self.stop,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            samples=self.samples,
        )

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Run each program; a row is marked when its last one has ended.

        Raises:
            NotReadyError: there is nothing to run them with.
        """
        if tools.run is None:
            raise NotReadyError("no sandbox to run programs in", hint="llama eval sandbox-check")
        waiting: deque[Response] = deque()

        def programs() -> Iterator[str]:
            for response in responses:
                waiting.append(response)
                for completion in response.completions:
                    with naming(response):
                        program = self.program(response.request.gold, completion)
                    yield program

        results = tools.run(programs())
        for first in results:
            response = waiting.popleft()
            yield self._mark([first, *islice(results, response.request.samples - 1)])

    def _mark(self, results: list[Result]) -> Mark:
        passed, k = sum(result.passed for result in results), min(self.k, len(results))
        outcomes = Counter(result.outcome for result in results)
        return Mark(
            {f"pass@{k}": pass_at_k(len(results), passed, k)},
            answer=dict(sorted(outcomes.items())),
            meta={"tier": results[0].tier},
        )
