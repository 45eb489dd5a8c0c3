"""What grading needs beside responses: a sandbox, opened when the first program comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from llama_cli.evaluation.sandbox.pool import Pool
from llama_cli.evaluation.sandbox.result import Result
from llama_cli.evaluation.sandbox.tiers import choose, open_pool, tried
from llama_cli.evaluation.task import Scorer, Task, Tools


@contextmanager
def open_tools(
    *, unsafe: bool = False, jobs: int = 1, scorers: Mapping[str, Scorer] | None = None
) -> Iterator[Tools]:
    """Give the tools of this machine, and let go of them at the end."""
    with ExitStack() as stack:
        pools: list[Pool] = []

        def run(programs: Iterable[str]) -> Iterator[Result]:
            if not pools:
                tier = choose(tried(), unsafe=unsafe)
                pools.append(stack.enter_context(open_pool(tier=tier, jobs=jobs)))
            return pools[0].run(programs)

        yield Tools(scorers or {}, run)


def need(tasks: Iterable[Task], tools: Tools) -> None:
    """See that all is there to grade with, before a model works for hours.

    Raises:
        NotReadyError: a scorer is missing, or there is no sandbox.
    """
    for name in dict.fromkeys(name for task in tasks for name in task.kind.needs):
        if name != "sandbox":
            tools.scorer(name)
        elif tools.run:
            list(tools.run(["pass"]))
