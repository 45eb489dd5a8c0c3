"""Token shards on disk, byte by byte: what write.py writes and read.py maps.

    mixed/
      manifest.jsonl        a header line, then a line a shard
      tokens-00000.bin      the tokens of all documents, end to end
      tokens-00000.idx      where each document begins and how long it is
      tokens-00000.sources  one byte a document: its place in the header's `sources`
      tokens-00000.ids      kind "documents" only: one JSON string a line

`.bin` is raw little-endian uint16, or uint32 where the vocabulary needs it, so Megatron-LM,
OLMo-core, datatrove and nanoGPT read the same bytes. `.idx` is the index of Megatron-LM's
IndexedDataset (megatron/core/datasets/indexed_dataset.py), byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

Kind = Literal["documents", "sequences"]
_T = TypeVar("_T")
Array = NDArray[Any]  # tokens: uint16 or uint32

FORMAT = "llama-shards"
VERSION = 1
MANIFEST = "manifest.jsonl"
SUFFIXES = {"documents": ("bin", "idx", "sources", "ids"), "sequences": ("bin", "idx", "sources")}
SOURCES = 256  # a source is one byte

# Megatron-LM's own limit for uint16; some of the 65,536 values stay free for its padding.
WIDE_VOCABULARY = 65_500

_HEAD = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_CODES = {8: "<u2", 4: "<i4"}  # Megatron knows no uint32: int32 holds the same ids


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Say how a token is stored.

    >>> token_dtype(32_000).itemsize, token_dtype(65_500).itemsize
    (2, 4)
    """
    return np.dtype("<u2" if vocab_size < WIDE_VOCABULARY else "<u4")


def pack_index(lengths: Array, width: int) -> bytes:
    """Make the `.idx` of documents of `lengths` tokens of `width` bytes."""
    count = len(lengths)
    offsets = np.zeros(count, "<i8")
    np.cumsum(lengths[:-1].astype("<i8") * width, out=offsets[1:])
    head = _HEAD.pack(_MAGIC, 1, 8 if width == 2 else 4, count, count + 1)
    documents = np.arange(count + 1, dtype="<i8")
    return head + lengths.astype("<i4").tobytes() + offsets.tobytes() + documents.tobytes()


def unpack_index(data: bytes) -> tuple[Array, Array, int]:
    """Give lengths in tokens (int32), offsets in bytes (int64) and bytes a token.

    Raises:
        ValueError: what is wrong with the bytes.
    """
    if len(data) < _HEAD.size:
        raise ValueError(f"{len(data)} bytes, too few for an index")
    magic, version, code, count, documents = _HEAD.unpack_from(data)
    if (magic, version) != (_MAGIC, 1) or code not in _CODES:
        raise ValueError("not a token index")
    size = _HEAD.size + 12 * count + 8 * documents
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, not the {size} its header tells")
    lengths = np.frombuffer(data, "<i4", count, _HEAD.size)
    offsets = np.frombuffer(data, "<i8", count, _HEAD.size + 4 * count)
    return lengths, offsets, np.dtype(_CODES[code]).itemsize


def _filled(kind: type[_T], row: Any) -> _T:
    try:
        return kind(**row)
    except TypeError:
        raise ValueError(f"not a {kind.__name__.lower()} line of a manifest") from None


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a manifest."""

    kind: Kind
    vocab_size: int
    tokenizer_sha256: str | None
    sources: list[str]
    recipe: Mapping[str, Any] | None = None  # of a mixture: seed, length, weights

    def to_json(self) -> bytes:
        """Write the line, without its end."""
        return orjson.dumps({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, line: bytes) -> Header:
        """Read the line.

        Raises:
            ValueError: it is not the header of a manifest of this version.
        """
        row = orjson.loads(line)
        if not isinstance(row, dict) or row.pop("format", None) != FORMAT:
            raise ValueError("not a manifest of token shards")
        if (version := row.pop("version", None)) != VERSION:
            raise ValueError(f"format version {version}, this llama reads {VERSION}")
        return _filled(cls, row)


@dataclass(frozen=True, slots=True)
class Shard:
    """A further line of a manifest: one shard."""

    name: str
    documents: int
    tokens: int
    by_source: dict[str, int]  # tokens
    sha256: dict[str, str]  # of each file, by suffix

    def to_json(self) -> bytes:
        """Write the line, without its end."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: bytes) -> Shard:
        """Read the line.

        Raises:
            ValueError: it is not a line about a shard.
        """
        return _filled(cls, orjson.loads(line))
