"""Many programs at once, each in a sandbox of its own, with results in order."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.result import Result, judge
from llama_cli.evaluation.sandbox.watch import Ended

AHEAD = 4  # programs a worker that are read before their turn; ours


class Runner(Protocol):
    """What runs programs one after the other."""

    def run(self, program: str, token: str, limits: Limits) -> Ended:
        """Run one program, which reports the token at its end."""

    def stop(self) -> None:
        """End the program that another thread has running, and start no more."""

    def close(self) -> None:
        """Let go of what is held between programs; none runs any more."""


class Pool:
    """Run programs with several runners; leaving the `with` block ends them."""

    def __init__(self, tier: str, runners: Iterable[Runner], limits: Limits) -> None:
        self.tier, self.limits = tier, limits
        self._runners = list(runners)
        self._idle: SimpleQueue[Runner] = SimpleQueue()
        for runner in self._runners:
            self._idle.put(runner)
        self._threads = ThreadPoolExecutor(len(self._runners), thread_name_prefix="sandbox")

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for runner in self._runners:
            runner.stop()
        self._threads.shutdown(cancel_futures=True)
        for runner in self._runners:
            runner.close()

    def run(self, programs: Iterable[str]) -> Iterator[Result]:
        """Yield what became of each program, in order; a few are read ahead.

        Raises:
            LlamaError: a sandbox could not be made.
        """
        waiting: deque[Future[Result]] = deque()
        for program in programs:
            waiting.append(self._threads.submit(self._one, program))
            if len(waiting) >= AHEAD * len(self._runners):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _one(self, program: str) -> Result:
        token = secrets.token_hex(16)
        runner = self._idle.get()
        try:
            ended = runner.run(program, token, self.limits)
        finally:
            self._idle.put(runner)
        return judge(ended, token=token, limits=self.limits, tier=self.tier)
