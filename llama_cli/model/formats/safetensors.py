"""A safetensors file, written a tensor at a time; the library's own writer wants all of them.

    8 bytes      length of the header, little-endian
    header       JSON, {NAME: {"dtype", "shape", "data_offsets"}}, with spaces up to a multiple of 8
    the tensors  one after the other, rows first

https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from llama_cli.errors import naming
from llama_cli.model.stored import DTYPES

ALIGNMENT = 8
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Entry = tuple[tuple[int, ...], torch.dtype]  # shape, and what its numbers are in


def size_of(entry: Entry) -> int:
    """Count the bytes of a tensor."""
    shape, dtype = entry
    return prod(shape) * dtype.itemsize


def write_safetensors(path: Path, entries: Mapping[str, Entry], tensors: Iterable[Tensor]) -> None:
    """Write `tensors`, which come in the order of `entries`.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    with naming(str(path)), path.open("wb") as file:
        file.write(_header(entries))
        for (shape, dtype), tensor in zip(entries.values(), tensors, strict=True):
            assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)


def _header(entries: Mapping[str, Entry]) -> bytes:
    told: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + size_of(entry)
        shape, dtype = entry
        told[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
