"""How long `llama --help` takes, beside Python that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.run import Row

ROUNDS = 15


def rows() -> Iterator[Row]:
    """Time both in turns."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(_seconds([sys.executable, "-c", "pass"]))
        ours.append(_seconds([sys.executable, "-m", "llama_cli", "--help"]))
    mine, python = statistics.median(ours), statistics.median(bare)
    yield Row(
        "`llama --help` (peer: `python -c pass`)",
        f"{mine * 1e3:.0f} ms",
        f"{python * 1e3:.0f} ms",
        python / mine,
    )


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start
