"""A model of ours, or one read as ours, as what answers requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

from llama_cli.errors import LlamaError
from llama_cli.evaluation.encode import encode_pair, fit_pair, windows
from llama_cli.evaluation.request import Request, Response
from llama_cli.inference.engine import Engine, Pair
from llama_cli.inference.rows import Request as Wanted
from llama_cli.inference.rows import Settings
from llama_cli.records import Prompt

Model = Callable[[Iterable[Request]], Iterator[Response]]

AHEAD = 8  # batches of requests read ahead, to put those of one length together; ours


def local(engine: Engine, *, name: str = "", batch: int = 16) -> Model:
    """Let an engine answer requests, in order."""

    def answer(requests: Iterable[Request]) -> Iterator[Response]:
        requests = iter(requests)
        while ahead := list(islice(requests, batch * AHEAD)):
            for kind, part in groupby(ahead, key=lambda request: request.kind):
                work = _score if kind == "score" else _complete
                yield from work(list(part), engine, name, batch)

    return answer


def _score(requests: list[Request], engine: Engine, name: str, batch: int) -> Iterator[Response]:
    cut = [[_pairs(pair, engine) for pair in request.pairs] for request in requests]
    pairs = [pair for own in cut for parts, _ in own for pair in parts]
    scores = iter(engine.loglikelihood(pairs, batch=batch))
    for request, own in zip(requests, cut, strict=True):
        yield Response(
            request,
            model=name,
            logprobs=[sum(islice(scores, len(parts))) for parts, _ in own],
            tokens=[sum(len(scored) for _, scored in parts) for parts, _ in own],
            truncated=any(truncated for _, truncated in own),
            bos=True,
        )


def _pairs(pair: tuple[str, str], engine: Engine) -> tuple[list[Pair], bool]:
    """Give ids to score, and whether the context lost its beginning."""
    context, continuation = pair
    if not context:
        ids = engine.tokenizer.encode(continuation)
        return list(windows(ids, engine.context)), False
    whole = encode_pair(engine.tokenizer, context, continuation)
    try:
        fitted = fit_pair(whole, engine.context)
    except ValueError as error:
        raise LlamaError(f"this model cannot be asked: {error}") from None
    return [fitted], fitted != whole


def _complete(requests: list[Request], engine: Engine, name: str, batch: int) -> Iterator[Response]:
    fitted = [_prompt(request, engine) for request in requests]
    wanted = (
        Wanted(Prompt(request.id, prompt), _settings(request))
        for request, prompt in zip(requests, fitted, strict=True)
    )
    completions = engine.answer(wanted, batch=batch, ahead=batch * AHEAD)
    for request, prompt in zip(requests, fitted, strict=True):
        texts = [each.completion for each in islice(completions, request.samples)]
        truncated = prompt != request.prompt
        yield Response(request, model=name, completions=texts, truncated=truncated, bos=True)


def _settings(request: Request) -> Settings:
    return Settings(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=tuple(request.stop),
        samples=request.samples,
    )


def _prompt(request: Request, engine: Engine) -> str:
    """Drop the beginning of a prompt that leaves no room for what is asked."""
    ids, room = engine.tokenizer.encode(request.prompt), engine.context - request.max_tokens
    if len(ids) <= max(room, 2):
        return request.prompt
    return engine.tokenizer.decode(ids[len(ids) - max(room, 2) + 1 :])
