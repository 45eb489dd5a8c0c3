"""Recognise and undo compression by the first bytes, never by the name.

zstd, gzip, bz2 and xz, concatenated frames too. Each library's streaming object tells
whether a frame really ended, which its file-like reader may hide: python-zstandard's
`stream_reader` takes a truncated file for a shorter one.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

import zstandard

BLOCK = 1 << 16  # bytes read at a time; ours
ZSTD_SKIPPABLE = tuple(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16))  # RFC 8878, 3.1.2


class Corrupt(ValueError):
    """Compressed input that ends early or does not decode."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> Any:
    # frames made with `zstd --long=31` need the whole window
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


FORMATS: tuple[tuple[tuple[bytes, ...], Callable[[], _Decoder]], ...] = (
    ((b"\x28\xb5\x2f\xfd", *ZSTD_SKIPPABLE), _zstd),
    ((b"\x1f\x8b",), _gzip),
    ((b"BZh",), bz2.BZ2Decompressor),
    ((b"\xfd7zXZ\x00",), lzma.LZMADecompressor),
)


def decoder_for(head: bytes) -> Callable[[], _Decoder] | None:
    """Name what undoes the compression of a stream that begins with `head`, if any does.

    >>> decoder_for(b"plain text") is None
    True
    """
    for magics, make in FORMATS:
        if head.startswith(magics):
            return make
    return None


def decompress(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plain bytes of a stream that may be compressed.

    Raises:
        Corrupt: the compressed input ends early, is damaged, or is followed by other bytes.
    """
    blocks = iter(blocks)
    head = b""
    for block in blocks:
        head += block
        if not _may_be_magic(head):  # of a pipe the next bytes may be long in coming
            break
    make = decoder_for(head)
    if make is None and _cut_magic(head):
        raise Corrupt("compressed input ends early (truncated?)")
    yield from (
        chain([head] if head else [], blocks) if make is None else _frames(head, blocks, make)
    )


def _cut_magic(head: bytes) -> bool:
    """Say whether a whole input is the beginning of a magic number, and no text."""
    return _may_be_magic(head) and not head.isascii()


def _may_be_magic(head: bytes) -> bool:
    """Say whether more bytes could make a magic number of it."""
    return any(magic.startswith(head) for magics, _ in FORMATS for magic in magics)


def _frames(head: bytes, blocks: Iterator[bytes], make: Callable[[], _Decoder]) -> Iterator[bytes]:
    decoder: _Decoder | None = make()
    data = head
    while True:
        while data:
            if decoder is None:
                decoder, data = _next_frame(data, blocks, make)
                if decoder is None:
                    return
            try:
                plain = decoder.decompress(data)
            except (zstandard.ZstdError, zlib.error, OSError, lzma.LZMAError, EOFError) as error:
                raise Corrupt(f"compressed input is damaged ({error})") from None
            if plain:
                yield plain
            data = b""
            if decoder.eof:
                data, decoder = decoder.unused_data, None
        data = next(blocks, b"")
        if not data:
            break
    if decoder is not None:
        raise Corrupt("compressed input ends early (truncated?)")


def _next_frame(
    data: bytes, blocks: Iterator[bytes], make: Callable[[], _Decoder]
) -> tuple[_Decoder | None, bytes]:
    """Start the frame that `data` begins, having read enough of it to know that it is one."""
    data = data.lstrip(b"\0")  # padding that tape tools and xz write between frames
    while _may_be_magic(data) and decoder_for(data) is None:
        more = next(blocks, b"")
        if not more:
            break
        data = (data + more).lstrip(b"\0") if not data else data + more
    if not data:
        return None, b""
    if decoder_for(data) is not make:
        if any(
            magic.startswith(data) for magics, kind in FORMATS if kind is make for magic in magics
        ):
            raise Corrupt("compressed input ends early (truncated?)")
        raise Corrupt("compressed input is followed by other bytes")
    return make(), data
