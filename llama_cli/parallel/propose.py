"""The layouts of a cluster that a model fits, the quickest first, and the least that it fits on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llama_cli.errors import LlamaError, UsageError
from llama_cli.model.config import ModelConfig
from llama_cli.parallel.gpus import Cluster
from llama_cli.parallel.layout import FREE, Layout, Wish, layouts
from llama_cli.parallel.memory import USABLE, Need, need, sums
from llama_cli.parallel.plan import flops_per_token
from llama_cli.parallel.shapes import groups
from llama_cli.parallel.time import Rates, Times, times
from llama_cli.parallel.traffic import Axis, Kind, messages, total_sent

MOST_NODES = 1024  # looked at for the least that a model fits on; ours


@dataclass(frozen=True, slots=True)
class Proposal:
    """A layout that fits, and what it costs."""

    layout: Layout
    need: Need  # bytes a GPU
    sent: dict[tuple[Axis, Kind], float]  # bytes a GPU and step
    times: Times  # seconds a step
    tokens_per_second: float  # of one GPU
    mfu: float

    def days(self, tokens: float) -> float:
        """Say how long the run takes."""
        return self.gpu_hours(tokens) / self.layout.gpus / 24

    def gpu_hours(self, tokens: float) -> float:
        """Say what the run takes."""
        return tokens / self.tokens_per_second / 3600


def propose(
    config: ModelConfig,
    cluster: Cluster,
    *,
    batch: int,
    size: str,
    wish: Wish = FREE,
    count: int = 3,
    rates: Rates | None = None,
) -> list[Proposal]:
    """Give the quickest layouts that fit, no two of the same mesh and activations.

    Of layouts that take the same time, as they do where the network decides, the one that
    computes least comes first, and of these the one that needs least memory.

    Raises:
        UsageError: nothing divides.
        LlamaError: nothing fits.
    """
    fitting = [
        _cost(config, layout, cluster, batch, rates)
        for layout in layouts(config, cluster, batch, wish)
        if fits(config, layout, cluster)
    ]
    if not fitting:
        raise _too_large(config, cluster, batch, size, wish)
    return _different(sorted(fitting, key=_order), count)


def fits(config: ModelConfig, layout: Layout, cluster: Cluster) -> bool:
    """Say whether the fullest rank has room."""
    return need(config, layout, cluster).peak <= USABLE * cluster.gpu.memory


def least_gpus(config: ModelConfig, cluster: Cluster, *, batch: int, wish: Wish = FREE) -> int:
    """Give the fewest GPUs of the cluster's kind on which some layout fits; 0 if none does."""
    node = cluster.gpu.node if cluster.node < cluster.gpu.node else cluster.node
    inside = [n for n in range(1, node) if node % n == 0]
    for gpus in (*inside, *(node * nodes for nodes in range(1, MOST_NODES + 1))):
        smaller = replace(cluster, gpus=gpus, node=min(node, gpus))
        try:
            found = layouts(config, smaller, batch, wish)
            if any(fits(config, layout, smaller) for layout in found):
                return gpus
        except UsageError:  # it does not divide
            continue
    return 0


def _cost(
    config: ModelConfig, layout: Layout, cluster: Cluster, batch: int, rates: Rates | None
) -> Proposal:
    found = times(config, layout, cluster, rates)
    rate = batch * config.context / found.total / layout.gpus
    summed = sums(groups(config, layout.tensor), layout, cluster)
    return Proposal(
        layout,
        need(config, layout, cluster),
        total_sent(messages(config, layout, sums=summed)),
        found,
        rate,
        rate * flops_per_token(config, config.context) / cluster.gpu.peak,
    )


def _order(found: Proposal) -> tuple[float, float, float]:
    seconds = found.times.total
    computed = seconds - found.times.communication
    return float(f"{seconds:.3g}"), float(f"{computed:.3g}"), found.need.peak


def _different(ordered: Iterable[Proposal], count: int) -> list[Proposal]:
    kinds: dict[tuple[int, int, str], Proposal] = {}
    for each in ordered:
        layout = each.layout
        kinds.setdefault((layout.tensor, layout.replicas, layout.activations), each)
    return list(kinds.values())[:count]


def _too_large(
    config: ModelConfig, cluster: Cluster, batch: int, size: str, wish: Wish
) -> LlamaError:
    message = f"the {size} does not fit on {cluster.gpus:,} {cluster.name}"
    least = least_gpus(config, cluster, batch=batch, wish=wish)
    if not least:
        return LlamaError(f"{message}, nor on more of them", hint="llama train --micro-batch 1")
    return LlamaError(
        f"{message}: the least is {least}",
        hint=f"llama train --size {size} --gpus {least} --gpu {cluster.name} --dry-run",
    )
