"""What several unit tests need and only one should pay for: the library, built by nvcc once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_ext import LIBRARY, build


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build the library with the nvcc of this machine; return it and the report of ptxas."""
    try:
        build.find_nvcc()
    except RuntimeError as error:
        pytest.skip(str(error))
    target = tmp_path_factory.mktemp("nvcc") / LIBRARY.name
    return target, build.compile_to(target, "-Xptxas", "-v")
