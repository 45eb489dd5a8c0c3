"""From what `--scorer` says to a scorer: KIND:ARGUMENT, and settings after commas.

linear:toxicity.safetensors
perspective:key.txt,quota=10,cache=scores.jsonl
command:python score.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llama_cli.errors import UsageError
from llama_cli.evaluation.scorers import Scorer
from llama_cli.evaluation.scorers.command import Program

KINDS = ("linear", "perspective", "command")
HINT = "--scorer linear:FILE, perspective:KEYFILE or 'command:PROGRAM ...'"
SETTINGS: dict[str, Callable[[str], Any]] = {
    "url": str,
    "quota": float,
    "attribute": str,
    "languages": lambda value: tuple(value.split("+")),
    "cache": Path,
}


def choose(spec: str, say: Callable[[str], object] = lambda words: None) -> Scorer:
    """Open a scorer; `say` is told why one waits.

    Raises:
        UsageError: there is no such kind or setting.
        NotReadyError: its file is not there.
    """
    kind, colon, argument = spec.partition(":")
    if kind not in KINDS or not colon or not argument:
        raise UsageError(f"no scorer '{spec}'", hint=HINT)
    if kind == "linear":
        from llama_cli.evaluation.scorers.linear import load

        return load(Path(argument))
    if kind == "command":
        return Program(argument)
    from llama_cli.evaluation.scorers.perspective import Perspective

    key_file, *settings = re.split(r",(?=\w+=)", argument)
    return Perspective(Path(key_file), **dict(map(_setting, settings)), say=say)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name not in SETTINGS:
        raise UsageError(f"perspective has no setting '{name}'; it has {', '.join(SETTINGS)}")
    try:
        read = SETTINGS[name](value)
    except ValueError:
        raise UsageError(f"{name}={value} is not a number") from None
    bad = {"quota": lambda: not 0 < read < float("inf"), "url": lambda: not _is_http(value)}
    if not value or bad.get(name, bool)():
        raise UsageError(f"{name}={value} makes no sense")
    return name, read


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and plain
