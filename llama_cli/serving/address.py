"""Where a server listens: on this machine alone, unless clients need a token."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from llama_cli.errors import LlamaError
from llama_cli.serving.bearer import is_here

# seconds without a word before a client is asked whether it is still there, and how often; ours
ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


def bind(host: str, port: int, *, anywhere: bool) -> socket.socket:
    """Take an address; port 0 is any that is free.

    Raises:
        LlamaError: it is not this machine's own, and should be unless `anywhere`; or is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        if not anywhere and not is_here(str(address[0])):
            raise LlamaError(
                f"{host} can be reached from other machines, so clients need a token",
                hint=f"llama generate --serve {host}:{port} --token-file FILE",
            )
        with ExitStack() as stack:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds who vanished
            for option, value in ALIVE:
                bound.setsockopt(socket.IPPROTO_TCP, option, value)
            bound.bind(address)
            stack.pop_all()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        raise LlamaError(f"{host}:{port}: {reason.lower()}") from None
    return bound
