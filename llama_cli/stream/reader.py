"""Bytes from anywhere, as numbered lines: a path, an fsspec URL, or stdin (`-`).

Compression is recognised by its bytes (compression.py). Whatever goes wrong is told as
FILE:LINE, the way compilers locate errors; a damaged stream is never a short corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from llama_cli.errors import DataError, LlamaError, naming
from llama_cli.stream.compression import BLOCK, Corrupt, decompress

CHUNK = 1 << 19  # bytes of lines handed to a worker at a time; ours
LONGEST_LINE = 1 << 28  # bytes; ours: longer is no record but a file that is not JSON lines
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of one input; `line` is the number of the first, from 1."""

    where: str
    line: int
    lines: list[bytes]


def shown(where: str) -> str:
    """Name an input as messages do.

    >>> shown("-")
    '<stdin>'
    """
    return "<stdin>" if where == "-" else where


@contextmanager
def open_raw(where: str) -> Iterator[IO[bytes]]:
    """Open a path, a URL that fsspec knows, or stdin, without undoing its compression."""
    if where == "-":
        # own the descriptor: sys.stdin may have been replaced or closed
        with open(os.dup(0), "rb", buffering=0) as stdin:
            yield stdin
    elif "://" in where:
        with _open_url(where) as remote:
            yield remote
    else:
        with open(where, "rb", buffering=0) as file:
            yield file


@contextmanager
def _open_url(where: str) -> Iterator[Any]:
    import fsspec  # 40 ms that a local file need not pay

    try:
        with fsspec.open(where, "rb") as remote:
            yield remote
    except (LlamaError, Corrupt):
        raise
    except Exception as error:  # each file system raises its own kinds
        cause = error.__cause__ if str(error) == where and error.__cause__ else error
        detail = " ".join(str(cause).split()) or type(cause).__name__
        raise LlamaError(f"{where}: {detail}") from error


def read_bytes(where: str) -> Iterator[bytes]:
    """Yield the plain bytes of an input.

    Raises:
        Corrupt: the compressed input ends early or is damaged.
    """
    with open_raw(where) as raw:
        yield from decompress(iter(partial(_read, raw, shown(where)), b""))


def _read(raw: IO[bytes], where: str) -> bytes:
    with naming(where):
        return raw.read(BLOCK)


def read_chunks(where: str, size: int = CHUNK) -> Iterator[Chunk]:
    """Yield the lines of an input, about `size` bytes of them at a time, without their ends.

    A last line without an end counts. Blank lines are kept, so that numbers stay true.

    Raises:
        DataError: the input is damaged, ends early, or has a line over 256 MiB.
    """
    line, held = 1, 0
    pending: list[bytes] = []
    blocks = read_bytes(where)
    while True:
        try:
            block = next(blocks, None)
        except Corrupt as error:
            lines = b"".join(pending).split(b"\n")[:-1]
            if lines:  # what came whole is still good
                yield Chunk(where, line, lines)
            raise DataError(shown(where), line + len(lines), str(error)) from None
        if block is not None:
            pending.append(block)
            held += len(block)
            if held < size or b"\n" not in block:
                if held > LONGEST_LINE:
                    raise DataError(shown(where), line, "line over 256 MiB: not JSON lines?")
                continue
        *lines, rest = b"".join(pending).split(b"\n")
        if block is None and rest:
            lines.append(rest)
        if lines:
            yield Chunk(where, line, _without_mark(line, lines))
            line += len(lines)
        if block is None:
            return
        pending, held = [rest], len(rest)


def _without_mark(line: int, lines: list[bytes]) -> list[bytes]:
    if line == 1 and lines[0].startswith(UTF8_MARK):
        lines[0] = lines[0][len(UTF8_MARK) :]
    return lines


def read_lines(inputs: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield (where, line number, line) for every line of every input that is not blank."""
    for where in inputs:
        for chunk in read_chunks(where):
            for number, line in enumerate(chunk.lines, chunk.line):
                if line and not line.isspace():
                    yield chunk.where, number, line
