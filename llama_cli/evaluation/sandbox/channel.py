"""Messages between us and the process that forks programs: a length, then marshal's bytes.

Both ends are ours, and the same Python; a program never holds an end.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")


def send(channel: socket.socket, message: Any) -> None:
    """Send what is made of plain data."""
    data = marshal.dumps(message)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket) -> Any:
    """Wait for a message.

    Raises:
        EOFError: the other end is closed.
        TimeoutError: the socket's timeout has passed.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    return marshal.loads(_exactly(channel, length))


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        block = channel.recv(min(length - len(data), 2**20))
        if not block:
            raise EOFError("the other end is closed")
        data += block
    return bytes(data)
