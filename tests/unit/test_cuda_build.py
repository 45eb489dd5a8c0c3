"""The kernels under nvcc: when they are built, what is said, and what ptxas makes of them."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from cuda_ext import LIBRARY, SOURCE, build
from llama_cli.errors import NotReadyError
from llama_cli.kernels import extension
from tests.shell import ROOT, sh

FAKE = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n'
BROKEN = '#!/bin/sh\necho "attention.cu(1): error: no such GPU" >&2\nexit 2\n'


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy what an install of the kernels reads."""
    shutil.copytree(SOURCE.parent, tmp_path / "cuda_ext", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / "llama_cli").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "llama_cli/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def install(tree: Path, nvcc: str | None, **environment: str) -> tuple[int, str]:
    """Run setup.py as `pip install -e` does, with this nvcc; return its status and its lines."""
    if nvcc is not None:
        (tree / "bin").mkdir(exist_ok=True)
        (tree / "bin/nvcc").write_text(nvcc)
        (tree / "bin/nvcc").chmod(0o755)
    env = {"CUDA_HOME": str(tree), "PYTHONPATH": "", **environment}
    done = sh(f"{sys.executable} setup.py -q build_ext --inplace 2>&1", tree, env=env)
    lines = [x for x in done.stdout.splitlines() if x.startswith(("cuda_ext: ", "error: "))]
    return done.returncode, "\n".join(lines)


def test_an_install_with_nvcc_builds_the_library_once(tree: Path) -> None:
    assert install(tree, FAKE) == (0, f"cuda_ext: built {LIBRARY.name} for sm_80, sm_90 and PTX")
    assert (tree / "cuda_ext" / LIBRARY.name).read_text() == "made\n"
    assert install(tree, BROKEN) == (0, f"cuda_ext: kept {LIBRARY.name}, newer than its sources")


def test_an_install_without_nvcc_goes_on_and_says_so(tree: Path) -> None:
    said = "cuda_ext: not built: no nvcc on PATH; attention runs on PyTorch's own"
    assert install(tree, None) == (0, said)


def test_an_nvcc_that_fails_does_not_stop_an_install(tree: Path) -> None:
    code, said = install(tree, BROKEN)
    assert code == 0
    assert "not built: nvcc failed: attention.cu(1): error: no such GPU;" in said


def test_a_build_that_is_forced_fails_where_it_cannot_be(tree: Path) -> None:
    assert install(tree, BROKEN, LLAMA_BUILD_CUDA="1")[0] == 1
    assert install(tree, None, LLAMA_BUILD_CUDA="0")[1].startswith(
        "cuda_ext: not built: LLAMA_BUILD_CUDA=0"
    )


def test_another_value_of_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="is 0 or 1, not 'yes'"):
        build.wanted()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build the library with the nvcc of this machine; return it and the report of ptxas."""
    if build.find_nvcc() is None:
        pytest.skip("no nvcc on this machine")
    target = tmp_path_factory.mktemp("nvcc") / LIBRARY.name
    return target, build.build(target, "-Xptxas", "-v")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_no_kernel_keeps_registers_in_memory(compiled: tuple[Path, str], architecture) -> None:
    pattern = rf"Compiling entry function '(\w+)' for '{architecture}'\n.*\n\s*(.*)\n.*Used (\d+)"
    found = re.findall(pattern, compiled[1])
    assert len({name for name, _, _ in found}) == 4 * 2 * 2  # kernels, head sizes, dtypes
    nothing = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    assert {memory for _, memory, _ in found} == {nothing}
    assert max(int(registers) for _, _, registers in found) <= 255


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_without_a_driver_the_library_opens_and_a_launch_is_a_clear_error(compiled) -> None:
    library = extension.load(compiled[0])
    problem = extension.Problem(batch=1, heads=1, length=1, head_size=64)
    code = library.llama_attention_forward(problem, None)
    found = extension.failure(code, library.llama_attention_error(code).decode())
    assert isinstance(found, NotReadyError), found
