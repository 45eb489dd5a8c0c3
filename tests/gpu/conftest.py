"""Where the tests of this folder run: on a GPU, or in rehearsal on a CPU, emulated.

pytest tests/gpu                  on a GPU; skipped where there is none
pytest tests/gpu --device cuda    on a GPU; fails where there is none
pytest tests/gpu --device cpu     the same tests on small problems, kernels run lane by lane
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llama_cli.kernels.library import available, libraries
from tests.kernels import compile_emulated


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cuda", "cpu"], help="where the GPU tests run")


@pytest.fixture(scope="session")
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    asked = request.config.getoption("--device", None)
    if asked == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            emulated = compile_emulated(tmp_path_factory.mktemp("kernels"))
            patch.setitem(libraries, "cpu", emulated)
            yield "cpu"
        return
    why_not = available("cuda")
    if why_not and asked:
        pytest.exit(f"the cuda kernel {why_not}", 1)
    if why_not:
        pytest.skip(f"the cuda kernel {why_not}")
    yield "cuda"
