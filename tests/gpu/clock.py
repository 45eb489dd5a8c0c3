"""Measure on a GPU: times between CUDA events, taken in turns, and bytes asked of the allocator.

Clocks drift with heat, so the calls that are compared take turns: a drift then meets all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch

Call = Callable[[int], object]  # is told its turn, so that it can change its input
Queue = Callable[[Callable[[], object]], Callable[[], float]]

WARM_UPS, RUNS = 5, 20  # ours
HEAD_START = 1_000_000  # cycles, about half a millisecond: longer than Python takes to queue a call


def queue_on_gpu(call: Callable[[], object]) -> Callable[[], float]:
    """Queue `call` between two events; what is returned tells its milliseconds once it is done.

    The GPU is kept busy until all is queued, lest Python's own time be measured.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START)
    start.record()
    call()
    end.record()
    return partial(start.elapsed_time, end)


def in_turns(
    calls: Mapping[str, Call],
    *,
    queue: Queue = queue_on_gpu,
    wait: Callable[[], object] = torch.cuda.synchronize,
) -> dict[str, list[float]]:
    """Return the milliseconds of each call, one a round, without the rounds that warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UPS + RUNS):
        queued = {name: queue(partial(call, turn)) for name, call in calls.items()}
        wait()
        if turn >= WARM_UPS:
            for name, read in queued.items():
                times[name].append(read())
    return times


def spread(times: list[float]) -> float:
    """Return how far apart the quartiles lie, as a share of the median.

    >>> spread([1.0, 1.0, 1.0, 1.0]), spread([3.0, 4.0, 5.0])
    (0.0, 0.5)
    """
    low, middle, high = statistics.quantiles(times)
    return (high - low) / middle


def most_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes `call` held at a time on the GPU, as asked for, before any rounding."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    kept = call()
    torch.cuda.synchronize()
    most: int = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    del kept
    return most
