"""Members of a tar or zip archive, in the archive's order for tar, by name for zip.

The kind is recognised by its bytes, tar under any compression of the stream layer. An
archive that ends early is an error: tarfile takes a cut between members for an end, so
that the closing zero block is looked for here.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from posixpath import normpath
from typing import IO, cast

from llama_cli.errors import DataError, UsageError
from llama_cli.sources import clean
from llama_cli.sources.bytestream import ByteStream
from llama_cli.stream.compression import Corrupt
from llama_cli.stream.reader import open_raw, shown

ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # a first member, or the end of an empty archive
TAR_BLOCK = 512  # bytes; an archive ends with two such blocks of zeros


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file (or a link) in an archive; `read` only before the next is asked for."""

    path: str
    size: int
    is_link: bool
    read: Callable[[], bytes]


def members(where: str) -> Iterator[Member]:
    """Yield the files of an archive.

    Raises:
        DataError: it is no archive, or is damaged, or ends early.
    """
    if where == "-":
        raise UsageError("an archive is read twice, which stdin cannot be", hint="give its name")
    with open_raw(where) as raw:
        is_zip = raw.read(4) in ZIP
    return _zip_members(where) if is_zip else _tar_members(where)


def _tar_members(where: str) -> Iterator[Member]:
    stream, number = ByteStream(where), 0
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
            for info in archive:
                number += 1
                if info.isfile() or info.issym() or info.islnk():
                    read = _reader(archive, info)
                    yield Member(_relative(info.name), info.size, not info.isfile(), read)
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
        stream.drain()
    except (tarfile.TarError, Corrupt) as error:
        message = (
            str(error) if isinstance(error, Corrupt) else f"no archive, or a damaged one ({error})"
        )
        raise DataError(shown(where), number + 1, message) from None
    if stream.tail[-TAR_BLOCK:].strip(b"\0"):
        raise DataError(shown(where), number + 1, "tar archive ends early (truncated?)")


def _reader(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file = archive.extractfile(info)
        assert file is not None  # a regular file
        return file.read()

    return read


def _zip_members(where: str) -> Iterator[Member]:
    number = 0
    try:
        with open_raw(where) as raw, zipfile.ZipFile(raw) as archive:
            files = (info for info in archive.infolist() if not info.is_dir())
            for info in sorted(files, key=lambda info: info.filename):
                number += 1
                is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                read = _zip_reader(archive, info)
                yield Member(_relative(info.filename), info.file_size, is_link, read)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"damaged zip archive ({error})"
        raise DataError(shown(where), number, message) from None


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(info)


def _relative(name: str) -> str:
    """Drop what would lead out of the archive: ids are names, not places.

    >>> _relative("./a/../../b//c.py")
    'b/c.py'
    """
    parts = [part for part in normpath(clean(name)).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)
