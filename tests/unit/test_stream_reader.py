"""Input is recognised by its bytes, numbered, and never silently short."""

from __future__ import annotations

import bz2
import gzip
import lzma
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.errors import DataError, LlamaError
from llama_cli.stream import reader
from llama_cli.stream.compression import Corrupt, decompress
from llama_cli.stream.reader import Chunk, read_chunks, read_lines

Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
LINES = b"".join(b'{"n": %d}\n' % n for n in range(5000))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_concatenated_frames_are_one_stream_however_they_arrive(pack: Pack, size: int) -> None:
    plain = LINES[:2000]
    assert b"".join(decompress(cut(pack(plain) + pack(b"") + pack(plain), size))) == plain * 2


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
@pytest.mark.parametrize("at", [7, 0.5, -1])
def test_a_truncated_frame_is_an_error(pack: Pack, at: float) -> None:
    packed = pack(LINES)
    end = int(at * len(packed)) if at == 0.5 else int(at)
    with pytest.raises(Corrupt, match="ends early"):
        list(decompress(cut(packed[:end], 1000)))


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
@pytest.mark.parametrize("kept", [1, 3, 8])
def test_a_second_frame_that_is_truncated_is_an_error(pack: Pack, kept: int) -> None:
    with pytest.raises(Corrupt):
        list(decompress([pack(LINES) + pack(LINES)[:kept]]))


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_padding_of_zero_bytes_after_a_frame_is_allowed(pack: Pack) -> None:
    packed = pack(LINES) + b"\0" * 9
    assert b"".join(decompress(cut(packed, 100))) == LINES


def test_other_bytes_after_a_frame_are_an_error() -> None:
    with pytest.raises(Corrupt, match="followed by other bytes"):
        list(decompress([gzip.compress(LINES) + b"plain text"]))


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_a_damaged_frame_is_an_error(pack: Pack) -> None:
    packed = bytearray(pack(LINES))
    packed[len(packed) // 2 :] = b"\xff" * (len(packed) - len(packed) // 2)
    with pytest.raises(Corrupt):
        list(decompress([bytes(packed)]))


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"])
def test_an_input_cut_inside_its_magic_number_is_truncated_too(magic: bytes) -> None:
    for end in range(2, len(magic)):
        with pytest.raises(Corrupt, match="ends early"):
            list(decompress([magic[:end]]))


@pytest.mark.parametrize("text", [b"(", b"B", b"BZ", b""])
def test_a_short_text_that_begins_like_a_magic_number_is_text(text: bytes) -> None:
    assert b"".join(decompress([text])) == text


def test_an_empty_zstd_skippable_frame_is_recognised() -> None:
    skippable = b"\x50\x2a\x4d\x18" + b"\x03\0\0\0" + b"abc"
    assert b"".join(decompress([skippable + zstandard.compress(b"x")])) == b"x"


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_come_back_from_zstd_as_they_were(data: bytes, size: int) -> None:
    assert b"".join(decompress(cut(zstandard.compress(data), size))) == data


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    where = write(tmp_path / "in", b"a\nb")
    assert list(read_chunks(where)) == [Chunk(where, 1, [b"a", b"b"])]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    assert list(read_chunks(write(tmp_path / "in", b""))) == []


def test_numbers_count_blank_lines_and_go_on_over_chunks(tmp_path: Path) -> None:
    where = write(tmp_path / "in", b"a\n\n  \nb\n")
    assert list(read_lines([where, where])) == [(where, 1, b"a"), (where, 4, b"b")] * 2
    numbers = [chunk.line for chunk in read_chunks(write(tmp_path / "big", LINES * 30), size=4096)]
    assert numbers[0] == 1
    assert numbers == sorted(set(numbers))


def test_a_chunk_is_never_cut_inside_a_line(tmp_path: Path) -> None:
    where = write(tmp_path / "in", LINES * 30)
    chunks = list(read_chunks(where, size=1000))
    assert len(chunks) > 10
    assert b"\n".join(line for chunk in chunks for line in chunk.lines) + b"\n" == LINES * 30


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    where = write(tmp_path / "in", b'\xef\xbb\xbf{"a": 1}\n')
    assert next(read_lines([where]))[2] == b'{"a": 1}'


def test_what_came_whole_before_a_truncation_is_given_then_the_place_is_named(
    tmp_path: Path,
) -> None:
    packed = zstandard.compress(b"first\nsecond\n") + zstandard.compress(LINES)[:40]
    where = write(tmp_path / "in", packed)
    chunks = read_chunks(where)
    assert next(chunks) == Chunk(where, 1, [b"first", b"second"])
    with pytest.raises(DataError, match=r"in:3: compressed input ends early \(truncated\?\)"):
        next(chunks)


def test_a_line_that_never_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LONGEST_LINE", 200_000)
    with pytest.raises(DataError, match=":1: line over"):
        list(read_chunks(write(tmp_path / "in", b"x" * 300_000)))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_url_is_read_like_a_file(tmp_path: Path, served: str) -> None:
    write(tmp_path / "in.zst", zstandard.compress(LINES))
    lines = [line for chunk in read_chunks(f"{served}/in.zst") for line in chunk.lines]
    assert len(lines) == 5000


def test_a_url_that_is_not_there_is_one_line(served: str) -> None:
    with pytest.raises(LlamaError, match=r"nothing\.zst"):
        list(read_chunks(f"{served}/nothing.zst"))


def test_a_truncated_url_is_located_like_a_file(tmp_path: Path, served: str) -> None:
    packed = zstandard.compress(b"first\n") + zstandard.compress(LINES)[:40]
    write(tmp_path / "in.zst", packed)
    chunks = read_chunks(f"{served}/in.zst")
    assert next(chunks).lines == [b"first"]
    with pytest.raises(DataError, match=r"in\.zst:2: compressed input ends early"):
        next(chunks)


@pytest.mark.parametrize(("first", "more"), [(b"a\n", b"b\n"), (b"B\n", b"\n"), (b"\x1f\n", b"c")])
def test_a_short_line_of_a_pipe_is_read_before_the_next_one_comes(first: bytes, more: bytes):
    def slowly() -> Iterator[bytes]:
        yield first
        raise AssertionError("the next was waited for")

    assert next(decompress(slowly())) == first
    assert b"".join(decompress([first, more])) == first + more
