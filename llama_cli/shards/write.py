"""Write a directory of token shards, which appears only when it is whole.

Shards are written into a hidden sibling (`.NAME.PID.part`), synced, and renamed at the
end, so a killed run leaves no directory that looks finished. An empty directory or an
older directory of shards is replaced; anything else in the way is refused. The old shards
stay readable until the new ones are whole, and are away for the instant between two renames.
Neither clock nor host goes into the files: the same tokens give the same bytes.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import orjson

from llama_cli.errors import LlamaError, naming
from llama_cli.shards.formats import (
    MANIFEST,
    SOURCES,
    Array,
    Header,
    Kind,
    Shard,
    pack_index,
    token_dtype,
)
from llama_cli.stream.sync import sync

FILES = {".jsonl", ".json", ".zst", ".gz"}  # suffixes of a stream of records
MAX_BYTES = 2_000_000_000  # of one .bin; ours: fits a signed 32-bit offset of any reader


def means_shards(output: Path | None) -> TypeGuard[Path]:
    """Tell whether `-o` asks for a directory of shards rather than a stream of records.

    >>> means_shards(Path("mixed")), means_shards(Path("a.jsonl.zst")), means_shards(None)
    (True, False, False)
    """
    if output is None or output.suffix in FILES:
        return False
    return output.is_dir() or not output.exists() or output.is_file()


def check_target(directory: Path) -> None:
    """Refuse to write shards over anything but nothing, an empty directory, or shards.

    Raises:
        LlamaError: something else is there.
    """
    if not directory.exists() or (directory / MANIFEST).is_file():
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise LlamaError(f"{directory} exists and holds no token shards, so it stays as it is")


class ShardWriter:
    """Take documents one by one; as a context manager, publish the directory at the end.

    >>> with ShardWriter("mixed", kind="documents", vocab_size=32_000) as shards:  # doctest: +SKIP
    ...     shards.add([1, 306, 2], source="books", id="d1")
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        kind: Kind,
        vocab_size: int,
        tokenizer_sha256: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Check the target and make the hidden directory.

        Args:
            directory: where the shards appear.
            kind: "documents" of any length, or "sequences" ready for training.
            vocab_size: ids are below it; it decides between uint16 and uint32.
            tokenizer_sha256: of the .model file, when known.
            recipe: of a mixture, kept in the manifest.
            max_bytes: of one .bin. A longer document has a shard of its own.
        """
        self.directory = Path(directory).resolve()
        check_target(self.directory)
        self.header = Header(kind, vocab_size, tokenizer_sha256, [], recipe)
        self.max_bytes = max_bytes
        self._dtype = token_dtype(vocab_size)
        self._part = self.directory.with_name(f".{self.directory.name}.{os.getpid()}.part")
        shutil.rmtree(self._part, ignore_errors=True)  # a dead run's, whose number came round
        self._shown = str(directory)
        with naming(self._shown):
            self._part.mkdir(parents=True)
        self._shards: list[Shard] = []
        self._code = codes_of(self.header)
        self._open: OpenShard | None = None

    def add(self, tokens: Sequence[int] | Array, source: str, id: str = "") -> None:
        """Append a document.

        Raises:
            ValueError: a token is outside the vocabulary.
            LlamaError: there are more sources than one byte can tell apart.
        """
        values = np.asarray(tokens, np.int64)
        if len(values) and not 0 <= values.min() <= values.max() < self.header.vocab_size:
            raise ValueError(f"token {values.max()} is outside the {self.header.vocab_size} known")
        with naming(self._shown):
            self._add(values.astype(self._dtype).tobytes(), source, id)

    def _add(self, data: bytes, source: str, id: str) -> None:
        if self._open and self._open.bytes and self._open.bytes + len(data) > self.max_bytes:
            self._close_shard()
        if self._open is None:
            stem = self._part / f"tokens-{len(self._shards):05d}"
            self._open = OpenShard(stem, self._dtype.itemsize, with_ids=self._with_ids)
        self._open.add(data, source, self._code(source), id)

    @property
    def _with_ids(self) -> bool:
        return self.header.kind == "documents"

    def _close_shard(self) -> None:
        if self._open:
            self._shards.append(self._open.close())
            self._open = None

    def _publish(self) -> None:
        self._close_shard()
        write_manifest(self._part, self.header, self._shards)
        check_target(self.directory)  # hours may have passed
        old = self._part.with_suffix(".old.part")
        if (self.directory / MANIFEST).is_file():
            self.directory.rename(old)
        self._part.rename(self.directory)
        sync(self.directory.parent)
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with naming(self._shown):
                    self._publish()
        finally:
            if self._open:
                with suppress(OSError):  # what could not be written is thrown away
                    self._open.abandon()
            shutil.rmtree(self._part, ignore_errors=True)


def codes_of(header: Header) -> Callable[[str], int]:
    """Number sources as they come, and name them in the header.

    Raises (when called):
        LlamaError: there are more than one byte can tell apart.
    """
    codes: dict[str, int] = {}

    def code(source: str) -> int:
        if source not in codes:
            if len(codes) == SOURCES:
                raise LlamaError(f"over {SOURCES} different sources, '{source}' is one too many")
            codes[source] = len(codes)
            header.sources.append(source)
        return codes[source]

    return code


def write_manifest(directory: Path, header: Header, shards: Sequence[Shard]) -> None:
    """Write the manifest of a directory, whole or not at all, and sync both."""
    lines = [header.to_json(), *(shard.to_json() for shard in shards)]
    part = directory / f".{MANIFEST}.part"
    _write(part, b"".join(line + b"\n" for line in lines))
    part.rename(directory / MANIFEST)
    sync(directory)


class OpenShard:
    """The shard being written: tokens go to disk at once, 5 bytes a document stay here.

    The first `kept` bytes of tokens are there already: what is added is compared with them.
    """

    def __init__(self, stem: Path, width: int, *, with_ids: bool = False, kept: int = 0) -> None:
        self.stem, self.width, self.kept = stem, width, kept
        self.bytes = 0
        self.file = stem.with_suffix(".bin").open("r+b" if kept else "wb", buffering=1 << 20)
        self._ids = stem.with_suffix(".ids").open("wb") if with_ids else None
        self._hash, self._ids_hash = sha256(), sha256()
        self._lengths, self._codes = array("i"), bytearray()
        self._by_source: Counter[str] = Counter()

    def add(self, data: bytes, source: str, code: int, id: str = "") -> bool:
        """Append a document; False if another one is kept in its place."""
        if self.bytes < self.kept:
            if self.file.read(len(data)) != data:
                return False
            if self.bytes + len(data) >= self.kept:
                self.file.seek(self.kept)
                self.file.truncate()
        else:
            self.file.write(data)
        self._hash.update(data)
        if self._ids:
            line = orjson.dumps(id) + b"\n"
            self._ids.write(line)
            self._ids_hash.update(line)
        self.bytes += len(data)
        self._lengths.append(len(data) // self.width)
        self._codes.append(code)
        self._by_source[source] += len(data) // self.width
        return True

    def sync(self) -> None:
        """Put what was added on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> Shard:
        """Write the files beside the tokens, sync all, and tell what there is."""
        index = pack_index(np.frombuffer(self._lengths, "<i4"), self.width)
        _write(self.stem.with_suffix(".idx"), index)
        _write(self.stem.with_suffix(".sources"), self._codes)
        _sync(self.file)
        hashes = {
            "bin": self._hash.hexdigest(),
            "idx": sha256(index).hexdigest(),
            "sources": sha256(self._codes).hexdigest(),
        }
        if self._ids:
            _sync(self._ids)
            hashes["ids"] = self._ids_hash.hexdigest()
        return Shard(
            self.stem.name,
            len(self._lengths),
            self.bytes // self.width,
            dict(sorted(self._by_source.items())),
            hashes,
        )

    def abandon(self) -> None:
        """Let go of the files."""
        self.file.close()
        if self._ids:
            self._ids.close()


def _write(path: Path, data: bytes | bytearray) -> None:
    file = path.open("wb")
    file.write(data)
    _sync(file)


def _sync(file: BinaryIO) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())
