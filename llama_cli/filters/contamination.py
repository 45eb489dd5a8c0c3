"""Documents that hold text of a benchmark: marked, or dropped before a model is trained on them.

    metadata.contamination = {"rows": ["dev.jsonl:12"], "ngrams": 5, "of": 480}

The rule is that of Brown et al. (2020, appendix C): 13 words in a row, whatever their case and
punctuation; `llama_cli.overlap.index` has it in full. They take out the 13 words and 200 characters
around them. Here a document goes whole, or stays whole with a mark from which a later step can take
its own line: `ngrams` of its `of` n-grams are the benchmark's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama_cli.errors import LlamaError
from llama_cli.overlap.index import Index, build, find
from llama_cli.overlap.rows import read_texts
from llama_cli.records import Document, Rejected

NAMED = 5  # rows named in a mark; ours


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Rows to keep training data apart from: where each stands, and their n-grams."""

    names: Sequence[str]
    index: Index


def read_benchmark(paths: Iterable[Path], n: int) -> Benchmark:
    """Index the rows of files and directories.

    Raises:
        LlamaError: no row has a text that can be told.
    """
    names: list[str] = []

    def rows() -> Iterator[tuple[int, list[str]]]:
        for part, name, texts in read_texts(paths):
            names.append(name)
            yield part, texts

    index = build(rows(), n)
    if not index.told.any():
        raise LlamaError(f"no row of {len(names):,} is long enough to be told from other text")
    return Benchmark(names, index)


def keep_apart(document: Document, benchmark: Benchmark, *, remove: bool) -> Document | Rejected:
    """Mark a document that overlaps with a benchmark, and reject it if asked to."""
    overlap = find(benchmark.index, document.text)
    if overlap is None:
        return document
    mark = {
        "rows": [benchmark.names[row] for row in overlap.rows[:NAMED]],
        "ngrams": overlap.grams,
        "of": overlap.of,
    }
    marked = replace(document, metadata={**document.metadata, "contamination": mark})
    return Rejected(marked, "contamination", "overlap") if remove else marked
