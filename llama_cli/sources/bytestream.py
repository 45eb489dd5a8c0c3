"""Plain bytes of an input as the file-like object that archive libraries want."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.stream.reader import read_bytes


class ByteStream:
    """Reads forward only, decompressed by the stream layer, and remembers its last bytes."""

    KEPT = 1024  # bytes: two blocks of tar, or the end of a crawl record

    def __init__(self, where: str) -> None:
        self._blocks: Iterator[bytes] = read_bytes(where)
        self._rest = memoryview(b"")
        self._position = 0
        self.tail = b""

    def read(self, size: int = 1 << 16) -> bytes:
        """Read up to `size` bytes; none at the end.

        Raises:
            Corrupt: the compressed input ends early or is damaged.
        """
        self.peek()
        piece = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        self._position += len(piece)
        self.tail = (piece if len(piece) >= self.KEPT else self.tail + piece)[-self.KEPT :]
        return piece

    def peek(self) -> bytes:
        """Look at the bytes that the next read begins with; none at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = memoryview(block)
        return bytes(self._rest[: self.KEPT])

    def tell(self) -> int:
        """Tell how many bytes were read."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Refuse: a pipe cannot go back."""
        raise OSError("the input cannot be read backwards")

    def close(self) -> None:
        """Let go of the input."""
        self._blocks = iter(())

    def drain(self) -> None:
        """Read to the end: only there does a compressed stream prove to be whole."""
        while self.read():
            pass
