"""Sequences in the order of training.

The order on disk is the order of training, so a position is one number: the sequence with
which a step begins is (step - 1) * batch, modulo what there is. Nothing but the step needs to
be kept for an exact continuation, and each rank takes its own rows of the same batch.
Legend: B sequences, L positions with a next token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from math import inf
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.kernels.documents import document_bounds
from llama_cli.records import Sequence
from llama_cli.shards.formats import MANIFEST, Array
from llama_cli.shards.grow import GrowingReader
from llama_cli.shards.read import Shards
from llama_cli.stream.reader import read_lines, shown
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.batch import Batch
from llama_cli.training.keep import POLL, fail, failure, is_kept, stopped

LOOK = 1.0  # seconds between two looks whether the stream's keeper is alive; ours


class Data(Protocol):
    """What a run is trained on."""

    @property
    def length(self) -> int:
        """Positions of a sequence that have a next token, L."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def tokenizer_sha256(self) -> str | None:
        """Checksum of the .model file that made the tokens, where it is known."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tell these sequences from others."""
        ...

    @property
    def ended(self) -> bool:
        """Tell whether no more are to come."""
        ...

    def __len__(self) -> int:
        """Count those that are there."""
        ...

    def whole(self) -> int:
        """Wait until all are there, and count them."""
        ...

    def batch(self, step: int, size: int, rows: range | None = None) -> Batch:
        """Give these rows, or all, of the `size` sequences of step `step`, counted from 1.

        What they hold depends on nothing else, whoever asks.
        """
        ...


class Starved(LlamaError):
    """The stream has stopped before a step that needs more; every rank finds so at that step."""

    def __init__(self, cause: LlamaError) -> None:
        super().__init__(str(cause), hint=cause.hint)
        self.exit_code = cause.exit_code


class Sequences:
    """The sequences of a shard directory, all of one length.

    Raises:
        LlamaError: it holds documents, nothing, or sequences of several lengths.
    """

    ended = True

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
        self.length = int(lengths[0]) - 1
        self.vocab_size = self.shards.vocab_size
        self.tokenizer_sha256 = self.shards.tokenizer_sha256
        # the manifest holds the checksum of every file beside it
        self.fingerprint = sha256((directory / MANIFEST).read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.shards)

    def whole(self) -> int:
        """Count them."""
        return len(self)

    def batch(self, step: int, size: int, rows: range | None = None) -> Batch:
        """Give these rows, or all, of the sequences of step `step`, counted from 1.

        Raises:
            LlamaError: a token is not in the vocabulary.
        """
        return Batch(self.rows(numbers_of(step, size, rows)))

    def rows(self, numbers: range) -> Tensor:
        """Give the sequences of these numbers, (B, L + 1); past the last comes the first."""
        tokens = [self.shards[number % len(self)] for number in numbers]
        return known(tokens, self.vocab_size, f"{self.shards.directory}", numbers.start)


