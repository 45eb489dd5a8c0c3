"""Records of a WARC or WET file (ISO 28500), one at a time, and none lost without a word.

FastWARC takes a cut inside a header for the end of the file, wants `Content-Length` spelt
so, and in its lenient mode passes over what does not begin as a record; all three would
make a shorter corpus. Names are compared without case here, lines may end in LF alone, and
between two records there may be nothing but blank lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llama_cli.errors import DataError
from llama_cli.sources.bytestream import ByteStream
from llama_cli.stream.compression import Corrupt
from llama_cli.stream.reader import shown

EARLY = "crawl file ends early (truncated?)"


@dataclass(frozen=True, slots=True)
class Record:
    """Headers with their names in lower case, the length of the block, and the block.

    The block of a record over the limit is empty.
    """

    headers: Mapping[str, str]
    size: int
    block: bytes


def read_records(where: str, largest: int) -> Iterator[Record]:
    """Yield the records of a file; of blocks over `largest` bytes only the headers.

    Raises:
        DataError: it is no such file, or is damaged, or ends early; says which record.
    """
    stream, number = ByteStream(where), 1
    try:
        while line := _next_line(stream):
            if not line.startswith(b"WARC/"):
                raise Corrupt(
                    "not a WARC or WET file"
                    if number == 1
                    else "bytes between two records: is Content-Length true?"
                )
            yield _record(stream, line, largest)
            number += 1
        if number == 1:
            raise Corrupt("not a WARC or WET file")
    except Corrupt as error:
        raise DataError(shown(where), number, f"record: {error}") from None


def _next_line(stream: ByteStream) -> bytes:
    """Read the next line that is not blank; none at the end."""
    while line := stream.readline():
        if line.strip(b"\r\n"):
            return line
    return b""


def _record(stream: ByteStream, version: bytes, largest: int) -> Record:
    headers = _headers(stream, version)
    try:
        size = int(headers["content-length"])
    except (KeyError, ValueError):
        raise Corrupt("no Content-Length") from None
    block = stream.read_whole(size) if size <= largest else b""
    if len(block) + stream.skip(size - len(block)) < size:
        raise Corrupt(EARLY)
    return Record(headers, size, block)


def _headers(stream: ByteStream, version: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    name, line = "", version
    while line.endswith(b"\n"):
        line = stream.readline()
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text and line:
            return headers
        if text[:1] in " \t" and name:  # a folded line goes on with the one before
            headers[name] += f" {text.strip()}"
        else:
            name, _, value = text.partition(":")
            name = name.strip().lower()
            headers[name] = value.strip()
    raise Corrupt(EARLY)
