"""Sequences in the order of training.

The order on disk is the order of training, so a position is one number: the sequence with
which a step begins is (step - 1) * batch, modulo what there is. Nothing but the step needs to
be kept for an exact continuation.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.records import Sequence
from llama_cli.shards.formats import MANIFEST
from llama_cli.shards.read import Shards
from llama_cli.shards.write import ShardWriter
from llama_cli.stream.reader import read_lines, shown


class Sequences:
    """The sequences of a shard directory, all of one length.

    Raises:
        LlamaError: it holds documents, nothing, or sequences of several lengths.
    """

    def __init__(self, directory: Path) -> None:
        self.shards = Shards(directory)
        if self.shards.kind != "sequences":
            raise LlamaError(
                f"{directory} holds {self.shards.kind}, not sequences",
                hint=f"llama mix {directory} -o mixed",
            )
        lengths = self.shards.lengths
        if not len(lengths):
            raise LlamaError(f"{directory} holds no sequence")
        if lengths.min() != lengths.max() or lengths.min() < 2:
            raise LlamaError(
                f"{directory}: sequences of {lengths.min()} to {lengths.max()} tokens, "
                "where training needs one length of at least 2"
            )
        self.length = int(lengths[0]) - 1  # positions with a next token
        self.vocab_size = self.shards.vocab_size
        self.tokenizer_sha256 = self.shards.tokenizer_sha256
        # the manifest holds the checksum of every file beside it
        self.fingerprint = sha256((directory / MANIFEST).read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, step: int, size: int) -> Tensor:
        """Give the sequences (size, length + 1) of step `step`, counted from 1.

        Raises:
            LlamaError: a token is not in the vocabulary.
        """
        start = (step - 1) * size
        return self.rows(range(start, start + size))

    def rows(self, numbers: range) -> Tensor:
        """Give the sequences of these numbers; past the last comes the first."""
        tokens = np.stack([self.shards[number % len(self)] for number in numbers])
        if tokens.max() >= self.vocab_size:
            raise LlamaError(
                f"{self.shards.directory}: token {tokens.max()} in the sequences from number "
                f"{numbers.start} is not in the vocabulary of {self.vocab_size}"
            )
        return torch.from_numpy(tokens.astype(np.int64))


def keep(where: str, directory: Path, *, vocab_size: int, tokenizer_sha256: str | None) -> None:
    """Write JSON lines of sequences into a shard directory, 2 bytes a token.

    Raises:
        TooManyRejects: a line is no sequence, is not as long as the first, or names a token outside
            the vocabulary.
        LlamaError: there is no line.
    """
    length = 0
    with ShardWriter(
        directory, kind="sequences", vocab_size=vocab_size, tokenizer_sha256=tokenizer_sha256
    ) as shards:
        for _, number, line in read_lines([where]):
            try:
                sequence = Sequence.from_json(line)
                length = length or len(sequence.tokens)
                if length < 2:
                    raise ValueError("a sequence has at least 2 tokens")
                if len(sequence.tokens) != length:
                    raise ValueError(f"{len(sequence.tokens)} tokens, where the first has {length}")
                shards.add(sequence.tokens, "+".join(sequence.sources))
            except ValueError as error:
                raise TooManyRejects(f"{shown(where)}:{number}: {error}") from None
        if not length:
            raise LlamaError(f"{shown(where)} holds no sequence", hint="llama train --data mixed")


def first_rows(where: str, count: int, *, length: int, vocab_size: int) -> Tensor:
    """Give the first `count` sequences of a shard directory or of JSON lines, for validation.

    Raises:
        LlamaError: there is none, or they are of another length or vocabulary.
    """
    rows = list(islice(_rows(where), count))
    if not rows:
        raise LlamaError(f"{shown(where)} holds no sequence")
    for row in rows:
        if len(row) != length + 1:
            raise LlamaError(
                f"{shown(where)}: a sequence of {len(row)} tokens, where training has {length + 1}",
                hint=f"llama mix --length {length}",
            )
        if row.max() >= vocab_size:
            raise LlamaError(
                f"{shown(where)}: token {row.max()} is not in the vocabulary of {vocab_size}"
            )
    return torch.from_numpy(np.stack(rows))


def _rows(where: str) -> Iterator[NDArray[np.int64]]:
    if Path(where).is_dir():
        shards = Sequences(Path(where)).shards
        yield from (shards[number].astype(np.int64) for number in range(len(shards)))
        return
    for _, number, line in read_lines([where]):
        try:
            yield np.array(Sequence.from_json(line).tokens, np.int64)
        except ValueError as error:
            raise TooManyRejects(f"{shown(where)}:{number}: {error}") from None
