"""Slices of tensors in memory, written to safetensors files (`parts`) and read from them.

What is asked for is a rectangle of any cut, so that any number of ranks can read what any number
has written. `pour` copies from any kind of file that says what it holds, a block at a time: nothing
is held in memory twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from llama_cli.model.dtypes import BYTES, DType, named, torch_dtype
from llama_cli.model.manifest import Entry
from llama_cli.model.parts import SUFFIX, File, Parts, Read, Rectangle, Where
from llama_cli.model.safetensors import write_safetensors

BLOCK = 1 << 20  # bytes copied at a time; ours


@dataclass(frozen=True, slots=True)
class Slice:
    """A rectangle of a named tensor, in memory."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    offset: tuple[int, ...]  # in the whole tensor, where this part begins
    tensor: Tensor  # this part; may be empty
    owner: bool = True  # False where another rank holds the same and is to write it

    @property
    def where(self) -> Where:
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

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    kinds = {name: (tuple(x.shape), _known(x.dtype)) for name, x in tensors.items()}
    return write_safetensors(path, kinds, tensors.values(), metadata)


def _known(dtype: torch.dtype) -> DType:
    found = named(dtype)
    assert found, f"{dtype} is no dtype of weights"
    return found


def load_whole(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read every tensor of our own files, whole.

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a tensor is missing.
    """
    held = {name: each for path in paths for name, each in Parts(path).held.items()}
    found = {name: _empty(each) for name, each in held.items()}
    fill(paths, (Slice(name, tuple(x.shape), (0,) * x.dim(), x) for name, x in found.items()))
    return found


def _empty(held: Rectangle) -> Tensor:
    return torch.empty(held.whole, dtype=torch_dtype(held.dtype) if held.dtype else None)


def fill(paths: Sequence[Path], wanted: Iterable[Slice]) -> None:
    """Read slices from our own files (`Parts`).

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a slice is in none.
    """
    pour(map(Parts, paths), wanted)


def pour(files: Iterable[File], wanted: Iterable[Slice], *, at_once: int | None = None) -> None:
    """Read slices, each from the files that hold some of it, opening no more files than needed.

    With `at_once`, a file is closed and opened again after so many bytes: what is mapped into
    memory from a file stays there while it is open.

    Raises:
        SafetensorError: a part of a slice is in no file.
    """
    open_ = {each.name: each for each in wanted if each.tensor.numel()}
    missing = {name: each.tensor.numel() for name, each in open_.items()}
    seen: set[tuple[str, tuple[int, ...]]] = set()  # a rectangle that is there twice counts once
    for file in files:
        new = [name for name, each in file.held.items() if (name, each.offset) not in seen]
        seen |= {(name, file.held[name].offset) for name in new}
        for names in _groups(file, [name for name in new if name in missing], at_once):
            with file.open() as read:
                for name in names:
                    missing[name] -= _copy(read, name, file.held[name], open_[name])
        missing = {name: count for name, count in missing.items() if count > 0}
        if not missing:
            return
    if missing:
        name = next(iter(missing))
        raise SafetensorError(f"{name} is not whole: {missing[name]:,} of its numbers are missing")


def _groups(file: File, names: Sequence[str], at_once: int | None) -> Iterator[list[str]]:
    """Part names into groups whose tensors have at most so many bytes, or of one tensor."""
    group: list[str] = []
    size = 0
    for name in names:
        if group and at_once is not None and size + file.held[name].bytes > at_once:
            yield group
            group, size = [], 0
        group.append(name)
        size += file.held[name].bytes
    if group:
        yield group


def _copy(read: Read, name: str, held: Rectangle, into: Slice) -> int:
    """Copy what a file's rectangle and a slice have in common; count it."""
    both = list(_common(held.offset, held.shape, into))
    count = prod(max(0, end - start) for start, end in both)
    if count:
        (first, last), *rest = both
        row = count // (last - first) * BYTES[held.dtype or "F64"]
        rows = max(1, BLOCK // row)
        for start in range(first, last, rows):
            block = [(start, min(start + rows, last)), *rest]
            _put(into.tensor[_within(block, into.offset)], read(name, _within(block, held.offset)))
    return count


def _put(target: Tensor, found: Tensor) -> None:
    """Copy a block; one that is to lie column by column is turned first, three times as quick."""
    if target.dim() == 2 and target.stride(0) == 1 < target.stride(1):
        target.t().copy_(found.t().contiguous())
    else:
        target.copy_(found)


def _within(ends: Iterable[tuple[int, int]], offset: Iterable[int]) -> Where:
    """Index a rectangle that begins at `offset` for what lies between `ends` of the whole."""
    return tuple(slice(start - at, end - at) for (start, end), at in zip(ends, offset, strict=True))


def _common(offset: Sequence[int], shape: Sequence[int], other: Slice) -> Iterator[tuple[int, int]]:
    """Give the ends of the rectangle that two have in common, by dimension."""
    for at, length, there, more in zip(
        offset, shape, other.offset, other.tensor.shape, strict=True
    ):
        yield max(at, there), min(at + length, there + more)
