"""The speed of `filter` and the memory of its whole process tree on 1 GB of JSON lines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import corpus, measure
from tests.bench.run import Row
from tests.shell import LLAMA, ROOT

SIZE = 1_000_000_000  # bytes
LIMIT = 300_000_000  # bytes, promised for -j 2


def rows() -> Iterator[Row]:
    """Filter 1 GB as code, and as crawled text, whose paragraphs are deduplicated too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in ("github", "common_crawl"):
            path = corpus.write(folder / f"{source}.jsonl", SIZE, source=source)
            cost = measure.run(
                f"{LLAMA} filter -q -j 2 {path} > /dev/null", folder, env={"PYTHONPATH": str(ROOT)}
            )
            path.unlink()
            speed = SIZE / 1e6 / cost.seconds
            ours = f"{speed:.0f} MB/s, peak {cost.peak_bytes / 1e6:.0f} MB"
            what = f"`filter -j 2`, 1 GB of `{source}` (promise: under 300 MB)"
            yield Row(what, ours, "300 MB", LIMIT / cost.peak_bytes)
