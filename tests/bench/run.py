"""`make bench`: ours beside the peer, in one run, as ratios.

    python tests/bench/run.py            every measurement but the last below
    python tests/bench/run.py start tokenize
    python tests/bench/run.py quality    the final loss, which takes a quarter of an hour

Prints a Markdown table with the machine, the versions and the command; with --save it is
added to docs/benchmarks.md under today's date. Machines are noisy: what is compared runs
in turns, and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

BENCHES = ("start", "filter", "tokenize", "train", "generate", "first", "sandbox", "eval")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: `ratio` is how many times better ours is, None without a peer."""

    what: str
    ours: str
    peer: str
    ratio: float | None


def table(names: list[str]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"\n## {datetime.now(UTC):%Y-%m-%d}, `python tests/bench/run.py {' '.join(names)}`\n"
    yield f"{machine()}; {versions()}\n"
    yield "| what | ours | peer | ratio |"
    yield "|---|---|---|---:|"
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        for row in importlib.import_module(f"tests.bench.bench_{name}").rows():
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            yield f"| {row.what} | {row.ours} | {row.peer} | {ratio} |"


def machine() -> str:
    """Name the processor, its cores and its memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{name}, {os.cpu_count()} cores, {gigabytes:.0f} GiB, Python {platform.python_version()}"
    )


def versions() -> str:
    """Name the libraries compared."""
    names = ("torch", "transformers", "sentencepiece", "zstandard", "orjson")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def main() -> None:
    """Measure what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(BENCHES), metavar="NAME")
    parser.add_argument("--save", action="store_true", help="add the table to docs/benchmarks.md")
    options = parser.parse_args()
    lines = []
    for line in table(options.names):
        print(line, flush=True)
        lines.append(line)
    if options.save:
        with PAGE.open("a") as page:
            page.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    # rows() makes tests.bench.run.Row; this file itself runs as __main__
    main()
