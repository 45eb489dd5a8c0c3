"""Read a directory of token shards through memory maps.

Opening checks the size of every file against the manifest, so a short or foreign file is
noticed at once; `verify()` reads everything and compares the checksums. Memory: 13 bytes a
document, none a token.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from hashlib import file_digest
from itertools import accumulate
from pathlib import Path

import numpy as np

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.shards.formats import (
    MANIFEST,
    SUFFIXES,
    Array,
    Header,
    Kind,
    Shard,
    token_dtype,
    unpack_index,
)


class Shards:
    """A directory of shards as one long list of token arrays.

    >>> shards = Shards("mixed")  # doctest: +SKIP
    >>> shards.kind, len(shards), shards[0], shards.source(0)  # doctest: +SKIP
    """

    def __init__(self, directory: str | Path) -> None:
        """Read the manifest and the indices.

        Raises:
            NotReadyError: there is no such directory, or nothing in it.
            LlamaError: a file is missing, or its size is not that of the manifest.
        """
        self.directory = Path(directory)
        self.header, self._manifest = _manifest(self.directory)
        self._files = [_File(self.directory, self.header, shard) for shard in self._manifest]
        self._starts = list(accumulate((shard.documents for shard in self._manifest), initial=0))

    @property
    def kind(self) -> Kind:
        return self.header.kind

    @property
    def vocab_size(self) -> int:
        return self.header.vocab_size

    @property
    def tokenizer_sha256(self) -> str | None:
        return self.header.tokenizer_sha256

    @property
    def sources(self) -> list[str]:
        """Names, in the order of their codes."""
        return self.header.sources

    @property
    def tokens(self) -> int:
        """Tokens of all documents together."""
        return sum(shard.tokens for shard in self._manifest)

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each document, int32."""
        return np.concatenate([np.zeros(0, "<i4"), *(file.lengths for file in self._files)])

    @cached_property
    def codes(self) -> Array:
        """Place in `sources` of each document, uint8."""
        return np.concatenate([np.zeros(0, "u1"), *(file.codes for file in self._files)])

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Array:
        """Give the tokens of document `number`, mapped from disk and read-only."""
        file, row = self._place(number)
        return file[row]

    def source(self, number: int) -> str:
        """Give the source of document `number`."""
        file, row = self._place(number)
        return self.sources[int(file.codes[row])]

    def verify(self) -> None:
        """Read every file and compare its checksum with the manifest's.

        Raises:
            LlamaError: one differs.
        """
        for shard in self._manifest:
            for suffix, wanted in shard.sha256.items():
                path = self.directory / f"{shard.name}.{suffix}"
                with path.open("rb") as file:
                    if file_digest(file, "sha256").hexdigest() != wanted:
                        raise LlamaError(f"{path}: its checksum is not that of the manifest")

    def _place(self, number: int) -> tuple[_File, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard = bisect_right(self._starts, number) - 1
        return self._files[shard], number - self._starts[shard]


class _File:
    """One shard: its index in memory, its tokens mapped."""

    def __init__(self, directory: Path, header: Header, shard: Shard) -> None:
        paths = {kind: directory / f"{shard.name}.{kind}" for kind in SUFFIXES[header.kind]}
        for path in paths.values():
            if not path.is_file():
                raise LlamaError(f"{path}: missing, though the manifest names it")
        dtype = token_dtype(header.vocab_size)
        _check_size(paths["bin"], shard.tokens * dtype.itemsize)
        _check_size(paths["sources"], shard.documents)
        try:
            self.lengths, offsets, width = unpack_index(paths["idx"].read_bytes())
        except ValueError as error:
            raise LlamaError(f"{paths['idx']}: {error}") from None
        if (len(self.lengths), int(self.lengths.sum()), width) != (
            shard.documents,
            shard.tokens,
            dtype.itemsize,
        ):
            raise LlamaError(f"{paths['idx']}: does not agree with the manifest")
        self._starts = offsets // dtype.itemsize
        self.codes: Array = np.frombuffer(paths["sources"].read_bytes(), "u1")
        # an empty file cannot be mapped
        self._tokens: Array = (
            np.asarray(np.memmap(paths["bin"], dtype, "r")) if shard.tokens else np.zeros(0, dtype)
        )

    def __getitem__(self, row: int) -> Array:
        start = int(self._starts[row])
        return self._tokens[start : start + int(self.lengths[row])]


def _check_size(path: Path, wanted: int) -> None:
    if (size := path.stat().st_size) != wanted:
        raise LlamaError(f"{path}: {size} bytes, not the {wanted} of the manifest")


def _manifest(directory: Path) -> tuple[Header, list[Shard]]:
    path = directory / MANIFEST
    if not path.is_file():
        raise NotReadyError(
            f"no token shards at {directory}", hint=f"llama tokenize corpus.jsonl -o {directory}"
        )
    lines = path.read_bytes().splitlines() or [b"{}"]
    try:
        header = Header.from_json(lines[0])
    except ValueError as error:
        raise DataError(str(path), 1, str(error)) from None
    shards = []
    for number, line in enumerate(lines[1:], 2):
        try:
            shards.append(Shard.from_json(line))
        except ValueError as error:
            raise DataError(str(path), number, str(error)) from None
    return header, shards
