"""Which tensors lie in which files, and where: whole in one, or in several that hold parts of them.

    model.safetensors                  every tensor, whole
    model-00002-of-00004.safetensors   what one rank held of them: a rectangle of each. Its place is
                                       in the metadata, {"places": {NAME: [OFFSET, SHAPE OF WHOLE]}}

The library reads and checks headers. Where a tensor's bytes are, it does not tell, and its arrays
have no bfloat16; so they are taken from the file as it is mapped into memory (`dtypes`). PyTorch,
which takes a second to import, is not needed for that.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from llama_cli.errors import naming
from llama_cli.kernels import host
from llama_cli.model.dtypes import ARRAYS, BYTES, DTYPES, Array, DType

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
NUMBERED = re.compile(r"-(\d{5,})-of-(\d{5,})\.safetensors")
PREFIX = 8  # bytes that say how long the header is

Place = tuple[tuple[int, ...], tuple[int, ...]]  # offset, and shape of the whole
Where = tuple[slice, ...]
Read = Callable[[str, Where], "Tensor"]  # a rectangle of what a file holds under a name


@dataclass(frozen=True, slots=True)
class Rectangle:
    """What a file holds of a tensor."""

    offset: tuple[int, ...]  # in the whole tensor, where it begins
    shape: tuple[int, ...]
    whole: tuple[int, ...]  # shape of the whole tensor
    dtype: DType | None  # None: one that no weights of ours have

    @property
    def bytes(self) -> int:
        """Count them."""
        return prod(self.shape) * (BYTES[self.dtype] if self.dtype else 1)

    @property
    def where(self) -> Where:
        """Index the whole tensor for it."""
        ends = zip(self.offset, self.shape, strict=True)
        return tuple(slice(start, start + length) for start, length in ends)


class File(Protocol):
    """A file of tensors, by the names that the model has for them."""

    @property
    def path(self) -> Path:
        """Say where it is."""
        ...

    @property
    def held(self) -> Mapping[str, Rectangle]:
        """Say what is in it."""
        ...

    def open(self) -> AbstractContextManager[Read]:
        """Let it be read from; what was read is gone when it is closed."""
        ...

    def array(self, name: str) -> Array:
        """Give what it holds of a tensor: where it lies, if it lies there as the model has it."""
        ...


class Parts:
    """A safetensors file of whole tensors, or of parts of them as `stored.save_slices` writes them.

    Raises, when it is looked into:
        SafetensorError: it is cut short or no such file, or says of a part where it cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._looked_into: tuple[int, ...] = ()

    @cached_property
    def held(self) -> Mapping[str, Rectangle]:
        """Say what is in it."""
        with naming(str(self.path)), safe_open(self.path, framework="numpy") as file:
            places = _places((file.metadata() or {}).get("places"))
            return {name: _rectangle(file, name, places.get(name)) for name in file.keys()}  # noqa: SIM118

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Let it be read from."""
        with safe_open(self.path, framework="pt") as file:
            yield lambda name, where: file.get_slice(name)[where]

    def array(self, name: str) -> Array:
        """Give what it holds of a tensor: a whole one where it lies, a part that is to be copied.

        A file that is mapped stays open, and of as many as there were ranks not all can be.

        Raises:
            SafetensorError: it is no longer the file that was looked into.
        """
        held = self.held[name]
        assert held.dtype
        dtype, count = ARRAYS[held.dtype], prod(held.shape)
        try:
            start = self._starts[name, held.shape, held.dtype]
            if held.shape == held.whole:
                found: Array = np.frombuffer(self._mapped, dtype, count, start)
            else:
                with self._opened() as file:
                    found = np.fromfile(file, dtype, count, offset=start)
            return found.reshape(held.shape)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise SafetensorError("changed while it was read") from None

    @cached_property
    def _starts(self) -> dict[tuple[str, tuple[int, ...], str], int]:
        """Find where each tensor begins, with its shape and dtype."""
        with self.path.open("rb") as file:
            self._looked_into = _identity(file)
            first = PREFIX + int.from_bytes(file.read(PREFIX), "little")
            header: dict[str, Any] = json.loads(
                file.read(min(first, self._looked_into[0]) - PREFIX)
            )
        header.pop("__metadata__", None)
        return {
            (name, tuple(each["shape"]), each["dtype"]): first + each["data_offsets"][0]
            for name, each in header.items()
        }

    @cached_property
    def _mapped(self) -> mmap.mmap:
        """Map it into memory."""
        with self._opened() as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = np.frombuffer(mapped, np.uint8).ctypes.data
        host.watch(mapped, at, len(mapped), str(self.path))
        return mapped

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open it, if it is still the file whose tensors are known."""
        with self.path.open("rb") as file:
            if _identity(file) != self._looked_into:
                raise ValueError("another file")
            yield file


