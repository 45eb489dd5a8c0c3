"""Who may ask: bearer tokens from a file, and for a server without them only this machine.

A page in a browser can post to a server of the same machine, and by rebinding a name (DNS) also
read the answer. So a server without tokens answers no page but its own machine's, and only to a
name of this machine.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from llama_cli.errors import LlamaError, naming
from llama_cli.serving.refusal import Refused


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a token a line; blank lines count for nothing.

    Raises:
        LlamaError: there is none, or one that no header can hold.
        OSError: the file cannot be read.
    """
    with naming(str(path)):
        lines = path.read_bytes().splitlines()
    tokens = tuple(line.strip().decode("ascii", "replace") for line in lines if line.strip())
    hint = f"openssl rand -hex 32 > {path}"
    if not tokens:
        raise LlamaError(f"{path}: no token", hint=hint)
    for number, line in enumerate(lines, 1):
        if not all(0x21 <= byte <= 0x7E for byte in line.strip()):
            raise LlamaError(f"{path}:{number}: a token is of ASCII, without spaces", hint=hint)
    return tokens


def check_token(given: str | None, tokens: tuple[str, ...]) -> None:
    """Let nobody through without one of the tokens; how long it takes tells nothing of them.

    Raises:
        Refused: 401.
    """
    scheme, _, token = (given or "").partition(" ")
    found = sha256(token.strip().encode()).digest()
    equal = [hmac.compare_digest(found, sha256(each.encode()).digest()) for each in tokens]
    if scheme.lower() != "bearer" or not any(equal):
        what = "a wrong token" if given else "no token; send 'Authorization: Bearer TOKEN'"
        raise Refused(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def check_origin(headers: Mapping[str, str]) -> None:
    """Let no page of another machine through.

    Raises:
        Refused: 403.
    """
    pages = [f"//{headers.get('host', '')}", *([headers["origin"]] if "origin" in headers else [])]
    if not all(is_here(_host(page)) for page in pages):
        raise Refused(403, "without --token-file only this machine may ask", code="forbidden")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_here(name: str) -> bool:
    """Tell whether a name or an address is this machine's own.

    >>> [is_here(name) for name in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
