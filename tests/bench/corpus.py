"""Text to measure on: the documentation and source of the installed packages, as documents."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

SUFFIXES = {".py", ".md", ".rst", ".txt", ".pyi", ".h"}


def documents(size: int, *, source: str) -> Iterator[bytes]:
    """Yield JSON lines of about `size` bytes in all, going round the files as often as needed.

    Each round marks its lines with its number, so that no paragraph comes twice.
    """
    paths = [
        p for p in sorted(Path(sysconfig.get_path("purelib")).rglob("*")) if p.suffix in SUFFIXES
    ]
    written = 0
    for round_ in count():
        for path in paths:
            text = path.read_text(errors="replace")[:200_000]
            if round_:
                text = "\n".join(f"{line} {chr(96 + round_) * 3}" for line in text.split("\n"))
            line = (
                json.dumps(
                    {"id": f"{round_}/{path.name}", "text": text, "source": source, "metadata": {}}
                ).encode()
                + b"\n"
            )
            yield line
            written += len(line)
            if written >= size:
                return


def write(path: Path, size: int, *, source: str) -> Path:
    """Write them to a file."""
    with path.open("wb") as file:
        file.writelines(documents(size, source=source))
    return path
