"""From a model that lies on disk to its first token, beside `cat` of the same file.

A random LLaMA of 0.54 G parameters in bf16, 1.08 GB. Before each run the system is asked to forget
the file. Peak memory is that of the whole process, Python with it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from llama_cli.model.config import ModelConfig, parameter_shapes
from llama_cli.model.formats.ours import save_config
from llama_cli.model.safetensors import write_safetensors
from llama_cli.tokenizer.bpe import Tokenizer
from tests.bench.run import Row
from tests.shell import ROOT

CONFIG = ModelConfig(dim=2048, layers=8, heads=16, hidden=5632)
ROUNDS = 5
GENERATE = "-m llama_cli generate --prompt Once --max-tokens 1 --temperature 0 -q --format jsonl"


def rows() -> Iterator[Row]:
    """Measure `cat` and `llama generate` in turns, from the disk and from memory."""
    with TemporaryDirectory() as folder:
        # in another process: a child's peak is never under its parent's
        made = multiprocessing.get_context("spawn").Process(target=_model, args=(Path(folder),))
        made.start()
        made.join()
        weights = Path(folder, "model.safetensors")
        size = weights.stat().st_size
        generate = [sys.executable, *GENERATE.split(), "--model", folder]
        for cold in (True, False):
            taken = [_pair(weights, generate, cold=cold) for _ in range(ROUNDS)]
            first, cat, peak = (median(each) for each in zip(*taken, strict=True))
            where = "on disk" if cold else "in memory"
            yield Row(
                f"first token, {size / 1e9:.2f} GB of bf16 {where} (peer: `cat`)",
                f"{first:.2f} s",
                f"{cat:.2f} s",
                median(other / own for own, other, _ in taken),
            )
        yield Row(
            "the same, peak memory (peer: the file)",
            f"{peak / 1e6:,.0f} MB",
            f"{size / 1e6:,.0f} MB",
            size / peak,
        )
        eight = median(_run([*generate, "--quantize", "int8"])[0] for _ in range(ROUNDS))
        yield Row(
            "the same, put into int8 first (peer: `cat`)",
            f"{eight:.2f} s",
            f"{cat:.2f} s",
            cat / eight,
        )
        alone, _ = _run([sys.executable, "-c", "import torch"])
        yield Row("`python -c 'import torch'`, which ours goes without", f"{alone:.2f} s", "", None)


def _model(directory: Path) -> None:
    torch.manual_seed(0)
    path = directory / "model.safetensors"
    shapes = parameter_shapes(CONFIG)
    kinds = {name: (shape, "BF16") for name, shape in shapes.items()}
    write_safetensors(
        path, kinds, (torch.randn(shape).bfloat16() / 50 for shape in shapes.values())
    )
    save_config(CONFIG, directory)
    (directory / "tokenizer.model").write_bytes(Tokenizer.load().model)


def _pair(weights: Path, generate: Sequence[str], *, cold: bool) -> tuple[float, float, float]:
    """Give the seconds of both, and the peak memory of ours, in bytes."""
    _prepare(weights, cold=cold)
    cat, _ = _run(["cat", str(weights)])
    _prepare(weights, cold=cold)
    own, peak = _run(generate)
    return own, cat, peak


def _prepare(path: Path, *, cold: bool) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(1 << 24):
                pass


def _run(command: Sequence[str]) -> tuple[float, float]:
    begun = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{command[0]} ended with {status}"
    return time.monotonic() - begun, used.ru_maxrss * 1024
