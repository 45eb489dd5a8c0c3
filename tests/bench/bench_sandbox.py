"""Programs a second in each sandbox, beside a bare `python -I -S` on the same programs.

One worker and one program at a time, so that what is compared is the price of a sandbox and not
the number of cores. The floor that was set is 0.4 of the bare rate, a fresh sandbox for each.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from llama_cli.evaluation.sandbox.pool import Pool
from llama_cli.evaluation.sandbox.tiers import TIERS, open_pool, why_not
from llama_cli.evaluation.sandbox.view import interpreter
from tests.bench.run import Row

ROUNDS = 15
PROGRAMS = (  # such as a model writes: with and without imports, quick and slow
    """
def f(n):
    return n % 2

assert f(3) == 1
""",
    """
from typing import List

def f(a: List[int]) -> int:
    return sum(a)

assert f([1, 2]) == 3
""",
    """
import re

def f(s):
    return re.findall('[a-z]+', s)

assert f('ab 1 c') == ['ab', 'c']
""",
    """
def f(n):
    return [p for p in range(2, n) if all(p % d for d in range(2, p) if d * d <= p)]

assert len(f(500)) == 95
""",
)


def rows() -> Iterator[Row]:
    """Time bare Python and every sandbox of this machine in turns."""
    with ExitStack() as stack:
        pools = {
            tier: stack.enter_context(open_pool(tier=tier)) for tier in TIERS if not why_not(tier)
        }
        for pool in pools.values():
            _run(pool)  # the first starts what the others are forked from
        rounds = [
            (
                _milliseconds(_bare),
                {tier: _milliseconds(partial(_run, pools[tier])) for tier in pools},
            )
            for _ in range(ROUNDS)
        ]
    for tier in pools:
        yield Row(
            f"a program in `{tier}` (peer: bare `python -I -S`)",
            f"{statistics.median(ours[tier] for _, ours in rounds):.1f} ms",
            f"{statistics.median(bare for bare, _ in rounds):.1f} ms",
            statistics.median(bare / ours[tier] for bare, ours in rounds),
        )


def _bare() -> None:
    for program in PROGRAMS:
        command = [interpreter(), "-I", "-S", "-c", program]
        subprocess.run(command, check=True, capture_output=True)


def _run(pool: Pool) -> None:
    assert all(result.passed for result in pool.run(PROGRAMS))


def _milliseconds(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3 / len(PROGRAMS)
