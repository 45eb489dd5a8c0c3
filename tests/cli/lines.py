"""Documents to feed a command line with, and processes to feed them to."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.shell import LLAMA, ROOT


def good(number: int) -> str:
    text = f"def function_{number}(value):\n    return value + {number}\n"
    return json.dumps({"id": str(number), "text": text, "source": "github", "metadata": {}})


def write(path: Path, count: int, start: int = 0) -> None:
    path.write_text("".join(good(number) + "\n" for number in range(start, start + count)))


def zstd(path: Path) -> Path:
    """Compress with the library: the zstd program is not on every machine."""
    import zstandard

    packed = path.with_name(f"{path.name}.zst")
    packed.write_bytes(zstandard.compress(path.read_bytes()))
    return packed


def ids(text: str) -> list[int]:
    return [int(json.loads(line)["id"]) for line in text.splitlines()]


def start(command: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        f"{LLAMA} {command}".split(),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError
