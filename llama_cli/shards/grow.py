"""Sequences of one length on disk, that are read while more of them are being written.

    data/
      growing.json         how many sequences are whole, and whether more may come
      tokens-00000.bin     as in formats.py; a sequence's place follows from its number
      manifest.jsonl ...   once no more come: then it is a directory of shards as any other

Tokens are on the disk before `growing.json` counts them, and it is replaced, never changed, so
a reader on any machine sees whole sequences only, and a power cut leaves none that is not.
A stream that comes again after a stop is compared with what is kept, byte by byte, and what is
new in it is written behind.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_cli.errors import LlamaError
from llama_cli.shards.formats import MANIFEST, Array, Header, Shard, token_dtype
from llama_cli.shards.write import MAX_BYTES, OpenShard, codes_of, write_manifest

GROWING = "growing.json"


@dataclass(frozen=True, slots=True)
class Growth:
    """How far a directory has grown."""

    width: int  # tokens of each sequence
    vocab_size: int
    tokenizer_sha256: str | None
    in_shard: int  # sequences of each .bin but the last
    sequences: int = 0  # that are whole
    ended: bool = False  # no more will come
    checked: bool = False  # whoever writes has found the old beginning in the new stream

    @property
    def bytes(self) -> int:
        """Give the size of a sequence."""
        return self.width * token_dtype(self.vocab_size).itemsize

    def write(self, directory: Path) -> None:
        """Replace `growing.json`."""
        part = directory / f".{GROWING}.part"
        part.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        part.replace(directory / GROWING)

    @classmethod
    def read(cls, directory: Path) -> Growth | None:
        """Read `growing.json`; None if there is none.

        Raises:
            LlamaError: it is something else.
        """
        path = directory / GROWING
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise LlamaError(f"{path}: damaged", hint="llama train --run ANOTHER") from None


class Differs(ValueError):
    """A sequence is not the one that is kept in its place."""


class GrowingWriter:
    """Append sequences, or find them there already.

    >>> writer = GrowingWriter(path, Growth(2049, 32_000, None, 1000))  # doctest: +SKIP
    >>> writer.add(tokens, "books"); writer.publish(); writer.end()  # doctest: +SKIP
    """

    def __init__(self, directory: Path, growth: Growth) -> None:
        """Continue the directory, which exists; `growth` says what sequences it is for.

        Raises:
            Differs: the directory has sequences of another width, vocabulary or tokenizer.
        """
        held = Growth.read(directory)
        if held and _form(held) != _form(growth):
            raise Differs(f"{growth.width} tokens of {growth.vocab_size}, not as those before")
        self.directory = directory
        self.growth = replace(held or growth, ended=False, checked=False)
        self.kept = self.growth.sequences
        self.count = 0
        self._header = Header("sequences", growth.vocab_size, growth.tokenizer_sha256, [])
        self._codes = codes_of(self._header)
        self._shards: list[Shard] = []
        self._open: OpenShard | None = None

    def add(self, tokens: Array, source: str) -> None:
        """Take the next sequence; one that is kept already must be the same.

        Raises:
            Differs: it is not.
        """
        if self.count == self.kept:
            (self.directory / MANIFEST).unlink(missing_ok=True)  # it did not know of this one
        if self.count and self.count % self.growth.in_shard == 0:
            self._close_shard()
        if self._open is None:
            self._open = self._shard()
        data = tokens.astype(token_dtype(self.growth.vocab_size)).tobytes()
        if not self._open.add(data, source, self._codes(source)):
            raise Differs(f"sequence {self.count + 1:,} is another")
        self.count += 1

    def _shard(self) -> OpenShard:
        first = len(self._shards) * self.growth.in_shard
        kept = min(max(0, self.kept - first), self.growth.in_shard) * self.growth.bytes
        stem = self.directory / f"tokens-{len(self._shards):05d}"
        return OpenShard(stem, token_dtype(self.growth.vocab_size).itemsize, kept=kept)

    def _close_shard(self) -> None:
        if self._open:
            self._shards.append(self._open.close())
            self._open = None

    def publish(self, *, checked: bool = True) -> None:
        """Put on the disk what came, and count it."""
        if self._open:
            self._open.sync()
        self._tell(checked=checked)

    def end(self) -> None:
        """Say that no more will come, and make it a directory of shards.

        Raises:
            Differs: fewer came than are kept.
        """
        if self.count < self.kept:
            raise Differs(f"it ends after {self.count:,} of {self.kept:,} sequences")
        self._close_shard()
        write_manifest(self.directory, self._header, self._shards)
        self._tell(checked=True, ended=True)

    def _tell(self, **changes: Any) -> None:
        sequences = max(self.count, self.kept)
        self.growth = replace(self.growth, sequences=sequences, **changes)
        self.growth.write(self.directory)

    def close(self) -> None:
        """Let go of the files; what was published stays."""
        if self._open:
            self._open.abandon()


def _form(growth: Growth) -> tuple[Any, ...]:
    return growth.width, growth.vocab_size, growth.tokenizer_sha256


class GrowingReader:
    """The sequences that are whole so far."""

    def __init__(self, directory: Path) -> None:
        """Open a directory in which at least one sequence is whole.

        Raises:
            LlamaError: there is none.
        """
        self.directory = directory
        self.growth = self._read()

    def _read(self) -> Growth:
        growth = Growth.read(self.directory)
        if growth is None or not growth.sequences:
            raise LlamaError(f"{self.directory} holds no sequence")
        return growth

    def refresh(self) -> Growth:
        """Look how far it has grown."""
        self.growth = self._read()
        return self.growth

    def row(self, number: int) -> Array:
        """Give the tokens of a sequence.

        The file is opened anew: on a network's file system that is what makes new bytes seen.

        Raises:
            LlamaError: it is not there in full.
        """
        shard, place = divmod(number, self.growth.in_shard)
        path, size = self.directory / f"tokens-{shard:05d}.bin", self.growth.bytes
        file = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(file, size, place * size)
        finally:
            os.close(file)
        if len(data) < size:
            raise LlamaError(f"{path}: cut short", hint="llama train --run ANOTHER")
        return np.frombuffer(data, token_dtype(self.growth.vocab_size))


def growth_for(
    width: int, vocab_size: int, tokenizer_sha256: str | None, *, max_bytes: int = MAX_BYTES
) -> Growth:
    """Begin a directory of sequences of `width` tokens, with .bin files of at most `max_bytes`."""
    in_shard = max(1, max_bytes // (width * token_dtype(vocab_size).itemsize))
    return Growth(width, vocab_size, tokenizer_sha256, in_shard)
