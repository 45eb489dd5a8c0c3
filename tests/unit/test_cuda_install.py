"""What `pip install`, a wheel and a source archive carry, with the library and without.

Nothing is downloaded: what `llama` needs is there already (--no-deps, --no-build-isolation).
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cuda_ext import LIBRARY, build
from tests.nvcc import FAKE, copy_checkout, stand_in
from tests.shell import sh

PIP = f"{sys.executable} -m pip --disable-pip-version-check --no-input -q"
OFFLINE = "--no-deps --no-build-isolation --no-index"
ARCHIVE = f"{sys.executable} -c 'from setuptools import build_meta as b; b.build_sdist(\"dist\")'"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "checkout").mkdir()
    return copy_checkout(tmp_path / "checkout")


def run(script: str, folder: Path, **environment: str) -> str:
    done = sh(script, folder, env={"PYTHONPATH": "", "LLAMA_BUILD_HOST": "0", **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel(tree: Path, **environment: str) -> Path:
    """Make a wheel as pip does, and return it."""
    run(f"{PIP} wheel {OFFLINE} -w dist .", tree, CUDA_HOME=str(tree), **environment)
    [made] = (tree / "dist").glob("*.whl")
    return made


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return {x for x in opened.namelist() if x.startswith("cuda_ext/")}


def test_an_install_without_nvcc_and_gpu_runs_attention_on_pytorch(tree: Path) -> None:
    env = {"CUDA_HOME": str(tree), "CUDA_VISIBLE_DEVICES": ""}
    run(f"{PIP} install {OFFLINE} --target installed .", tree, **env)
    script = (
        "import torch, cuda_ext; from llama_cli.kernels import attention\n"
        "x = torch.ones(1, 1, 3, 64)\n"
        "print(cuda_ext.__file__, cuda_ext.LIBRARY.exists())\n"
        "print(attention.choose('cuda', torch.bfloat16, 64))\n"
        "print(attention.causal_attention(x, x, x).sum().item())"
    )
    env["PYTHONPATH"] = str(tree / "installed")
    found = run(f'{sys.executable} -c "{script}"', tree.parent, **env)
    package = tree / "installed" / "cuda_ext" / "__init__.py"
    assert found.splitlines() == [
        f"{package} False",
        "sdpa on cuda: the cuda kernel is not built",
        "192.0",
    ]


def test_a_wheel_without_nvcc_is_for_any_machine(tree: Path) -> None:
    made = wheel(tree)
    assert made.name.endswith("-py3-none-any.whl")
    sources = {f"cuda_ext/{source.name}" for source in build.sources()}
    assert names(made) >= sources  # to build from later: python -m cuda_ext.build
    assert f"cuda_ext/{LIBRARY.name}" not in names(made)


def test_a_wheel_with_nvcc_is_for_any_python_of_its_platform(tree: Path) -> None:
    stand_in(tree, FAKE)
    made = wheel(tree)
    assert "-py3-none-linux_" in made.name
    assert f"cuda_ext/{LIBRARY.name}" in names(made)


def test_a_wheel_that_is_to_have_no_library_has_none_though_one_is_there(tree: Path) -> None:
    stand_in(tree, FAKE)
    run(f"{sys.executable} -m cuda_ext.build", tree, CUDA_HOME=str(tree))
    made = wheel(tree, LLAMA_BUILD_CUDA="0")
    assert f"cuda_ext/{LIBRARY.name}" not in names(made)


def test_an_installed_library_is_known_to_be_of_the_sources_beside_it(tree: Path) -> None:
    stand_in(tree, FAKE)
    made = wheel(tree)
    with zipfile.ZipFile(made) as opened:
        opened.extractall(tree / "installed")
    script = "from cuda_ext import build; print(build.__file__, build.fresh())"
    env = {"PYTHONPATH": str(tree / "installed")}
    found = run(f"{sys.executable} -c '{script}'", tree.parent, **env)
    assert found == f"{tree}/installed/cuda_ext/build.py True\n"


def test_a_source_archive_holds_all_that_a_build_reads_and_nothing_built(tree: Path) -> None:
    stand_in(tree, FAKE)
    run(f"{sys.executable} -m cuda_ext.build", tree, CUDA_HOME=str(tree))
    run(f"rm -r bin && {ARCHIVE}", tree, CUDA_HOME=str(tree))
    [archive] = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tree / "unpacked", filter="data")
    [folder] = (tree / "unpacked").iterdir()
    assert {x.name for x in (folder / "cuda_ext").iterdir()} == {
        x.name for x in (tree / "cuda_ext").iterdir()
    } - {LIBRARY.name, "__pycache__"}
    stand_in(folder, FAKE)
    assert f"cuda_ext/{LIBRARY.name}" in names(wheel(folder))
