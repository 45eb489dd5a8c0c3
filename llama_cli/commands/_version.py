"""What `llama --version --verbose` adds: Python, the libraries, the attention that runs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

LIBRARIES = ("torch", "numpy", "sentencepiece", "zstandard", "orjson")


def details() -> Iterator[str]:
    """Yield one line a component."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        yield f"{name} {metadata.version(name)}"
