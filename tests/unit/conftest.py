"""What several unit tests need and only one should pay for: the library, built once a session.

By nvcc, as it ships, and by g++, to run lane by lane on a CPU. And sandboxes for programs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_ext import LIBRARY, build
from llama_cli.kernels.library import Library, libraries
from tests.kernels import compile_emulated, schedule
from tests.sandboxes import pool, sandboxed

__all__ = ["pool", "sandboxed"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build the library with the nvcc of this machine; return it and the report of ptxas."""
    try:
        build.release(build.find_nvcc())
    except RuntimeError as error:
        pytest.skip(str(error))
    target = tmp_path_factory.mktemp("nvcc") / LIBRARY.name
    return target, build.compile_to(target, "-Xptxas", "-v")


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Compile the kernels for a CPU, lane by lane."""
    return compile_emulated(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def emulated(emulated_library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Let tensors on a CPU run the emulated kernels, and count from zero."""
    monkeypatch.setitem(libraries, "cpu", emulated_library)
    schedule(emulated_library)
    return emulated_library
