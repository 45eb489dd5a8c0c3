"""Spread a function over processes of this machine, results in input order.

Items travel in small chunks and only a few are under way at a time, so memory does not
grow with the input. The function reaches the workers by fork, not by pickle; results come
back by pickle.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from llama_cli.errors import LlamaError

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # chunks under way for each worker; ours: one in hand, one waiting
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_work: Callable[[Any], Any] | None = None


def spread(function: Callable[[T], R], items: Iterable[T], *, jobs: int) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, from `jobs` processes (0: all cores).

    >>> list(spread(abs, [-1, 2], jobs=1))
    [1, 2]

    Raises:
        LlamaError: a worker died, as when memory runs out.
    """
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:
        return map(function, items)
    return _pooled(function, items, jobs)


def _pooled(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, context, _start, (function, os.getpid()))
    under_way: deque[Future[R]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(_call, item))
            if len(under_way) > AHEAD * jobs:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        raise LlamaError(
            "a worker process died (out of memory?)", hint=f"fewer processes: -j {jobs // 2 or 1}"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(function: Callable[[Any], Any], parent: int) -> None:
    global _work  # a worker has one function for life
    _work = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # a parent killed outright must not leave workers behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)
