"""Completing prompts and scoring continuations with a model.

Completing is the matter of `batch`, scoring of `likelihood`, and how the model is run of `backend`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from llama_cli.inference.backend import Backend
from llama_cli.inference.batch import Batch
from llama_cli.inference.likelihood import Likelihood, Pair, likelihoods
from llama_cli.inference.rows import Request, Row, Settings, completion, rows_of, text
from llama_cli.inference.text import settled
from llama_cli.records import Completion, Prompt
from llama_cli.tokenizer.bpe import Tokenizer

__all__ = ["Engine", "Pair", "Request", "Settings"]

SPARE = 1024  # pieces that a model may have more than its tokenizer; ours


class Engine:
    """A model that can be run and its tokenizer, ready to complete and to score.

    A `clock` is asked for the timings of completions. A model may have more pieces than its
    tokenizer, as when its vocabulary is rounded up; they are never said.

    Raises:
        ValueError: the tokenizer is not the model's.
    """

    def __init__(
        self, network: Backend, tokenizer: Tokenizer, *, clock: Callable[[], float] | None = None
    ) -> None:
        pieces = network.config.vocab_size
        if not 0 <= pieces - tokenizer.vocab_size <= SPARE:
            raise ValueError(
                f"the model has {pieces:,} pieces, its tokenizer {tokenizer.vocab_size:,}"
            )
        self.network, self.tokenizer, self.clock = network, tokenizer, clock
        self.context = network.config.context

    # -- completing --

    def generate(self, prompts: Iterable[Prompt], settings: Settings) -> Iterator[Completion]:
        """Complete each prompt, in order. A prompt as long as the context gets no tokens.

        Raises:
            LlamaError: the model gives no numbers, once all prompts before are completed.
        """
        requests = (Request(prompt, settings) for prompt in prompts)
        return self.answer(requests, batch=settings.batch, ahead=settings.ahead)

    def answer(
        self, requests: Iterable[Request], *, batch: int, ahead: int
    ) -> Iterator[Completion]:
        """Complete requests, each as it asks, in order: first all samples of the first.

        Where no more can be read, those that could be are completed before the error is raised.

        Raises:
            LlamaError: as above.
        """
        problems: list[Exception] = []
        rows = _until(chain.from_iterable(map(self._rows, requests)), problems)
        running = Batch(self.network, self.tokenizer, size=batch, clock=self.clock)
        pending: deque[Row] = deque()  # in order; those that have ended wait for the first
        waiting: deque[Row] = deque()
        while True:
            new = list(islice(rows, ahead - len(pending)))
            pending += new
            waiting += [row for row in new if row.runs]
            if not pending:
                break
            while pending[0].runs:
                running.step(waiting)
            yield self._completion(pending.popleft())
        if problems:
            raise problems[0]

    def stream(self, request: Request, sample: int = 0) -> Iterator[str]:
        """Yield the text of one completion as it is settled."""
        row, sent = next(islice(self._rows(request), sample, None)), 0
        settings = request.settings
        running, waiting = Batch(self.network, self.tokenizer, size=1), deque([row])
        while row.runs:
            running.step(waiting)
            shown = text(row, self.tokenizer)
            end = len(shown) if row.finish else settled(shown, settings.stop)
            if end > sent:
                yield shown[sent:end]
                sent = end
        completion(row, self.tokenizer)  # raises, if it has failed

    def fits(self, request: Request) -> bool:
        """Say whether the context has room for a token after the prompt."""
        ids = request.ids or self.tokenizer.encode(request.prompt.prompt)
        return len(ids) < self.context

    def _rows(self, request: Request) -> Iterator[Row]:
        return rows_of(request, self.tokenizer, self.context, self.clock)

    def _completion(self, row: Row) -> Completion:
        return completion(row, self.tokenizer)

    # -- scoring --

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[float]:
        """Give ln p(continuation | context) of each pair, summed over its tokens.

        Raises:
            ValueError: a context is empty, or a pair is longer than context + 1 tokens.
        """
        return [each.logprob for each in self.score(pairs)]

    def score(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Give that, and whether each token was the likeliest; what pairs share is computed once.

        Raises:
            ValueError: as above.
        """
        for context, continuation in pairs:
            if not context or len(context) + len(continuation) > self.context + 1:
                raise ValueError(
                    f"a pair of {len(context)} and {len(continuation)} tokens does not fit "
                    f"1 to {self.context + 1}"
                )
        return likelihoods(self.network, pairs)


def _until(rows: Iterator[Row], problems: list[Exception]) -> Iterator[Row]:
    """Pass rows on until there are no more, or reading them fails, which is left in `problems`."""
    try:
        yield from rows
    except Exception as problem:
        problems.append(problem)
