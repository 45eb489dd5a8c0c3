"""A file of weights that is cut short, or becomes another, while its model is used."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_cli.errors import NotReadyError
from llama_cli.inference.backend import Backend, Piece, open_network
from llama_cli.kernels import host
from llama_cli.model.config import ModelConfig
from llama_cli.model.formats import meta, open_source
from llama_cli.model.weights import save_weights
from tests.shell import ROOT
from tests.unit.formats import model

CONFIG = ModelConfig(dim=128, layers=2, heads=2, hidden=256, vocab_size=400)
LEFT = 64 << 10  # bytes of a file of more than a million

pytestmark = pytest.mark.skipif(not host.available(), reason="PyTorch holds weights in memory")


@pytest.fixture(params=["llama/model.safetensors", "meta/consolidated.00.pth"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a model, and give the file of its weights."""
    (tmp_path / "llama").mkdir()
    save_weights(model(CONFIG), tmp_path / "llama")
    (tmp_path / "meta").mkdir()
    meta.write(open_source(tmp_path / "llama"), tmp_path / "meta")
    path: Path = tmp_path / request.param
    return path


def ran(network: Backend) -> None:
    cache = network.cache()
    cache.grow(1, 4)
    network.logits(network.states([1, 2, 3, 399], [Piece(0, 0, 4)], cache))


def said_by(work: Callable[[], None]) -> str | int:
    """Give the error of work that another process does, or the signal that ends it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            work()
        except NotReadyError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else said


@pytest.mark.parametrize("quantize", [False, True])
def test_a_file_cut_short_while_its_model_runs_is_named(weights: Path, quantize: bool) -> None:
    def work() -> None:
        network = open_network(open_source(weights.parent), quantize=quantize, threads=2)
        ran(network)
        os.truncate(weights, LEFT)
        ran(network)

    # in eight bits only the embedding is still read from the file, by any token
    assert said_by(work) == f"{weights}: cut short while it was read"


@pytest.mark.parametrize("how", ["rows", "quantize", "dtype"])
def test_a_file_cut_short_while_it_is_loaded_is_named(weights: Path, how: str) -> None:
    def work() -> None:
        source = open_source(weights.parent)
        source.array("norm.weight")  # it is mapped
        os.truncate(weights, LEFT)
        open_network(source, quantize=how == "quantize", dtype="BF16" if how == "dtype" else None)

    said = f"{weights}: cut short while it was read"
    assert said_by(work) == said if how != "rows" else said_by(work) in ("", said)


NOT_WATCHED = """
import mmap, os, sys
import numpy as np
from llama_cli.errors import NotReadyError
from llama_cli.kernels import host

def mapped():
    with open(sys.argv[1], "rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return found, np.frombuffer(found, np.uint8)

(gone, array), (_, other) = mapped(), mapped()
host.watch(gone, array.ctypes.data, len(array), "file")
os.truncate(sys.argv[1], 0)
print(array.any())
try:
    host.check()
except NotReadyError as error:
    print(error)
del gone, array
host.check()  # whose file it was is gone, and forgotten
print("others", flush=True)
other.any()
"""


def test_what_is_not_watched_ends_the_process_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1" * 2 * mmap.PAGESIZE)
    done = subprocess.run(
        [sys.executable, "-c", NOT_WATCHED, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGBUS
    assert done.stdout.splitlines() == ["False", "file: cut short while it was read", "others"]


@pytest.mark.parametrize("put", ["another", "nothing", "text"])
def test_a_file_that_becomes_another_after_it_was_looked_into_is_named(
    tmp_path: Path, put: str
) -> None:
    save_weights(model(CONFIG), tmp_path)
    path, source = tmp_path / "model.safetensors", open_source(tmp_path)
    if put == "another":
        save_weights(model(CONFIG).to(torch.bfloat16), tmp_path)
    else:
        path.write_bytes(b"" if put == "nothing" else b"a text of more than eight letters")
    with pytest.raises(NotReadyError, match="changed while it was read") as caught:
        open_network(source)
    assert str(caught.value).startswith(f"{path}: ")