class Stream:
    """Sequences that `keep` keeps, of which more may be coming.

    Args:
        directory: RUN/data, in which at least one is whole.
        watch: notice when its keeper has gone, and tell all ranks; one of them does.
        say: told when the stream has ended, and is begun again.

    Raises:
        LlamaError: there is none yet.
    """

    def __init__(
        self, directory: Path, *, watch: bool = True, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.directory, self.watch, self.say = directory, watch, say
        self._reader = GrowingReader(directory)
        growth = self._reader.growth
        self.length = growth.width - 1
        self.vocab_size = growth.vocab_size
        self.tokenizer_sha256 = growth.tokenizer_sha256
        # of what is known from the start; the keeper compares all the rest
        about = f"{growth.width} {growth.vocab_size} {growth.tokenizer_sha256}"
        first = self._reader.row(0).tobytes()
        self.fingerprint = sha256(about.encode() + first).hexdigest()

    @property
    def ended(self) -> bool:
        """Tell whether all sequences are there, as far as can be known."""
        return self._reader.refresh().ended

    def __len__(self) -> int:
        return self._reader.refresh().sequences

    def whole(self) -> int:
        """Wait until all are there, and count them.

        Raises:
            Starved: the stream has stopped before its end.
        """
        self._wait_for(None)
        return len(self)

    def batch(self, step: int, size: int, rows: range | None = None) -> Batch:
        """Give these rows, or all, of the sequences of step `step`, once all ranks' have come.

        Raises:
            Starved: the stream has stopped before.
            LlamaError: it went wrong before, or a token is not in the vocabulary.
        """
        self._wait_for(step * size)
        numbers = numbers_of(step, size, rows)
        count = self._reader.growth.sequences
        tokens = [self._reader.row(number % count) for number in numbers]
        return Batch(known(tokens, self.vocab_size, f"{self.directory}", numbers.start))

    def _wait_for(self, count: int | None) -> None:
        """Wait until so many are there (None: all), or no more can come."""
        looked, wanted = time.monotonic(), inf if count is None else count
        while not self._has(wanted):
            if (error := failure(self.directory)) and not self._has(wanted):
                raise Starved(error)
            if self.watch and time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                self._look()
            time.sleep(POLL)
        if count is not None and self._reader.growth.sequences < count:
            self._tell(self._reader.growth.sequences)

    def _has(self, wanted: float) -> bool:
        if self._reader.growth.sequences >= wanted:
            return True
        growth = self._reader.refresh()
        return growth.sequences >= wanted or growth.ended

    def _look(self) -> None:
        if not is_kept(self.directory) and not self._reader.refresh().ended:
            fail(self.directory, stopped(self.directory))

    def _tell(self, count: int) -> None:
        self.say(f"the stream ended after {count:,} sequences: they are read again from the first")
        self.say = lambda _: None


def numbers_of(step: int, size: int, rows: range | None = None) -> range:
    """Number the sequences of a step, or those of its rows that are asked for.

    >>> numbers_of(3, 8), numbers_of(3, 8, range(2, 4))
    (range(16, 24), range(18, 20))
    """
    start = (step - 1) * size
    rows = range(size) if rows is None else rows
    return range(start + rows.start, start + rows.stop)


def known(tokens: list[Array], vocab_size: int, where: str, first: int) -> Tensor:
    """Join the sequences from number `first` on to (B, L + 1).

    Raises:
        LlamaError: a token is not in the vocabulary.
    """
    joined = np.stack(tokens)
    if joined.max() >= vocab_size:
        raise LlamaError(
            f"{where}: token {joined.max()} in the sequences from number {first} "
            f"is not in the vocabulary of {vocab_size}"
        )
    return torch.from_numpy(joined.astype(np.int64))


def apart(batch: Batch) -> Batch:
    """Keep the documents of each sequence from seeing each other.

    A document begins with the begin mark, or after an end mark where data have no other. What
    a token is predicted from changes; which tokens are predicted does not.

    >>> apart(Batch(torch.tensor([[7, 2, 1, 8, 9]]))).bounds[0].tolist()
    [[0, 0, 2, 2]]
    """
    inputs_BL = batch.tokens[:, :-1]
    begins_BL = inputs_BL == Tokenizer.bos
    begins_BL[:, 1:] |= inputs_BL[:, :-1] == Tokenizer.eos
    return replace(batch, bounds=bounds_of(begins_BL))


def bounds_of(begins_BL: Tensor) -> Tensor:
    """Give the bounds (2, B, L) of documents that begin where this is true, and in each row."""
    begins_BL = begins_BL.clone()
    begins_BL[:, 0] = True
    starts = begins_BL.flatten().nonzero()[:, 0]
    offsets = torch.cat((starts, starts.new_tensor([begins_BL.numel()])))
    return document_bounds(offsets, *begins_BL.shape)


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
