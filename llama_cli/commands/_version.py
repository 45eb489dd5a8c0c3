"""What `llama --version --verbose` adds: Python, the libraries, the attention that runs and why."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from llama_cli.errors import LlamaError

PAPER_HEADS = 128  # wide, in every LLaMA
LIBRARIES = ("torch", "numpy", "sentencepiece", "zstandard", "orjson")


def details() -> Iterator[str]:
    """Yield one line a component."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        yield f"{name} {metadata.version(name)}"
    yield from _attention()


def _attention() -> Iterator[str]:
    import torch  # a second that only these lines need

    from llama_cli.kernels import host, library
    from llama_cli.kernels.attention import choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        yield f"attention {choose(device, torch.bfloat16, PAPER_HEADS)}"
    except LlamaError as error:  # LLAMA_TRAIN_ATTENTION names what cannot run
        yield f"attention none on {device}: {error}"
    yield f"attention kernel {library.state()}"
    yield f"processor kernel {host.state()}"