def _identity(file: BinaryIO) -> tuple[int, ...]:
    """Tell a file from what it was, and from another of its name; its size comes first."""
    told = os.fstat(file.fileno())
    return told.st_size, told.st_mtime_ns, told.st_ino, told.st_dev


def _places(told: str | None) -> dict[str, Place]:
    """Read the metadata of a file of parts."""
    try:
        places = json.loads(told) if told else {}
        return {name: (_numbers(at), _numbers(whole)) for name, (at, whole) in places.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise SafetensorError("the places of its parts cannot be read") from None


def _numbers(told: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(index, told))


def _rectangle(file: Any, name: str, place: Place | None) -> Rectangle:
    held = file.get_slice(name)
    shape, dtype = tuple(held.get_shape()), held.get_dtype()
    offset, whole = place or ((0,) * len(shape), shape)
    if not len(offset) == len(shape) == len(whole):
        raise SafetensorError(f"{name} is {shape}, and its place is {offset} of {whole}")
    if any(not 0 <= at <= most - size for at, size, most in zip(offset, shape, whole, strict=True)):
        raise SafetensorError(f"{name} is {shape}, which does not lie at {offset} of {whole}")
    return Rectangle(offset, shape, whole, dtype if dtype in DTYPES else None)


def overlap(parts: Sequence[Rectangle]) -> bool:
    """Say whether any two of a tensor's parts have a number in common.

    Along the side that is cut most, each is held beside those only that reach as far.

    >>> halves = [Rectangle((at, 0), (2, 4), (4, 4), "F32") for at in (0, 2)]
    >>> overlap(halves), overlap([*halves, Rectangle((1, 0), (2, 1), (4, 4), "F32")])
    (False, True)
    """
    if len(parts) < 2:
        return False
    sides = range(len(parts[0].whole))
    side = max(sides, key=lambda at: len({each.offset[at] for each in parts}), default=0)
    before: list[Rectangle] = []
    for part in sorted(parts, key=lambda each: each.offset[side : side + 1]):
        before = [each for each in before if each.where[side].stop > part.where[side].start]
        if any(_meet(each, part) for each in before):
            return True
        before.append(part)
    return False


def _meet(one: Rectangle, other: Rectangle) -> bool:
    pairs = zip(one.where, other.where, strict=True)
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in pairs)


def let_go(array: Array) -> None:
    """Give back the memory of an array that is not used again, if it lies in a file.

    Those are not to be written to. They would keep their pages as long as the file is mapped.
    """
    if array.flags.writeable or not array.flags.forc:  # with gaps, or one number for many
        return
    size, at = mmap.PAGESIZE, array.ctypes.data
    start = -(-at // size) * size
    length = (at + array.nbytes - start) // size * size
    if length > 0:
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def files(directory: Path, stem: str, *, near: int = 1) -> list[Path]:
    """List the files of `stem`, that numbered `near` first.

    Raises:
        FileNotFoundError: there is none, or one of several is missing.
    """
    single = directory / f"{stem}{SUFFIX}"
    if single.is_file():
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
        missing = [path for path in parts if not path.is_file()]
        if not missing:
            return [*parts[near - 1 : near], *parts[: near - 1], *parts[near:]]
    raise FileNotFoundError(None, "No such file or directory", str(missing[0]))


def shapes(paths: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Give the shape of every whole tensor of our own files.

    Raises:
        SafetensorError: a file is cut short or no such file.
    """
    return {name: each.whole for path in paths for name, each in Parts(path).held.items()}
