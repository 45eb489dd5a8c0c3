"""Loading takes the memory of the weights and at most a tenth more, whatever their layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_cli.model.config import ModelConfig
from llama_cli.model.formats import hugging_face, meta, open_source
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import save_weights
from tests.shell import ROOT
from tests.tiny import tiny_checkpoint

# 50 million weights in fp32, of which no tensor is more than a thirtieth
LARGE = ModelConfig(dim=768, layers=8, heads=12, hidden=1792, vocab_size=2000, kv_heads=6)

# VmHWM is the most that was ever resident, files that are mapped included; 5 sets it back
SCRIPT = """
import sys
from pathlib import Path
from llama_cli.model.config import parameter_shapes
from llama_cli.model.formats import open_source
from llama_cli.model.formats.loading import load

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def opened(path):
    how = sys.argv[3]
    source = open_source(Path(path))
    if sys.argv[3] == "arrays":
        weights = [source.array(name) for name in parameter_shapes(source.config)]
    else:
        model = load(source, columns=sys.argv[3] == "columns")
        weights = [weight.detach() for weight in model.parameters()]
    for weight in weights:
        weight.reshape(-1)[::1024].sum()  # a number of each page
    return weights

opened(sys.argv[1])  # what is loaded with the first model is not the model's
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
weights = opened(sys.argv[2])
print(resident("VmHWM") - before, sum(weight.nbytes for weight in weights))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large")
    for name in ("small", "llama", "hf", "one", "meta"):
        (path / name).mkdir()
    tiny_checkpoint(path / "small" / "llama")
    save_weights(Transformer(LARGE), path / "llama")
    source = open_source(path / "llama")
    hugging_face.write(source, path / "hf", limit=40_000_000)
    hugging_face.write(source, path / "one")
    meta.write(source, path / "meta", shards=2)
    small = open_source(path / "small" / "llama")
    for name, write in (
        ("hf", hugging_face.write),
        ("one", hugging_face.write),
        ("meta", meta.write),
    ):
        (path / "small" / name).mkdir()
        write(small, path / "small" / name)
    return path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts it")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llama", "rows"),
        *((name, "columns") for name in ("llama", "hf", "one", "meta")),
        *((name, "arrays") for name in ("llama", "hf", "one", "meta")),
    ],
)
def test_loading_takes_the_memory_of_the_weights(large: Path, name: str, how: str) -> None:
    arguments = [str(large / "small" / name), str(large / name), how]
    for _ in range(3):  # how much of a file the system maps at a time is not always the same
        taken, weights = measured(arguments)
        if taken < weights * 1.1:
            break
    assert weights == LARGE.parameters * torch.float32.itemsize > 150_000_000
    assert weights * 0.9 < taken < weights * 1.1


def measured(arguments: list[str]) -> tuple[int, int]:
    """Give the bytes that loading took at most, and those of the weights."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    taken, weights = map(int, done.stdout.split())
    return taken, weights
