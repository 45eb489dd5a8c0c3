"""Tensors in safetensors files: whole in one, or in several that each hold a part of them.

    model.safetensors                  every tensor, whole
    model-00002-of-00004.safetensors   what one rank held of them: a rectangle of each. Its place is
                                       in the metadata, {"places": {NAME: [OFFSET, SHAPE OF WHOLE]}}

What is asked for is a rectangle too, of any other cut, so that any number of ranks can read what
any number has written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from xxhash import xxh3_128

from llama_cli.model.manifest import BLOCK, Entry

SUFFIX = ".safetensors"
NUMBERED = re.compile(r"-(\d{5,})-of-(\d{5,})\.safetensors")

Place = tuple[tuple[int, ...], tuple[int, ...]]  # offset, and shape of the whole


@dataclass(frozen=True, slots=True)
class Slice:
    """A rectangle of a named tensor, in memory."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    offset: tuple[int, ...]  # in the whole tensor, where this part begins
    tensor: Tensor  # this part; may be empty
    owner: bool = True  # False where another rank holds the same and is to write it

    @property
    def where(self) -> tuple[slice, ...]:
        """Index the whole tensor for this part."""
        ends = zip(self.offset, self.tensor.shape, strict=True)
        return tuple(slice(start, start + length) for start, length in ends)


def save_slices(
    slices: Iterable[Slice], directory: Path, stem: str, number: int, of: int
) -> dict[str, Entry]:
    """Write a file of `of`, numbered from 1, with the slices that this rank owns; say what it is.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    held = [each for each in slices if each.owner and each.tensor.numel()]
    tensors = {each.name: each.tensor for each in held}
    if of == 1:
        path, metadata = directory / f"{stem}{SUFFIX}", {}
    else:
        path = directory / f"{stem}-{number:05d}-of-{of:05d}{SUFFIX}"
        places = {each.name: (each.offset, each.shape) for each in held}
        metadata = {"places": json.dumps(places)}
    return {path.name: save_tensors(tensors, path, metadata)}


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> Entry:
    """Write a safetensors file, and give the length and hash of what was meant to be written.

    By hand, since the hash is made on the way, and since a thread that the library holds outside
    Python aborts a process that ends meanwhile.
    https://huggingface.co/docs/safetensors, "Format".

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    hashed, total = xxh3_128(), 0
    with path.open("wb") as file:
        for block in _blocks(tensors, metadata or {}):
            file.write(block)
            hashed.update(block)
            total += len(block)
    return Entry(total, hashed.hexdigest())


def _blocks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """Yield the bytes of a safetensors file: the length of its header, the header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape, dtype = list(tensor.shape), _NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers are aligned
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for start in range(0, len(flat), BLOCK):
            yield flat[start : start + BLOCK]


def files(directory: Path, stem: str, *, near: int = 1) -> list[Path]:
    """List the files of `stem`, that numbered `near` first.

    Raises:
        FileNotFoundError: there is none, or one of several is missing.
    """
    single = directory / f"{stem}{SUFFIX}"
    if single.exists():
        return [single]
    counts = {
        int(match[2])
        for path in directory.glob(f"{stem}-*{SUFFIX}")
        if (match := NUMBERED.fullmatch(path.name.removeprefix(stem)))
    }
    missing = [single]
    for count in counts:
        parts = [
            directory / f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}"
            for number in range(1, count + 1)
        ]
        missing = [path for path in parts if not path.exists()]
        if not missing:
            return [*parts[near - 1 : near], *parts[: near - 1], *parts[near:]]
    raise FileNotFoundError(None, "No such file or directory", str(missing[0]))


def shapes(paths: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Give the shape of every whole tensor.

    Raises:
        SafetensorError: a file is cut short or no such file.
    """
    return {name: shape for name, (shape, _) in _kinds(paths).items()}


def load_whole(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read every tensor, whole.

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a tensor is missing.
    """
    held = {
        name: Slice(name, shape, (0,) * len(shape), torch.empty(shape, dtype=dtype))
        for name, (shape, dtype) in _kinds(paths).items()
    }
    fill(paths, held.values())
    return {name: each.tensor for name, each in held.items()}


def _kinds(paths: Sequence[Path]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Give the shape and dtype of every whole tensor."""
    found = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name, (_, shape) in _places(file).items():
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _DTYPES:
                    raise SafetensorError(f"{name} is {dtype}, not one of {', '.join(_DTYPES)}")
                found[name] = shape, _DTYPES[dtype]
    return found


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def fill(paths: Sequence[Path], wanted: Iterable[Slice]) -> None:
    """Read slices, each from the files that hold some of it, opening no more files than needed.

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a slice is in none.
    """
    open_ = {each.name: each for each in wanted if each.tensor.numel()}
    missing = {name: each.tensor.numel() for name, each in open_.items()}
    seen = set()
    for path in paths:
        if not missing:
            return
        with safe_open(path, framework="pt") as file:
            for name, (offset, _) in _places(file).items():
                if name in missing and (name, offset) not in seen:
                    seen.add((name, offset))
                    missing[name] -= _copy(file, name, offset, open_[name])
                    if missing[name] <= 0:
                        del missing[name]
    if missing:
        name = next(iter(missing))
        raise SafetensorError(f"{name} is not whole: {missing[name]:,} of its numbers are missing")


def _places(file: Any) -> dict[str, Place]:
    """Say where in the whole each tensor of a file lies."""
    told = (file.metadata() or {}).get("places")
    if told is None:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return {name: ((0,) * len(shape), shape) for name, shape in shapes.items()}
    return {
        name: (tuple(offset), tuple(shape)) for name, (offset, shape) in json.loads(told).items()
    }


def _copy(file: Any, name: str, offset: tuple[int, ...], into: Slice) -> int:
    """Copy what a file's rectangle and a slice have in common; count it."""
    held = file.get_slice(name)
    both = list(_common(offset, held.get_shape(), into))
    count = prod(max(0, end - start) for start, end in both)
    if count:
        source = tuple(
            slice(start - at, end - at) for (start, end), at in zip(both, offset, strict=True)
        )
        target = tuple(
            slice(start - at, end - at) for (start, end), at in zip(both, into.offset, strict=True)
        )
        into.tensor[target].copy_(held[source])
    return count


def _common(offset: Sequence[int], shape: Sequence[int], other: Slice) -> Iterator[tuple[int, int]]:
    """Give the ends of the rectangle that two have in common, by dimension."""
    for at, length, there, more in zip(
        offset, shape, other.offset, other.tensor.shape, strict=True
    ):
        yield max(at, there), min(at + length, there + more)
