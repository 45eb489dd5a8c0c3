"""The documents to mix: one or more directories of shards as one list, split by source.

Memory: 13 bytes a document (length, source, number), twice while it is split; tokens stay on disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from llama_cli.errors import LlamaError
from llama_cli.mixture.table import TABLE
from llama_cli.records import Tokens
from llama_cli.shards.formats import Array
from llama_cli.shards.read import Shards
from llama_cli.shards.write import ShardWriter


def parse_known(line: bytes, *, vocab_size: int) -> Tokens:
    """Read a line of Tokens.

    Raises:
        ValueError: it is none, or an id is outside the vocabulary.
    """
    record = Tokens.from_json(line)
    if record.tokens and (top := max(record.tokens)) >= vocab_size:
        raise ValueError(f"token {top} is outside the {vocab_size} of the tokenizer")
    return record


def packed(record: Tokens) -> tuple[str, Array]:
    """Keep of a record what a mixture needs, in an eighth of the memory of a list."""
    return record.source, np.array(record.tokens, np.uint32)


def spool(
    documents: Iterable[tuple[str, Array]],
    directory: Path,
    vocab_size: int,
    tokenizer_sha256: str,
) -> None:
    """Keep a stream of documents on disk, where it can be drawn from in any order."""
    with ShardWriter(
        directory, kind="documents", vocab_size=vocab_size, tokenizer_sha256=tokenizer_sha256
    ) as shards:
        for source, tokens in documents:
            shards.add(tokens, source)


class Corpus:
    """Documents of several shard directories, in order."""

    def __init__(self, shards: Sequence[Shards], tokenizer_sha256: str | None = None) -> None:
        """Join directories that one tokenizer made: the one of this checksum, if given.

        Raises:
            LlamaError: they differ in their tokenizer, or are mixed already.
        """
        _check(shards, tokenizer_sha256)
        self._shards = shards
        self._starts = list(accumulate(map(len, shards), initial=0))
        self.vocab_size = shards[0].vocab_size
        self.tokenizer_sha256 = shards[0].tokenizer_sha256
        self.lengths = np.concatenate([part.lengths for part in shards])
        names = {name for part in shards for name in part.sources}
        place = {name: number for number, name in enumerate(TABLE)}
        self.sources = sorted(names, key=lambda name: (place.get(name, len(place)), name))
        self.documents = {name: self._of(name) for name in self.sources}
        self.tokens = {
            name: int(self.lengths[rows].sum(dtype=np.int64))
            for name, rows in self.documents.items()
        }

    def __getitem__(self, number: int) -> Array:
        part = bisect_right(self._starts, number) - 1
        return self._shards[part][number - self._starts[part]]

    def _of(self, name: str) -> Array:
        """Numbers of the documents of a source."""
        rows = [
            np.flatnonzero(part.codes == part.sources.index(name)) + start
            for part, start in zip(self._shards, self._starts, strict=False)
            if name in part.sources
        ]
        return np.concatenate(rows)


def _check(shards: Sequence[Shards], tokenizer_sha256: str | None) -> None:
    first = shards[0]
    for part in shards:
        if part.kind != "documents":
            raise LlamaError(
                f"{part.directory} is a mixture already",
                hint=f"llama train --data {part.directory}",
            )
        if tokenizer_sha256 and part.tokenizer_sha256 != tokenizer_sha256:
            raise LlamaError(f"{part.directory} was not made by this tokenizer")
        known = (part.vocab_size, part.tokenizer_sha256)
        if known != (first.vocab_size, first.tokenizer_sha256):
            raise LlamaError(
                f"{first.directory} and {part.directory} were made by different tokenizers"
            )
