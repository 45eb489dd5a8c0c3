"""Each kernel by itself, for tuning: time, rate, registers, shared memory, blocks at a time.

    python -m tests.gpu.kernel_times

From the trace of PyTorch's profiler, so that it is what ran and not what was compiled.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.gpu import attentions
from tests.gpu.table import ATOMICS, FLASH, OURS, Shape

SHAPES = (Shape(4, 16, 4_096, 128), Shape(4, 16, 4_096, 64))  # ours; 16,384 tokens
RUNS = 10  # ours
PRODUCTS = {  # of matrices, that a kernel makes; where it is not here, no rate is told
    (OURS, "forward"): 2,
    (OURS, "key_gradients"): 4,
    (OURS, "query_gradients"): 3,
    (ATOMICS, "forward"): 2,
    (ATOMICS, "key_gradients"): 5,
    (FLASH, "flash_fwd_kernel"): 2,
    (FLASH, "flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel"): 5,
}

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What the blocks on one share; of sm_80 and sm_90 alike but for shared memory, in bytes."""

    shared: int
    registers: int = 65_536
    threads: int = 2_048
    blocks: int = 32

    def resident(self, threads: int, registers: int, shared: int) -> int:
        """Return how many blocks it holds at a time, by registers a thread and bytes a block.

        A warp takes registers by 256, and each block 1 KB of shared memory for itself (CUDA C++
        Programming Guide, "Compute Capabilities").

        >>> Multiprocessor(shared=228 * 1024).resident(128, 255, 80 * 1024)
        2
        """
        by_registers = self.registers // (-(-threads // 32) * -(-registers * 32 // 256) * 256)
        by_shared = self.shared // (shared + 1024)
        return min(by_registers, by_shared, self.threads // threads, self.blocks)


def table(peaks: Mapping[Shape, float]) -> Iterator[str]:
    """Yield a row for each kernel that our attentions and FA2's launch."""
    yield (
        "| d | attention | kernel | ms | TFLOP/s | of matrix peak | registers | shared (KB) "
        "| blocks x threads | at a time |"
    )
    yield "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|"
    card = torch.cuda.get_device_properties()
    holds = Multiprocessor(card.shared_memory_per_multiprocessor)
    attends = attentions.attentions()
    for shape in SHAPES:
        for name in (OURS, ATOMICS, FLASH):
            call = partial(attentions.both, attends[name], *attentions.given(shape, "cuda"))
            yield from rows(name, shape, traced(call), holds, peaks.get(shape, 0))


def traced(call: Callable[[], object]) -> list[Event]:
    """Return the profiler's events of some runs."""
    call()
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(RUNS):
            call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text())["traceEvents"]
    return events


def rows(
    name: str, shape: Shape, events: list[Event], holds: Multiprocessor, peak: float
) -> Iterator[str]:
    """Yield a row for each kernel, in the order in which they first ran."""
    found: dict[str, list[Event]] = {}
    for event in sorted((e for e in events if e.get("cat") == "kernel"), key=lambda e: e["ts"]):
        found.setdefault(kernel(event["name"]), []).append(event)
    for each, launches in found.items():
        cells = [f"{shape.size}", name, f"`{each}`"]
        cells += timed(launches, shape.flops("forward") / 2 * PRODUCTS.get((name, each), 0), peak)
        cells += held(launches[0], holds)
        yield f"| {' | '.join(cells)} |"
    if not found:
        yield f"| {shape.size} | {name} | the profiler saw none" + " |" * 8


def kernel(name: str) -> str:
    """Return a kernel's own name, without its arguments and where it is from.

    >>> kernel("void (anonymous namespace)::a::forward<Bf16, 128>(Problem)")
    'forward'
    """
    words = re.match(r"[\w: ]+", name.replace("(anonymous namespace)::", ""))
    return re.split(r"[: ]", words[0].strip())[-1] if words else name


def timed(launches: list[Event], flops: float, peak: float) -> list[str]:
    milliseconds = statistics.median(event["dur"] for event in launches) / 1e3
    rate = flops / milliseconds / 1e9
    told = [f"{rate:.0f}", f"{rate / peak:.2f}" if peak else ""] if flops else ["", ""]
    return [f"{milliseconds:.3f}", *told]


def held(launch: Event, holds: Multiprocessor) -> list[str]:
    """Return what a launch takes, and how many blocks of it a multiprocessor has at a time."""
    told = launch["args"]
    registers, shared = told["registers per thread"], told["shared memory"]
    blocks, threads = (x * y * z for x, y, z in (told["grid"], told["block"]))
    return [
        f"{registers}",
        f"{shared / 1024:.0f}",
        f"{blocks:,} x {threads}",
        f"{holds.resident(threads, registers, shared)}",
    ]


if __name__ == "__main__":
    print(*table({}), sep="\n")
