"""Time the attention kernels beside PyTorch's, and judge: `make gpu`, or

    python -m tests.gpu.time_attention --save attention.md

Prints tables of rates, of targets, of memory and of single kernels, and adds them to
docs/benchmarks.md under today's date, as to every file named by --save. With --wrong, which says
why the kernel is, they are marked so and docs/benchmarks.md is left alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from llama_cli.errors import LlamaError
from llama_cli.kernels import library
from tests.gpu import attentions, clock, kernel_times, machine, table
from tests.gpu.attentions import Attend
from tests.gpu.table import PARTS, Shape, Timing
from tests.shell import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"

TOKENS, HEADS = 16_384, 16  # ours; as many as fill the card
SIZES = (128, 64)  # of a head
LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384)
MEMORY_AT = 8_192
MATRIX = 8_192  # rows and columns of the product that shows what the tensor cores can do
PRODUCT = "matrix product"


def shape_of(length: int, size: int) -> Shape:
    return Shape(max(1, TOKENS // length), HEADS, length, size)


@dataclass(slots=True)
class Measured:
    """What one run found."""

    timings: list[Timing]
    peaks: dict[Shape, float]  # TFLOP/s of a matrix product, taken in turns with the timings
    spread: float  # the widest, of quartiles about their median


def measure(
    shapes: list[Shape],
    attends: dict[str, Attend],
    *,
    device: str = "cuda",
    in_turns: Callable[..., dict[str, list[float]]] = clock.in_turns,
) -> Measured:
    """Time every attention at every shape, and a matrix product beside."""
    measured = Measured([], {}, 0)
    product = matrix_product(device)
    for shape in shapes:
        calls, troubles = prepare(shape, attends, device)
        times = in_turns({**calls, PRODUCT: product})
        medians = {name: statistics.median(each) for name, each in times.items()}
        measured.spread = max(measured.spread, *map(clock.spread, times.values()))
        measured.peaks[shape] = 2 * MATRIX**3 / medians[PRODUCT] / 1e9
        for name in attends:
            parts = [medians.get(f"{name} {part}", 0) for part in PARTS[:2]]
            measured.timings.append(Timing(name, shape, *parts, trouble=troubles.get(name, "")))
    return measured


def matrix_product(device: str) -> clock.Call:
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    return lambda _: a @ b


def prepare(
    shape: Shape, attends: dict[str, Attend], device: str
) -> tuple[dict[str, clock.Call], dict[str, str]]:
    """Return what to time, by attention and part, and why the others do not run."""
    sets = [attentions.given(shape, device) for _ in range(sets_beyond_cache(shape, device))]
    calls: dict[str, clock.Call] = {}
    troubles = {}
    for name, attend in attends.items():
        if name == attentions.MATH and shape.length > attentions.MATH_UP_TO:
            troubles[name] = "not run"
            continue
        try:
            for part, call in attentions.calls(attend, sets).items():
                calls[f"{name} {part}"] = call
        except (RuntimeError, LlamaError) as error:
            troubles[name] = machine.first_line(error)
    return calls, troubles


def sets_beyond_cache(shape: Shape, device: str) -> int:
    """Return how many sets of inputs, used in turn, are twice what the GPU's L2 cache holds."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 0
    bytes_of_set = 4 * 2 * shape.batch * shape.heads * shape.length * shape.size
    return max(1, ceil(2 * cache / bytes_of_set))


def memory(shape: Shape, attends: dict[str, Attend]) -> dict[str, int | str]:
    """Measure the most bytes that forward and backward hold beyond their inputs."""
    leaves, grad = attentions.given(shape, "cuda")
    found: dict[str, int | str] = {}
    for name, attend in attends.items():
        try:
            found[name] = most_bytes(attend, leaves, grad)
        except (RuntimeError, LlamaError) as error:
            found[name] = machine.first_line(error)
    return found


def most_bytes(attend: Attend, leaves: list[Tensor], grad: Tensor) -> int:
    """Measure at the second run: a first one may make a workspace that stays."""
    call = partial(attentions.both, attend, leaves, grad)
    call()
    return clock.most_bytes(call)


def section(wrong: str) -> Iterator[str]:
    """Yield the lines of the report, as they are found."""
    attends = attentions.attentions()
    yield machine.heading("attention")
    if wrong:
        yield f"\n**The kernel is wrong ({wrong}): its times mean nothing.**"
    yield f"\nbf16, causal, {TOKENS:,} tokens, {HEADS} heads; TFLOP/s forward / backward / both.\n"
    measured = measure([shape_of(x, size) for size in SIZES for x in LENGTHS], attends)
    yield from table.rates(measured.timings, measured.peaks)
    peaks = [f"{f(measured.peaks.values()):.0f}" for f in (min, max)]
    yield (
        f"\nMatrix peak: {' to '.join(peaks)} TFLOP/s, a bf16 product of {MATRIX:,} a side by "
        f"PyTorch, taken in turns with the rest. Medians of {clock.RUNS}; their quartiles lie "
        f"{measured.spread:.0%} apart at most.\n"
    )
    yield from table.verdict(measured.timings)
    yield ""
    shape = shape_of(MEMORY_AT, SIZES[0])
    yield from table.memory(memory(shape, attends), shape)
    yield ""
    yield from kernel_times.table(measured.peaks)


def main() -> None:
    """Print the report, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--save", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--wrong", default="", metavar="WHY", help="why the times mean nothing")
    options = parser.parse_args()
    reason = library.available("cuda")
    if reason:
        raise SystemExit(f"nothing to time: the cuda kernel {reason}")
    lines: list[str] = []
    try:
        for line in section(options.wrong):
            print(line, flush=True)
            lines.append(line)
    finally:  # a failure half way loses nothing that was measured
        for path in options.save:
            table.append(path, "\n".join(lines))
    if not options.wrong:
        table.append(PAGE, "\n".join(lines))


if __name__ == "__main__":
    main()
