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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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


def save_slices(slices: Iterable[Slice], directory: Path, stem: str, number: int, of: int) -> Path:
    """Write a file of `of`, numbered from 1, with the slices that this rank owns.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    held = [each for each in slices if each.owner and each.tensor.numel()]
    tensors = {each.name: each.tensor for each in held}
    if of == 1:
        return save_tensors(tensors, directory / f"{stem}{SUFFIX}")
    places = {each.name: (each.offset, each.shape) for each in held}
    path = directory / f"{stem}-{number:05d}-of-{of:05d}{SUFFIX}"
    return save_tensors(tensors, path, {"places": json.dumps(places)})


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> Path:
    """Write a safetensors file that others may read; the library makes it the owner's alone.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        reason = str(error).rpartition("error: ")[2].partition(" (os error")[0]
        raise OSError(None, reason, str(path)) from None
    path.chmod(0o644)
    return path


def files(directory: Path, stem: str, *, near: int = 1) -> list[Path]:
    """List the files of `stem`, that numbered `near` first.

    Raises:
        FileNotFoundError: there is none, or one of several is missing.
    """
    single = directory / f"{stem}{SUFFIX}"
    if single.exists():
        return [single]
    found = {}
    for path in directory.glob(f"{stem}-*{SUFFIX}"):
        if match := NUMBERED.fullmatch(path.name.removeprefix(stem)):
            found[int(match[1])], count = path, match[2]
    if not found:
        raise FileNotFoundError(None, "No such file or directory", str(single))
    for number in range(1, int(count) + 1):
        if number not in found:
            missing = directory / f"{stem}-{number:05d}-of-{count}{SUFFIX}"
            raise FileNotFoundError(None, "No such file or directory", str(missing))
    return [found[number] for number in sorted(found, key=lambda number: number != near)]


def shapes(paths: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Give the shape of every whole tensor.

    Raises:
        SafetensorError: a file is cut short or no such file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found |= {name: shape for name, (_, shape) in _places(file).items()}
    return found


def load_whole(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read every tensor, whole.

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a tensor is missing.
    """
    with safe_open(paths[0], framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in _places(file)}
    first = next(iter(dtypes.values()), "F32")
    held = {
        name: Slice(
            name,
            shape,
            (0,) * len(shape),
            torch.empty(shape, dtype=_DTYPES[dtypes.get(name, first)]),
        )
        for name, shape in shapes(paths).items()
    }
    fill(paths, held.values())
    return {name: each.tensor for name, each in held.items()}


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


def fill(paths: Sequence[Path], wanted: Iterable[Slice]) -> None:
    """Read slices, each from the files that hold some of it, opening no more files than needed.

    Raises:
        SafetensorError: a file is cut short or no such file, or a part of a slice is in none.
    """
    open_ = {each.name: each for each in wanted if each.tensor.numel()}
    missing = {name: each.tensor.numel() for name, each in open_.items()}
    for path in paths:
        if not missing:
            return
        with safe_open(path, framework="pt") as file:
            for name, (offset, _) in _places(file).items():
                if name in missing:
                    missing[name] -= _copy(file, name, offset, open_[name])
                    if missing[name] == 0:
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
