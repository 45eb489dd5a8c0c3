"""Plain bytes of an input as a file-like object that reads forward only."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.stream.reader import read_bytes

LONGEST_LINE = 1 << 16  # bytes; ours: no header has longer lines


class ByteStream:
    """Reads what the stream layer decompresses, and remembers the last bytes read.

    Every method raises Corrupt where the compressed input ends early or is damaged.
    """

    KEPT = 1024  # bytes: two blocks of tar

    def __init__(self, where: str) -> None:
        self._blocks: Iterator[bytes] = read_bytes(where)
        self._block = b""
        self._at = 0
        self.tail = b""

    def read(self, size: int = LONGEST_LINE) -> bytes:
        """Read up to `size` bytes; none only at the end."""
        if not self._fill():
            return b""
        piece = self._block[self._at : self._at + size]
        self._at += len(piece)
        self.tail = (piece if len(piece) >= self.KEPT else self.tail + piece)[-self.KEPT :]
        return piece

    def read_whole(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end."""
        pieces = []
        while size and (piece := self.read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        """Pass over `size` bytes; tell how many there were."""
        left = size
        while left and (piece := self.read(left)):
            left -= len(piece)
        return size - left

    def readline(self) -> bytes:
        r"""Read to a line's end, and with it; without it at the end, or past 64 KiB."""
        line = b""
        while len(line) < LONGEST_LINE and not line.endswith(b"\n") and self._fill():
            end = self._block.find(b"\n", self._at) + 1
            line += self.read((end or len(self._block)) - self._at)
        return line

    def drain(self) -> None:
        """Read to the end: only there does a compressed stream prove to be whole."""
        while self.read():
            pass

    def _fill(self) -> bool:
        while self._at == len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return False
            self._block, self._at = block, 0
        return True
