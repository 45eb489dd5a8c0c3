"""When the kernels are built, what is said, and what is left behind when they cannot be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cuda_ext import LIBRARY, SOURCE, build
from tests.nvcc import (
    BROKEN,
    BUILT,
    FAKE,
    KEPT,
    MUTE,
    NO_PROGRAM,
    OLD,
    SILENT,
    TALKATIVE,
    copy_checkout,
    stand_in,
)
from tests.shell import sh

INSTEAD = "attention runs on PyTorch's own"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path)


def library(tree: Path) -> Path:
    return tree / "cuda_ext" / LIBRARY.name


def install(tree: Path, nvcc: str | None, **environment: str) -> tuple[int, str]:
    """Run setup.py as `pip install -e` does, with this nvcc; return its status and its lines."""
    code, said = python(tree, "setup.py -q build_ext --inplace", nvcc, **environment)
    lines = [x for x in said.splitlines() if x.startswith(("cuda_ext: ", "error: "))]
    return code, "\n".join(lines)


def make(tree: Path, nvcc: str | None, **environment: str) -> tuple[int, str]:
    """Run `python -m cuda_ext.build`."""
    return python(tree, "-m cuda_ext.build", nvcc, **environment)


def python(tree: Path, arguments: str, nvcc: str | None, **more: str) -> tuple[int, str]:
    if nvcc is not None:
        stand_in(tree, nvcc)
    env = {"CUDA_HOME": str(tree), "PYTHONPATH": "", "LLAMA_BUILD_HOST": "0", **more}
    done = sh(f"{sys.executable} {arguments} 2>&1", tree, env=env)
    return done.returncode, re.sub(r"in \d+ s", "in 0 s", done.stdout.rstrip())


def test_an_install_with_nvcc_builds_the_library_once(tree: Path) -> None:
    assert install(tree, FAKE) == (0, f"cuda_ext: {BUILT.format(tree / 'bin/nvcc')}")
    assert library(tree).stat().st_size > 2_000_000
    assert install(tree, BROKEN) == (0, f"cuda_ext: {KEPT}")


def test_a_build_by_hand_is_the_same_and_is_kept_by_an_install(tree: Path) -> None:
    assert make(tree, FAKE) == (0, f"cuda_ext: {BUILT.format(tree / 'bin/nvcc')}")
    assert make(tree, BROKEN) == (0, f"cuda_ext: {KEPT}")
    assert install(tree, BROKEN) == (0, f"cuda_ext: {KEPT}")


def test_a_source_that_changes_builds_it_again(tree: Path) -> None:
    make(tree, FAKE)
    header = tree / "cuda_ext" / "problem.h"
    header.write_text(header.read_text() + "\n")
    os.utime(header, (0, 0))  # older than the library, as a checkout of an older commit may be
    assert make(tree, FAKE)[1].startswith("cuda_ext: built")


def test_flags_that_change_build_it_again(tree: Path) -> None:
    make(tree, FAKE)
    script = tree / "cuda_ext" / "build.py"
    script.write_text(script.read_text().replace('"-O3"', '"-O2"'))
    assert make(tree, FAKE)[1].startswith("cuda_ext: built")


def test_a_source_that_is_only_newer_does_not(tree: Path) -> None:
    make(tree, FAKE)
    os.utime(tree / "cuda_ext" / SOURCE.name, (time.time() + 9, time.time() + 9))
    assert make(tree, BROKEN) == (0, f"cuda_ext: {KEPT}")


def test_what_only_the_emulation_reads_does_not(tree: Path) -> None:
    make(tree, FAKE)
    (tree / "cuda_ext" / "emulate.h").write_text("changed\n")
    assert make(tree, BROKEN) == (0, f"cuda_ext: {KEPT}")


def test_a_copied_tree_keeps_its_library_where_there_is_no_nvcc(tree: Path) -> None:
    make(tree, FAKE)
    copy = shutil.copytree(tree, tree / "copy", ignore=shutil.ignore_patterns("bin"))
    assert install(copy, None) == (0, f"cuda_ext: {KEPT}")


def test_an_install_without_nvcc_goes_on_and_says_so(tree: Path) -> None:
    said = f"cuda_ext: not built: no nvcc in CUDA_HOME ({tree}/bin); {INSTEAD}"
    assert install(tree, None) == (0, said)
    assert not library(tree).exists()


def test_an_nvcc_that_fails_does_not_stop_an_install(tree: Path) -> None:
    said = f"cuda_ext: not built: nvcc failed: attention.cu(1): error: no such GPU; {INSTEAD}"
    assert install(tree, BROKEN) == (0, said)
    assert not library(tree).exists()


def test_a_library_that_could_not_be_built_again_stays_but_is_not_taken_for_new(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tree, FAKE)
    (tree / "cuda_ext" / "new.h").write_text("\n")
    assert install(tree, BROKEN)[0] == 0
    assert library(tree).exists()
    monkeypatch.setattr(build, "SOURCE", tree / "cuda_ext" / SOURCE.name)
    assert not build.fresh(library(tree))


@pytest.mark.parametrize(
    ("nvcc", "said"),
    [
        (None, "no nvcc in CUDA_HOME ({}/bin)"),
        (BROKEN, "nvcc failed: attention.cu(1): error: no such GPU"),
    ],
)
def test_a_build_that_is_forced_fails_where_it_cannot_be(
    tree: Path, nvcc: str | None, said: str
) -> None:
    found = install(tree, nvcc, LLAMA_BUILD_CUDA="1")
    assert found == (1, f"error: LLAMA_BUILD_CUDA=1, but {said.format(tree)}")


def test_a_build_that_is_forced_keeps_nothing(tree: Path) -> None:
    make(tree, FAKE)
    assert make(tree, FAKE, LLAMA_BUILD_CUDA="1")[1].startswith("cuda_ext: built")


def test_a_build_that_is_forbidden_is_not_tried(tree: Path) -> None:
    said = "cuda_ext: not built: LLAMA_BUILD_CUDA=0"
    assert install(tree, FAKE, LLAMA_BUILD_CUDA="0") == (0, f"{said}; {INSTEAD}")
    assert make(tree, FAKE, LLAMA_BUILD_CUDA="0") == (1, said)


def test_another_value_of_the_variable_is_refused(tree: Path) -> None:
    said = "LLAMA_BUILD_CUDA is 0 or 1, not 'yes'"
    assert make(tree, FAKE, LLAMA_BUILD_CUDA="yes") == (1, said)
    assert python(tree, "setup.py -q build_ext", FAKE, LLAMA_BUILD_CUDA="yes") == (1, said)


@pytest.mark.parametrize(
    ("nvcc", "said"),
    [
        (OLD, "{} is of CUDA 11.8, and 12.1 or newer is needed"),
        (TALKATIVE, "nvcc failed: host_config.h:143:2: error: #error -- unsupported GNU version!"),
        (SILENT, "nvcc failed: status 3"),
        (MUTE, "{} --version names no release"),
        (NO_PROGRAM, "{}: Exec format error"),
        (None, "no nvcc in CUDA_HOME ({}/bin)"),
    ],
)
def test_why_it_was_not_built_is_one_line(tree: Path, nvcc: str | None, said: str) -> None:
    where = tree if nvcc is None else tree / "bin" / "nvcc"
    assert make(tree, nvcc) == (1, f"cuda_ext: not built: {said.format(where)}")


def test_a_folder_that_cannot_be_written_is_said_before_nvcc_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / LIBRARY.name  # what root cannot write either
    with pytest.raises(RuntimeError, match=f"^cannot write {target}: Not a directory$"):
        build.compile_to(target)


def test_help_says_what_decides_and_how_it_ends() -> None:
    done = sh(f"{sys.executable} -m cuda_ext.build --help", SOURCE.parents[1])
    assert done.returncode == 0
    assert "LLAMA_BUILD_CUDA=1" in done.stdout
    assert "Exits with 0" in done.stdout


def test_two_builds_at_once_never_show_half_a_library(tree: Path) -> None:
    make(tree, FAKE)
    whole = library(tree).read_bytes()
    command = [sys.executable, "-m", "cuda_ext.build"]
    env = {"CUDA_HOME": str(tree), "LLAMA_BUILD_CUDA": "1"}
    builds = [subprocess.Popen(command, cwd=tree, env=env) for _ in range(2)]
    while any(one.poll() is None for one in builds):
        assert library(tree).read_bytes() == whole
    assert [one.returncode for one in builds] == [0, 0]
    assert [x.name for x in (tree / "cuda_ext").iterdir() if LIBRARY.name in x.name] == [
        LIBRARY.name
    ]
