"""Completing prompts and scoring continuations with a model.

Completing is the matter of `batch`, and how the model is run of `network`. Scoring pads on the
right, which causal attention never sees: a row gets what it would get alone, up to rounding.
Legend: B batch, L length, d width, V vocabulary, N scored tokens of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise

import torch
from torch import Tensor

from llama_cli.inference.batch import HEAD, Batch
from llama_cli.inference.network import Network
from llama_cli.inference.rows import Request, Row, Settings, completion, rows_of, text
from llama_cli.inference.text import settled
from llama_cli.model.transformer import Transformer
from llama_cli.records import Completion, Prompt
from llama_cli.tokenizer.bpe import Tokenizer

__all__ = ["Engine", "Pair", "Request", "Settings"]

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a context, and of what continues it

FORWARD = 8192  # tokens that are scored in one pass; ours


class Engine:
    """A model and its tokenizer, ready to complete and to score.

    The engine takes the model's weights over (`network`). With `quantize` they are kept in eight
    bits, and it completes only. `deterministic` is as there. A `clock` is asked for the timings
    of completions.

    Raises:
        ValueError: the tokenizer is not the model's.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        quantize: bool = False,
        deterministic: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if model.config.vocab_size != tokenizer.vocab_size:
            raise ValueError(
                f"the model has {model.config.vocab_size:,} pieces, "
                f"its tokenizer {tokenizer.vocab_size:,}"
            )
        self.network = Network(model.eval(), quantize=quantize, deterministic=deterministic)
        self.model, self.tokenizer, self.clock = model, tokenizer, clock
        self.context = model.config.context

    # -- completing --

    def generate(self, prompts: Iterable[Prompt], settings: Settings) -> Iterator[Completion]:
        """Complete each prompt, in order. A prompt as long as the context gets no tokens."""
        requests = (Request(prompt, settings) for prompt in prompts)
        return self.answer(requests, batch=settings.batch, ahead=settings.ahead)

    def answer(
        self, requests: Iterable[Request], *, batch: int, ahead: int
    ) -> Iterator[Completion]:
        """Complete requests, each as it asks, in order: first all samples of the first."""
        rows = chain.from_iterable(map(self._rows, requests))
        running = Batch(self.network, self.tokenizer, size=batch, clock=self.clock)
        pending: deque[Row] = deque()  # in order; those that have ended wait for the first
        waiting: deque[Row] = deque()
        while True:
            new = list(islice(rows, ahead - len(pending)))
            pending += new
            waiting += [row for row in new if row.runs]
            if not pending:
                return
            while pending[0].runs:
                running.step(waiting)
            yield self._completion(pending.popleft())

    def stream(self, prompt: Prompt, settings: Settings, sample: int = 0) -> Iterator[str]:
        """Yield the text of one completion as it is settled."""
        row, sent = next(islice(self._rows(Request(prompt, settings)), sample, None)), 0
        running, waiting = Batch(self.network, self.tokenizer, size=1), deque([row])
        while row.runs:
            running.step(waiting)
            shown = text(row, self.tokenizer)
            end = len(shown) if row.finish else settled(shown, settings.stop)
            if end > sent:
                yield shown[sent:end]
                sent = end

    def fits(self, prompt: Prompt) -> bool:
        """Say whether the context has room for a token after the prompt."""
        return len(self.tokenizer.encode(prompt.prompt)) < self.context

    def _rows(self, request: Request) -> Iterator[Row]:
        return rows_of(request, self.tokenizer, self.context, self.clock)

    def _completion(self, row: Row) -> Completion:
        return completion(row, self.tokenizer)

    # -- scoring --

    def loglikelihood(self, pairs: Sequence[Pair], *, batch: int = 16) -> list[float]:
        """Give ln p(continuation | context) of each pair, summed over its tokens.

        Raises:
            ValueError: a context is empty, or a pair is longer than context + 1 tokens.
        """
        for context, continuation in pairs:
            if not context or len(context) + len(continuation) > self.context + 1:
                raise ValueError(
                    f"a pair of {len(context)} and {len(continuation)} tokens does not fit "
                    f"1 to {self.context + 1}"
                )
        order = [i for i, (_, continuation) in enumerate(pairs) if continuation]
        order.sort(key=lambda i: sum(map(len, pairs[i])))
        scores = [0.0] * len(pairs)
        while order:
            longest = sum(map(len, pairs[order[-1]]))
            size = max(1, min(batch, FORWARD // longest))
            order, now = order[:-size], order[-size:]
            for i, score in zip(now, self._score([pairs[i] for i in now]), strict=True):
                scores[i] = score
        return scores

    @torch.inference_mode()
    def _score(self, pairs: Sequence[Pair]) -> list[float]:
        rows = [[*context, *continuation] for context, continuation in pairs]
        longest = max(map(len, rows))
        padded = [[*row, *[Tokenizer.eos] * (longest - len(row))] for row in rows]
        tokens_BL = torch.tensor(padded, device=self.network.device)
        states_BLd = self.model.states(tokens_BL[:, :-1])
        spans = [(len(context), len(row)) for (context, _), row in zip(pairs, rows, strict=True)]
        # the head is most of a small model: it reads only the states before scored tokens
        parts = zip(states_BLd, tokens_BL, spans, strict=True)
        wanted = [(x[i - 1 : j - 1], tokens[i:j]) for x, tokens, (i, j) in parts]
        logp_N = self._logp(*map(torch.cat, zip(*wanted, strict=True)))
        ends = list(accumulate(j - i for i, j in spans))
        return [float(logp_N[i:j].sum()) for i, j in pairwise([0, *ends])]

    def _logp(self, states_Nd: Tensor, tokens_N: Tensor) -> Tensor:
        """Give ln p of each token after the state before it, in double precision."""
        logp_N = torch.empty(len(tokens_N), dtype=torch.float64)
        for at in range(0, len(tokens_N), HEAD):
            logits_NV = self.model.output(states_Nd[at : at + HEAD]).float()
            chosen_N = logits_NV.gather(1, tokens_N[at : at + HEAD, None])[:, 0]
            logp_N[at : at + HEAD] = chosen_N - logits_NV.logsumexp(-1)
        return logp_N
