"""A model on this machine, through `inference.engine`.

Pairs of one group are scored in one call, in which the engine computes once what several begin
with: the header of few-shot prompts, then the question. A pair that several rows ask for, such as
" yes" after "Answer:", is scored once. What a pair or a prompt gets depends on itself alone, and a
draw on the row's seed and name, whatever is answered beside it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama_cli.errors import LlamaError
from llama_cli.evaluation.encode import encode_pairs, fit_pair, windows
from llama_cli.evaluation.models.answering import Answer, Asked
from llama_cli.evaluation.models.store import digest
from llama_cli.evaluation.request import Request
from llama_cli.inference.engine import Engine, Pair
from llama_cli.inference.rows import Request as Wanted
from llama_cli.inference.rows import Settings
from llama_cli.records import Prompt

BUDGET = 16_384  # tokens of a group, what begins alike counted once; ours


@dataclass(frozen=True, slots=True)
class Ids:
    """A request as token ids."""

    pairs: Sequence[Sequence[Pair]] = ()  # of each pair its windows, of which there is mostly one
    prompt: tuple[int, ...] = ()

    @property
    def rows(self) -> Iterator[Sequence[int]]:
        """Give what goes through the model."""
        if self.prompt:
            yield self.prompt
        for own in self.pairs:
            yield from ([*context, *continuation] for context, continuation in own)


class Local:
    """An engine as a model of an evaluation.

    Args:
        engine: the model and its tokenizer.
        name: as responses tell it.
        bos: whether a context begins with the begin mark, as in training.
        batch: completions that grow together.
        budget: tokens that are computed, and kept, together.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str = "",
        bos: bool = True,
        batch: int = 16,
        budget: int = BUDGET,
    ) -> None:
        self.engine, self.name, self.bos = engine, name, bos
        self.batch, self.budget = batch, budget

    def prepare(self, request: Request) -> Asked[Ids]:
        """Encode.

        Raises:
            LlamaError: a continuation alone is longer than the context.
        """
        if request.kind == "score":
            return self._scored(request)
        return self._completed(request)

    def cost(self, asked: Asked[Ids], before: Asked[Ids] | None) -> int:
        """Count the tokens that do not begin as those before them did, and those to be made."""
        seen = list(before.form.rows)[-1] if before and any(before.form.rows) else ()
        total = asked.request.samples * asked.request.max_tokens if asked.form.prompt else 0
        for row in asked.form.rows:
            total += len(row) - alike(row, seen)
            seen = row
        return max(1, total)

    def answer(self, groups: Iterator[list[Asked[Ids]]]) -> Iterator[list[Answer]]:
        """Score and complete."""
        for group in groups:
            scored = iter(self._score([each for each in group if each.request.kind == "score"]))
            made = iter(self._complete([each for each in group if each.request.kind != "score"]))
            yield [next(scored if each.request.kind == "score" else made) for each in group]

    # -- scoring --

    def _scored(self, request: Request) -> Asked[Ids]:
        whole = encode_pairs(self.engine.tokenizer, request.pairs, bos=self.bos)
        try:
            texts = zip(request.pairs, whole, strict=True)
            cut = [self._cut(pair, context) for (context, _), pair in texts]
        except ValueError as error:
            raise LlamaError(f"{request.task}, row {request.id}: {error}") from None
        truncated = any(
            len(own) == 1 and own[0] != each for own, each in zip(cut, whole, strict=True)
        )
        return Asked(request, Ids(cut), digest("score", cut), truncated=truncated)

    def _cut(self, pair: Pair, context: str) -> list[Pair]:
        """Fit a pair to the model's context, or, if it is a text of its own, cut it into windows.

        Raises:
            ValueError: the continuation alone is too long.
        """
        if context or len(pair[1]) <= self.engine.context:
            return [fit_pair(pair, self.engine.context)]
        return list(windows([*pair[0], *pair[1]], self.engine.context))

    def _score(self, group: Sequence[Asked[Ids]]) -> Iterator[Answer]:
        every = (pair for each in group for own in each.form.pairs for pair in own)
        pairs = {_key(pair): pair for pair in every}
        found = dict(zip(pairs, self.engine.score(list(pairs.values())), strict=True))
        for each in group:
            told = [[found[_key(pair)] for pair in own] for own in each.form.pairs]
            yield Answer(
                logprobs=[math.fsum(each.logprob for each in own) for own in told],
                greedy=[all(each.greedy for each in own) for own in told],
                tokens=[sum(len(scored) for _, scored in own) for own in each.form.pairs],
            )

    # -- completing --

    def _completed(self, request: Request) -> Asked[Ids]:
        whole = self.engine.tokenizer.encode(request.prompt, bos=self.bos or not request.prompt)
        ids = fit_prompt(whole, self.engine.context, request.max_tokens, bos=self.bos)
        settings: list[object] = [request.max_tokens, request.stop, request.samples]
        if request.temperature > 0:  # the name decides the draws, with the seed
            name = _name(request)
            settings += [request.temperature, request.top_p, request.seed, name]
        key = digest("complete", ids, settings)
        return Asked(request, Ids(prompt=tuple(ids)), key, truncated=ids != whole)

    def _complete(self, group: Sequence[Asked[Ids]]) -> Iterator[Answer]:
        order = sorted(range(len(group)), key=lambda i: _packed(group[i].form.prompt))
        wanted = [_wanted(group[i], batch=self.batch) for i in order]
        ahead = max(self.batch, sum(each.settings.samples for each in wanted))
        made = self.engine.answer(wanted, batch=self.batch, ahead=ahead)
        found: dict[int, list[str]] = {}
        for i, each in zip(order, wanted, strict=True):
            found[i] = [next(made).completion for _ in range(each.settings.samples)]
        for i, asked in enumerate(group):
            repeated = found[i] * (asked.request.samples // len(found[i]))
            yield Answer(completions=repeated)


def alike(ids: Sequence[int], others: Sequence[int]) -> int:
    """Count the tokens that both begin with.

    >>> alike([1, 2, 3], [1, 2, 4, 5])
    2
    """
    shorter = min(len(ids), len(others))
    return next((i for i in range(shorter) if ids[i] != others[i]), shorter)


def fit_prompt(ids: list[int], context: int, made: int, *, bos: bool) -> list[int]:
    """Drop the beginning of a prompt, but for its begin mark, so that `made` tokens fit after it.

    Half of the context is the prompt's, however many are asked for.

    >>> fit_prompt([1, 5, 6, 7], 6, 3, bos=True), fit_prompt([5, 6, 7], 6, 4, bos=False)
    ([1, 6, 7], [5, 6, 7])
    """
    room = max(context - made, context // 2, 1)
    if len(ids) <= room:
        return ids
    return [*ids[:bos], *ids[len(ids) - room + bos :]]


def _wanted(asked: Asked[Ids], *, batch: int) -> Wanted:
    request = asked.request
    settings = Settings(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=tuple(request.stop),
        samples=request.samples if request.temperature > 0 else 1,  # greedy ones are all the same
        batch=batch,
    )
    return Wanted(Prompt(_name(request), request.prompt), settings, ids=asked.form.prompt)


def _name(request: Request) -> str:
    return f"{request.task}/{request.id}"


def _packed(ids: Sequence[int]) -> bytes:
    """Pack ids so that those which begin alike sort together, quickly."""
    return array("I", ids).tobytes()


def _key(pair: Pair) -> tuple[bytes, bytes]:
    return _packed(pair[0]), _packed(pair[1])
