"""Proposed layouts as a table for people: one column each, and what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llama_cli.parallel import time
from llama_cli.parallel.gpus import Cluster
from llama_cli.parallel.memory import USABLE
from llama_cli.parallel.propose import Proposal
from llama_cli.parallel.traffic import Axis, Kind

LEFT, COLUMN = 31, 12  # characters
TOLERANCE = 0.05  # by which a plan may err

Row = tuple[str, Callable[[Proposal], str]]
Energy = tuple[float, float]  # MWh, tCO2eq

SENT: Sequence[tuple[Axis, Kind, str]] = (
    ("data", "gather", "weights, data: all-gather"),
    ("data", "scatter", "gradients: reduce-scatter"),
    ("data", "sum", "between replicas: all-reduce"),
    ("tensor", "gather", "positions, tensor: gather"),
    ("tensor", "scatter", "sums, tensor: scatter"),
)


def compare(
    found: Sequence[Proposal], cluster: Cluster, *, tokens: float, energy: Sequence[Energy]
) -> str:
    """Lay the proposals side by side, the best first; `energy` is of each of them."""
    table = (*_table(found, tokens), *_energy(energy))
    lines = [_head(cluster), "", *table, "", *_assumed(cluster)]
    return "\n".join(line.rstrip() for line in lines)


def beside(title: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Show what was planned beside what was counted, as (name, planned, counted)."""
    lines = [title, _line("", ["planned", "counted"])]
    for name, planned, counted in rows:
        right = abs(planned - counted) <= TOLERANCE * max(planned, counted)
        cells = [_exact(planned), _exact(counted)]
        lines.append(_line(name, cells) + ("" if right else "  differs"))
    return "\n".join(lines)


def _head(cluster: Cluster) -> str:
    nodes = f"{cluster.nodes:,} node{'s' * (cluster.nodes > 1)} of {cluster.node}"
    wire = f", {cluster.network * 8 / 1e9:,.0f} Gb/s each" if cluster.nodes > 1 else ""
    return f"{cluster.gpus:,} {cluster.name} in {nodes}{wire}"


def _table(found: Sequence[Proposal], tokens: float) -> Iterator[str]:
    for name, cell in (*_mesh(found), *_memory(), *_sent(found), *_times(), *_run(tokens)):
        yield _line(name, [cell(each) for each in found])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<{LEFT}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _mesh(found: Sequence[Proposal]) -> Iterator[Row]:
    yield "data x tensor", lambda p: f"{p.layout.data:,} x {p.layout.tensor}"
    if any(p.layout.replicas > 1 for p in found):
        yield "  replicas of the weights", lambda p: f"{p.layout.replicas:,}"
    yield "micro-batch x passes", lambda p: f"{p.layout.micro_batch} x {p.layout.passes:,}"
    yield "activations policy", lambda p: p.layout.activations
    if any(p.layout.shards > 1 for p in found):
        yield "weights after the forward", lambda p: "given back" if p.layout.reshard else "kept"


def _memory() -> Iterator[Row]:
    yield "peak memory of a GPU, GB", lambda p: _giga(p.need.peak)
    yield "  weights, fp32", lambda p: _giga(p.need.weights)
    yield "  gradients, fp32", lambda p: _giga(p.need.gradients)
    yield "  optimizer, fp32", lambda p: _giga(p.need.optimizer)
    yield "  weights gathered, bf16", lambda p: _giga(p.need.half_weights)
    yield "  activations", lambda p: _giga(p.need.activations)
    yield "  head and loss", lambda p: _giga(p.need.head)
    yield "  buffers", lambda p: _giga(p.need.buffers)


def _sent(found: Sequence[Proposal]) -> Iterator[Row]:
    if not any(p.sent for p in found):
        return
    yield "sent by a GPU a step, GB", lambda p: _giga(sum(p.sent.values()))
    for axis, kind, name in SENT:
        if any((axis, kind) in p.sent for p in found):
            yield f"  {name}", _amount(axis, kind)


def _amount(axis: Axis, kind: Kind) -> Callable[[Proposal], str]:
    return lambda p: _giga(p.sent.get((axis, kind), 0.0))


def _times() -> Iterator[Row]:
    yield "seconds a step", lambda p: _seconds(p.times.total)
    yield "  matrix products", lambda p: _seconds(p.times.products)
    yield "  attention", lambda p: _seconds(p.times.attention)
    yield "  memory-bound work", lambda p: _seconds(p.times.memory_bound)
    yield "  communication not hidden", lambda p: _seconds(p.times.communication)


def _run(tokens: float) -> Iterator[Row]:
    yield "tokens/s a GPU", lambda p: f"{p.tokens_per_second:,.0f}"
    yield "MFU, 6N + 12 L d s", lambda p: f"{p.mfu:.0%}"
    yield "GPU-hours", lambda p: f"{p.gpu_hours(tokens):,.0f}"
    yield "days", lambda p: _days(p.days(tokens))


def _energy(energy: Sequence[Energy]) -> Iterator[str]:
    yield _line("MWh", [f"{mwh:,.4g}" for mwh, _ in energy])
    yield _line("tCO2eq", [f"{tonnes:,.4g}" for _, tonnes in energy])


def _assumed(cluster: Cluster) -> Iterator[str]:
    gpu = cluster.gpu
    products = time.PRODUCTS * gpu.products
    yield (
        f"assumed: products at {products / 1e12:,.0f} of {gpu.peak / 1e12:,.0f} TFLOP/s, "
        f"attention at {time.ATTENTION:.0%}; "
        f"memory at {time.MEMORY:.0%} of {gpu.bandwidth / 1e9:,.0f} GB/s;"
    )
    yield (
        f"  NVLink at {time.NVLINK:.0%} of {gpu.nvlink / 1e9:,.0f} GB/s, "
        f"the network at {time.NETWORK:.0%} of {cluster.network * 8 / 1e9:,.0f} Gb/s a node "
        "(--network);"
    )
    yield (
        f"  {1 - USABLE:.0%} of the memory left free; no failures, and no waiting for data; "
        "fitted and checked as docs/planning.md says;"
    )


def _days(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _giga(number: float) -> str:
    if number >= 1e10:
        return f"{number / 1e9:,.1f}"
    return f"{number / 1e9:.2f}" if number >= 5e7 else f"{number / 1e9:.2g}"


def _exact(number: float) -> str:
    """Show a count whole, and bytes in a unit.

    >>> _exact(32_216_096), _exact(515_457_536.0)
    ('32,216,096', '0.5155 GB')
    """
    return f"{number:,}" if isinstance(number, int) else f"{number / 1e9:,.4g} GB"


def _seconds(number: float) -> str:
    return f"{number:.2f}" if number >= 1 else f"{number:.3f}"
