"""A model behind an endpoint that speaks OpenAI's completions: vLLM, SGLang, llama.cpp and others.

    POST {url}/completions  {"model": …, "prompt": …, "max_tokens": 0, "echo": true, "logprobs": 1}

A pair is scored by letting the endpoint repeat it with the logarithms of its own tokens, of which
those of the continuation are added up. An endpoint that must make a token makes one, which is not
counted. Busy or broken endpoints are asked again, later each time, or when they say.
https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from llama_cli.errors import LlamaError, one_line
from llama_cli.evaluation.models.answering import Answer, Asked
from llama_cli.evaluation.models.store import digest
from llama_cli.evaluation.request import Request
from llama_cli.inference.text import cut

TRIES = 8  # of one call; ours
LONGEST = 60.0  # seconds between two tries, unless the endpoint says more; ours
AHEAD = 4  # requests begun for each that may run, so that a slow one holds nobody up; ours
STOPS = 4  # that OpenAI's take; the others are cut here
SHOWN = 200  # characters of what an endpoint says; ours
AGAIN = {408, 409, 425, 429}  # statuses to ask again after, besides 500 and above

Object = Mapping[str, Any]


class _Refused(Exception):
    """The endpoint will not do this, however often it is asked."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """A text as an endpoint tells it."""

    tokens: Sequence[str]
    logprobs: Sequence[float | None]
    top: Sequence[Mapping[str, float] | None]


class OpenAI:
    """An endpoint.

    Args:
        url: up to and with /v1.
        model: the name that the endpoint knows it by; one with a single model needs none.
        token: for the Authorization header, if one is needed.
        parallel: calls at a time.
        timeout: seconds for one call.
        say: is told why a call is made again.
        sleep: waits; a test need not.
    """

    bos = None
    budget = 1  # each answer is kept as it comes

    def __init__(
        self,
        url: str,
        model: str,
        *,
        token: str = "",
        parallel: int = 8,
        timeout: float = 600,
        say: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url, self.name = f"{url.rstrip('/')}/completions", model or url
        self.named = {"model": model} if model else {}
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.parallel, self.timeout, self.say, self.sleep = parallel, timeout, say, sleep
        self.least = 0  # tokens it must make to score
        self.told = ""

    def prepare(self, request: Request) -> Asked[None]:
        """Name what the answer depends on: the texts, and how to sample."""
        if request.kind == "score":
            return Asked(request, None, digest("score", request.pairs))
        sampling = [request.max_tokens, request.stop, request.temperature, request.top_p]
        key = digest("complete", request.prompt, *sampling, request.samples, request.seed)
        return Asked(request, None, key)

    def cost(self, asked: Asked[None], before: Asked[None] | None) -> int:
        """Count a request."""
        return 1

    def answer(self, groups: Iterator[list[Asked[None]]]) -> Iterator[list[Answer]]:
        """Ask for several at a time, and give them in order.

        Raises:
            LlamaError: the endpoint refuses, or does not answer.
        """
        waiting: deque[asyncio.Task[list[Answer]]] = deque()
        with asyncio.Runner() as runner:
            session = runner.run(self._open())
            try:
                for group in groups:
                    waiting.append(runner.get_loop().create_task(self._group(session, group)))
                    if len(waiting) >= AHEAD * self.parallel:
                        yield runner.run(_ended(waiting.popleft()))
                while waiting:
                    yield runner.run(_ended(waiting.popleft()))
            finally:
                runner.run(_dropped(waiting))
                runner.run(session.close())

    async def _open(self) -> aiohttp.ClientSession:
        self._gate = asyncio.Semaphore(self.parallel)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        return aiohttp.ClientSession(headers=self.headers, timeout=timeout)

    async def _group(
        self, session: aiohttp.ClientSession, group: Sequence[Asked[None]]
    ) -> list[Answer]:
        return [await self._one(session, each.request) for each in group]

    async def _one(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        act = self._score if request.kind == "score" else self._complete
        try:
            return await act(session, request)
        except _Refused as error:
            where = f"{self.url}, {request.task} {request.id}"
            raise LlamaError(f"{where}: {error}") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise LlamaError(f"{self.url}: not in the form of OpenAI's: {said}") from None

    # -- completing --

    async def _complete(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        count = request.samples if request.temperature > 0 else 1  # greedy ones are all the same
        body = {
            **self.named,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "n": count,
            "seed": request.seed,
            **({"stop": list(request.stop[:STOPS])} if request.stop else {}),
        }
        choices = (await self._post(session, body))["choices"]
        texts = [str(each["text"]) for each in sorted(choices, key=lambda each: each["index"])]
        if len(texts) != count:
            raise _Refused(f"{len(texts)} completions where {count} were asked for")
        made = [cut(text, request.stop) for text in texts]
        return Answer(completions=made * (request.samples // count))

    # -- scoring --

    async def _score(self, session: aiohttp.ClientSession, request: Request) -> Answer:
        scored = [await self._pair(session, *pair) for pair in request.pairs]
        logprobs, greedy, tokens = zip(*scored, strict=True) if scored else ((), (), ())
        return Answer(logprobs, greedy, tokens)

    async def _pair(
        self, session: aiohttp.ClientSession, context: str, continuation: str
    ) -> tuple[float, bool, int]:
        bare = context.rstrip()
        told = await self._echo(session, context + continuation)
        start = start_of(told.tokens, (context + continuation)[len(bare) :])
        if start is None:  # its tokens are not the text, as where bytes are named
            start = len((await self._echo(session, bare)).tokens) if bare else 0
        values = told.logprobs[start:]
        known = [value for value in values if value is not None]
        if len(known) < len(values) - (not bare):
            raise _Refused("no logprobs of some tokens of a prompt")
        parts = zip(values, told.top[start:], strict=True)
        likeliest = all(v is None or not top or v >= max(top.values()) for v, top in parts)
        return sum(known), likeliest, len(known)

    async def _echo(self, session: aiohttp.ClientSession, text: str) -> _Scored:
        """Let the endpoint repeat a text."""
        body = {**self.named, "prompt": text, "echo": True, "logprobs": 1, "temperature": 0}
        least = self.least
        try:
            reply = await self._post(session, {**body, "max_tokens": least})
        except _Refused:
            if least:
                raise
            least = 1
            reply = await self._post(session, {**body, "max_tokens": least})
            self.least = least
        told = reply["choices"][0].get("logprobs")
        if not told or not told.get("tokens"):
            raise _Refused("no logprobs of a prompt, so it completes and does not score")
        made = (reply.get("usage") or {}).get("completion_tokens", least)
        end = len(told["tokens"]) - made
        top = told.get("top_logprobs") or [None] * end
        return _Scored(told["tokens"][:end], told["token_logprobs"][:end], top[:end])

    # -- calling --

    async def _post(self, session: aiohttp.ClientSession, body: Object) -> Any:
        problem = ""
        for number in range(TRIES):
            try:
                async with self._gate, session.post(self.url, json=body) as reply:
                    if reply.status == 200:
                        return await reply.json(content_type=None)
                    said = _words(await reply.text())
                    problem, wait = f"{reply.status} {said}".strip(), _asked_wait(reply)
                    if reply.status not in AGAIN and reply.status < 500:
                        raise _Refused(problem)
            except TimeoutError:
                problem, wait = f"no answer in {self.timeout:g} s", 0.0
            except aiohttp.ClientError as error:
                problem, wait = _words(_lost(error)) or type(error).__name__, 0.0
            if number + 1 < TRIES:
                wait = max(wait, min(LONGEST, 2.0**number))
                self._tell(f"{self.url}: {problem}; again in {wait:g} s")
                await self.sleep(wait)
        raise LlamaError(f"{self.url}: {problem}, {TRIES} times", hint="the same command again")

    def _tell(self, line: str) -> None:
        """Say a line once, and not for each of the calls that wait for the same."""
        if line != self.told:
            self.say(line)
        self.told = line


def start_of(tokens: Sequence[str], text: str) -> int | None:
    """Say from which token on the tokens are exactly `text`; None if they never are.

    >>> start_of(["<s>", "A", "ns:", " y", "es"], " yes")
    3
    >>> start_of(["Ans:", "<0x0A>", "b"], "\\nb") is None
    True
    """
    held = ""
    for start in range(len(tokens), -1, -1):
        if len(held) >= len(text):
            return start if held == text else None
        held = tokens[start - 1] + held if start else held
    return None


def _asked_wait(reply: aiohttp.ClientResponse) -> float:
    """Read Retry-After, in seconds or as a date."""
    said = reply.headers.get("Retry-After", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _lost(error: aiohttp.ClientError) -> str:
    """Say why there is no connection, in the words of the system."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    number, said = error.os_error.errno or 0, error.os_error.strerror
    return f"no connection: {os.strerror(number) if number > 0 else said}"


def _words(text: str) -> str:
    return one_line(" ".join(text.split()))[:SHOWN]


async def _ended(task: asyncio.Task[list[Answer]]) -> list[Answer]:
    return await task


async def _dropped(tasks: deque[asyncio.Task[list[Answer]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
