"""What `llama --version --verbose` adds: Python, the libraries, and the attention that runs."""

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
    yield _attention()


def _attention() -> str:
    import torch  # a second that only this line needs

    from llama_cli.kernels.attention import backend

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"attention {backend(device, torch.bfloat16)} on {device}"
