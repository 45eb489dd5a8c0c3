"""What the ranks of a layout send each other in a step: how many messages, and how long.

Over data, FSDP2 gathers a group's weights in bf16 and sums its gradients in fp32 (fsdp.py). Over
tensor, each layer gathers the positions twice and scatters sums twice, forward and again backward
(model/exchange.py); the hand-written backward gathers twice more, instead of keeping what was
gathered, and lets what nothing waits for run beside the gradients of weights (model/backward.py).
Scalars, norms' gradients and the head's few numbers a token are left out: below 0.1%.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from llama_cli.model.config import ModelConfig
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.shapes import groups

HALF = 2  # bytes of a bf16

Kind = Literal["gather", "scatter", "sum"]
Axis = Literal["data", "tensor"]
Beside = Literal["forward", "backward", "nothing"]  # what is computed meanwhile


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of one kind in a step."""

    axis: Axis
    kind: Kind
    beside: Beside
    count: int
    size: float  # bytes of the whole tensor that is gathered, scattered or summed
    ranks: int

    @property
    def sent(self) -> float:
        """Bytes that one rank sends in a step; rings send each part to all but its owner."""
        twice = 2 if self.kind == "sum" else 1
        return twice * self.count * self.size * (self.ranks - 1) / self.ranks


def messages(config: ModelConfig, layout: Layout, *, sums: int) -> Iterator[Messages]:
    """List what one rank sends in a step.

    Args:
        config: the model.
        layout: how it is laid out.
        sums: how often a step gradients are summed over the data ranks.
    """
    if layout.shards > 1:
        yield from _over_data(config, layout, sums)
    if layout.replicas > 1:
        yield from _over_replicas(config, layout, sums)
    if layout.tensor > 1:
        yield from _over_tensor(config, layout)


def total_sent(found: Iterable[Messages]) -> dict[tuple[Axis, Kind], float]:
    """Add up the bytes by axis and kind."""
    total: dict[tuple[Axis, Kind], float] = {}
    for each in found:
        total[each.axis, each.kind] = total.get((each.axis, each.kind), 0.0) + each.sent
    return total


def _over_data(config: ModelConfig, layout: Layout, sums: int) -> Iterator[Messages]:
    found, shards = groups(config, layout.tensor), layout.shards
    layer, head, root = (g.sent(shards) for g in (found.layer, found.head, found.root))

    def gather(beside: Beside, count: int, size: int) -> Messages:
        return Messages("data", "gather", beside, layout.passes * count, HALF * size, shards)

    def scatter(beside: Beside, count: int, size: int) -> Messages:
        return Messages("data", "scatter", beside, sums * count, layout.reduced * size, shards)

    inner = config.layers - 1  # the first layer's come before and after all else
    yield gather("nothing", 1, root)
    yield gather("nothing", 1, layer)
    yield gather("forward", inner, layer)
    yield gather("forward", 1, head)
    if layout.reshard:
        yield gather("backward", config.layers, layer)
        yield gather("backward", 1, head)
    yield scatter("backward", 1, head)
    yield scatter("backward", inner, layer)
    yield scatter("nothing", 1, layer)
    yield scatter("nothing", 1, root)


def _over_replicas(config: ModelConfig, layout: Layout, sums: int) -> Iterator[Messages]:
    found = groups(config, layout.tensor)
    for group, count in ((found.layer, config.layers), (found.head, 1), (found.root, 1)):
        size = layout.reduced * group.of_rank(layout.shards)
        yield Messages("data", "sum", "backward", sums * count, size, layout.replicas)


def _over_tensor(config: ModelConfig, layout: Layout) -> Iterator[Messages]:
    size = HALF * layout.micro_batch * config.context * config.dim
    again = layout.activations == "full"  # but for the last scatter, which nothing needs

    def some(kind: Kind, beside: Beside, a_layer: int, more: int = 0) -> Messages:
        count = layout.passes * (a_layer * config.layers + more)
        return Messages("tensor", kind, beside, count, size, layout.tensor)

    # one more each way: the embedding's sum, and the head's input
    yield some("gather", "nothing", 4 + 2 * again, 2)
    if layout.activations == "keep":
        yield some("scatter", "nothing", 4, 2)
    else:
        yield some("scatter", "nothing", 2 + again, 2)
        yield some("gather", "backward", 2)
        yield some("scatter", "backward", 2)
