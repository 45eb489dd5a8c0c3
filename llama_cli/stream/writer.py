"""Output that appears only when whole, compressed by its name.

A regular file is written as `.NAME.PID.part` beside its place and renamed at the end, so
that a stopped command leaves no half file under the real name. A device, a FIFO or a
descriptor such as /dev/stdout is written in place: a rename would replace it. A link stays,
and what it names is written.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import zstandard

from llama_cli.errors import UsageError, naming

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

BLOCK = 1 << 16  # bytes; PYTHONUNBUFFERED would make sys.stdout write record by record
ZSTD_LEVEL = 3  # ours: 174 MB/s a core; level 10 takes seven times as long

LINKS = 40  # followed at most, as Linux does


class Output:
    """Where records go: `write` takes bytes, one record at a time."""

    def __init__(self, stream: IO[bytes], *, line_buffered: bool = False) -> None:
        self._stream = stream
        self._line_buffered = line_buffered

    def write(self, data: bytes) -> None:
        """Write the bytes of one record."""
        self._stream.write(data)
        if self._line_buffered:
            self._stream.flush()


@contextmanager
def open_output(path: Path | None, *, line_buffered: bool = False) -> Iterator[Output]:
    """Open stdout (None or -) or a file; the file is there, whole, once the block ends well."""
    path = None if path == Path("-") else path
    with _stdout() if path is None else _file(path) as stream:
        yield Output(stream, line_buffered=line_buffered or _is_terminal(path))


def see_output(path: Path | None) -> None:
    """Make and remove a file as `open_output` would, before work that is long.

    Raises:
        OSError: it cannot be made.
        UsageError: its name asks for a compression that there is not.
    """
    if path is None or path == Path("-"):
        return
    shown = str(path)
    path, descriptor = _followed(path)
    with naming(shown):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if descriptor is None and (path.is_file() or not path.exists()):
        _refuse(path.suffix)
        part = _part(path)
        with _Named(part, shown):
            part.unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _refuse(suffix: str) -> None:
    if suffix in {".bz2", ".xz", ".lz4", ".zip"}:
        raise UsageError(f"cannot write {suffix}", hint="a name that ends in .zst or .gz")


def _is_terminal(path: Path | None) -> bool:
    return path is None and os.isatty(1)


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    stream = io.BufferedWriter(_Named(1, "<stdout>", closefd=False), BLOCK)
    try:
        yield stream
    except Exception:
        with suppress(OSError):  # stdout itself may be what failed
            stream.flush()  # what was done before a fatal error is not lost with the block
        raise
    stream.flush()  # a short output meets a closed pipe, or a full disk, only here


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    shown = str(path)
    path, descriptor = _followed(path)
    if descriptor is not None or (path.exists() and not path.is_file()):
        with naming(shown):
            raw = _Named(path if descriptor is None else os.dup(descriptor), shown)
        with io.BufferedWriter(raw, BLOCK) as stream:
            yield stream
        return
    part = _part(path)
    try:
        with io.BufferedWriter(_Named(part, shown), BLOCK) as file:
            with ExitStack() as stack:
                yield _compressed(file, path.suffix, stack)
            with naming(shown):
                file.flush()
                os.fsync(file.fileno())
        with naming(shown):
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


class _Named(io.FileIO):
    """A file to write, whose errors name it as the user does."""

    def __init__(self, file: Path | int, shown: str, *, closefd: bool = True) -> None:
        self._shown = shown
        with naming(shown):
            super().__init__(file, "wb", closefd=closefd)

    def write(self, data: Buffer, /) -> int:
        with naming(self._shown):
            return super().write(data)


def _followed(path: Path) -> tuple[Path, int | None]:
    """Follow links to a path, or to a descriptor of this process: /dev/stdout, /dev/fd/3."""
    own = Path(f"/proc/{os.getpid()}/fd")
    for _ in range(LINKS):
        if not path.is_symlink():
            break
        directory = Path(os.path.realpath(path.parent))  # resolve() fails on a loop of links
        if directory == own:
            return path, int(path.name)
        path = directory / path.readlink()
    return path, None


def _compressed(file: IO[bytes], suffix: str, stack: ExitStack) -> IO[bytes]:
    if suffix == ".zst":
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        return stack.enter_context(compressor.stream_writer(file, closefd=False))
    if suffix == ".gz":  # no name and no time inside: the same records give the same bytes
        stream = gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0)
        return stack.enter_context(io.BufferedWriter(stream, BLOCK))
    _refuse(suffix)
    return file
