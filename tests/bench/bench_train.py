"""Training steps a second and memory of our trainer beside transformers' LlamaForCausalLM.

The 15m, batch 4 x 256, two threads. Steps are taken in turns, and the median of the ratios counts.
Ours compiled has its layers compiled, as `llama train` does it; the peer's whole forward is one
graph, with its loss. Memory is the most that a process of its own had resident, libraries and all.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from llama_cli.training.memory import peak_memory
from llama_cli.training.settings import DType, Settings
from tests.bench.run import Row
from tests.bench.trainers import Ours, Peer

SIZE, BATCH, LENGTH, THREADS = "15m", 4, 256, 2
ROUNDS = 15
MEMORY_STEPS = 5
TRAINERS = {"ours": Ours, "peer": Peer}
WAYS = ("eager", "compiled")


def rows() -> Iterator[Row]:
    """Compare the speeds of each dtype, then the memory."""
    torch.set_num_threads(THREADS)
    dtypes: tuple[DType, ...] = ("fp32", "bf16")
    for dtype in dtypes:
        yield from _speeds(dtype)
    for dtype in dtypes:
        for way in ("eager", "compiled"):
            yield _memory(dtype, way)


def _speeds(dtype: DType) -> Iterator[Row]:
    found = _race({f"{who} {way}": _trainer(who, dtype, way) for who in TRAINERS for way in WAYS})
    for way, other in (("eager", "eager"), ("eager", "compiled"), ("compiled", "compiled")):
        ours, theirs = found[f"ours {way}"], found[f"peer {other}"]
        yield Row(
            f"training step, {SIZE}, {dtype}, {way} (peer: transformers, {other})",
            _rate(ours),
            _rate(theirs),
            statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        )


def _trainer(who: str, dtype: DType, way: str) -> Ours | Peer:
    settings = Settings(steps=1000, batch=BATCH, lr=1e-3, warmup=100, dtype=dtype)
    return TRAINERS[who](SIZE, settings, compile=way == "compiled")


def _race(trainers: Mapping[str, Ours | Peer]) -> dict[str, list[float]]:
    """Give the seconds of every step, round by round; each round another begins."""
    tokens, names = _tokens(), list(trainers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in (*names, *names):
        trainers[name].step(1, tokens)  # the first warms up, and compiles
    for number in range(ROUNDS):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            trainers[name].step(number + 2, tokens)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _tokens() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 32_000, (BATCH, LENGTH + 1), generator=draw)


def _rate(seconds: list[float]) -> str:
    return f"{BATCH * LENGTH / statistics.median(seconds):.0f} tokens/s"


def _memory(dtype: DType, way: str) -> Row:
    ours, theirs = (_peak(who, dtype, way) for who in TRAINERS)
    return Row(
        f"peak memory of training, {SIZE}, {dtype}, {way} (peer: transformers, {way})",
        f"{ours / 1e6:.0f} MB",
        f"{theirs / 1e6:.0f} MB",
        theirs / ours,
    )


def _peak(who: str, dtype: str, way: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_train", who, dtype, way],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(re.findall(r"^\d+$", done.stdout, re.MULTILINE)[-1])


def _train_alone(who: str, dtype: DType, way: str) -> None:
    """Train a few steps, and print the most bytes that this process had."""
    torch.set_num_threads(THREADS)
    trainer, tokens = _trainer(who, dtype, way), _tokens()
    for number in range(1, MEMORY_STEPS + 1):
        trainer.step(number, tokens)
    print(peak_memory(torch.device("cpu")))


if __name__ == "__main__":
    _train_alone(*sys.argv[1:])
