"""The speed of `filter` and the memory of its whole process tree on 1 GB of JSON lines."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import corpus, measure
from tests.bench.run import Row
from tests.shell import LLAMA, ROOT

SIZE = 1_000_000_000  # bytes
LIMIT = 300_000_000  # bytes, promised for -j 2


def rows() -> Iterator[Row]:
    """Filter 1 GB as code, as crawled text, with its paragraphs deduplicated, and against rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        benchmark = _benchmark(folder / "rows.jsonl")
        against = f"--against {benchmark}"
        for source, option in (("github", ""), ("common_crawl", ""), ("books", against)):
            path = corpus.write(folder / f"{source}.jsonl", SIZE, source=source)
            cost = measure.run(
                f"{LLAMA} filter -q -j 2 {option} {path} > /dev/null",
                folder,
                env={"PYTHONPATH": str(ROOT)},
            )
            path.unlink()
            speed = SIZE / 1e6 / cost.seconds
            ours = f"{speed:.0f} MB/s, peak {cost.peak_bytes / 1e6:.0f} MB"
            told = "`filter -j 2 --against` 10,000 rows" if option else "`filter -j 2`"
            what = f"{told}, 1 GB of `{source}` (promise: under 300 MB)"
            yield Row(what, ours, "300 MB", LIMIT / cost.peak_bytes)


def _benchmark(path: Path) -> Path:
    """Write 10,000 rows of 9 to 60 words."""
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(20_000)]
    with path.open("w") as file:
        for _ in range(10_000):
            text = " ".join(draw.choices(vocabulary, k=draw.randint(9, 60)))
            file.write(json.dumps({"question": text}) + "\n")
    return path
