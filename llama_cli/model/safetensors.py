"""A safetensors file, written a tensor at a time and hashed on the way.

    8 bytes      length of the header, little-endian
    header       JSON, {NAME: {"dtype", "shape", "data_offsets"}}, with spaces up to a multiple of 8
    the tensors  one after the other, rows first

https://huggingface.co/docs/safetensors/index#format. The library's own writer wants all tensors at
once, gives no hash, and in a thread aborts a process that ends meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_128

from llama_cli.errors import naming
from llama_cli.model.dtypes import BYTES, DType, as_array, named
from llama_cli.model.manifest import Entry

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 8
BLOCK = 1 << 20  # bytes written at once; ours

Kind = tuple[tuple[int, ...], DType]  # shape, and what its numbers are in


def size_of(kind: Kind) -> int:
    """Count the bytes of a tensor."""
    shape, dtype = kind
    return prod(shape) * BYTES[dtype]


def write_safetensors(
    path: Path,
    kinds: Mapping[str, Kind],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Entry:
    """Write `tensors`, which come in the order of `kinds`; give what was meant to be written.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    total, hashed = 0, xxh3_128()
    with naming(str(path)), path.open("wb") as file:
        for block in _blocks(kinds, tensors, metadata or {}):
            file.write(block)
            hashed.update(block)
            total += len(block)
    return Entry(total, hashed.hexdigest())


def _blocks(
    kinds: Mapping[str, Kind], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    yield _header(kinds, metadata)
    for (shape, dtype), tensor in zip(kinds.values(), tensors, strict=True):
        assert (tuple(tensor.shape), named(tensor.dtype)) == (shape, dtype)
        held = as_array(tensor.detach().cpu().contiguous().flatten()).view(np.uint8).data
        for start in range(0, len(held), BLOCK):
            yield held[start : start + BLOCK]


def _header(kinds: Mapping[str, Kind], metadata: Mapping[str, str]) -> bytes:
    told: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, kind in kinds.items():
        start, end = end, end + size_of(kind)
        shape, dtype = kind
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
