"""How long a step of a layout takes: one model, one set of constants, for every size and cluster.

    pass = max(computing forward, messages beside it) + max(computing backward, messages beside it)
    step = passes + messages beside nothing + the optimizer
    computing = products + attention + memory-bound work + the tensor messages it waits for

One constant is fitted, NETWORK, on two runs of the paper (tests/unit/test_plan_fit.py, where the
others are checked too; docs/planning.md tells how well). The others are of the sources beside
them. Nothing is said of input, checkpoints, failures, or a slow GPU among many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_cli.model.config import ModelConfig
from llama_cli.parallel.gpus import Cluster
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.memory import HALF, sums
from llama_cli.parallel.shapes import groups
from llama_cli.parallel.traffic import Axis, Beside, Kind, Messages, messages

# of the fastest product measured on the GPU (gpus.py): a layer's have not the best shape; ours
PRODUCTS = 0.92
# of the peak, only scores that count: "50-73%" on an A100; Dao, 2023, FlashAttention-2, abstract
ATTENTION = 0.5
# of the data sheet's bytes/s, in fused elementwise kernels; ours
MEMORY = 0.8
# of NVLink's bytes/s, what nccl-tests calls bus bandwidth on eight A100s, 230 GB/s of 300
NVLINK = 0.77
# of the network's, reached beside computing; the fitted one
NETWORK = 0.37
# seconds to start a kernel, and kernels of a layer, forward and backward; ours. Only models of
# less than a billion parameters feel it
LAUNCH, KERNELS, BACK_KERNELS = 5e-6, 20, 45

# Elements a token that a layer's memory-bound work reads and writes, in widths d and hidden h.
# Forward: two norms 4d, rotary 4d, two sums 5d, SwiGLU 3h. Backward: two norms and sums 16d,
# rotary 4d, SwiGLU 6h.
FORWARD, BACKWARD = (13, 3), (20, 6)
ATTENTION_BACK = 2.5  # of the forward's FLOPs: five products instead of two
LOGITS = 20  # bytes a token and piece of the vocabulary: softmax and gradient, fp32
# Bytes a parameter. AdamW reads four fp32 and writes three, clipping reads one, and one is
# written as bf16 to be sent; what arrives is copied to where it is used; a gradient is copied to
# where it is sent from.
UPDATE, ARRIVAL, DEPARTURE = 7 * 4 + 4 + 6, 4, 6


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a step."""

    products: float
    attention: float
    memory_bound: float
    communication: float  # that nothing hides

    @property
    def total(self) -> float:
        """All of it together."""
        return self.products + self.attention + self.memory_bound + self.communication


@dataclass(frozen=True, slots=True)
class Rates:
    """What a cluster reaches: FLOP/s and bytes/s of a GPU, and of a node's network."""

    products: float
    attention: float
    memory: float
    nvlink: float
    network: float


def rates_of(cluster: Cluster, *, network: float = NETWORK) -> Rates:
    """Apply the constants above; `network` is for the test that fits it."""
    gpu = cluster.gpu
    return Rates(
        PRODUCTS * gpu.products,
        ATTENTION * gpu.peak,
        MEMORY * gpu.bandwidth,
        NVLINK * gpu.nvlink,
        network * cluster.network,
    )


def times(
    config: ModelConfig, layout: Layout, cluster: Cluster, rates: Rates | None = None
) -> Times:
    """Predict the seconds of a step."""
    rates = rates or rates_of(cluster)
    found = groups(config, layout.tensor)
    forward, backward = _forward(config, layout, rates), _backward(config, layout, rates)
    update = UPDATE * found.of_rank(layout.shards) / rates.memory
    summed = sums(found, layout, cluster)
    sent = [
        (message, _seconds(message, layout, cluster, rates))
        for message in messages(config, layout, sums=summed)
    ]
    return Times(
        forward.products + backward.products,
        forward.attention + backward.attention,
        forward.memory_bound + backward.memory_bound + update,
        _exposed(sent, forward.total, backward.total, layout.passes, summed),
    )


def _exposed(
    sent: Sequence[tuple[Messages, float]],
    forward: float,
    backward: float,
    passes: int,
    summed: int,
) -> float:
    """Give the seconds in which nothing is computed.

    Each pass has its own gathers; gradients are summed in `summed` of the passes.
    """

    def take(axis: Axis, beside: Beside, *kinds: Kind) -> float:
        fitting = (s for m, s in sent if (m.axis, m.beside) == (axis, beside) and m.kind in kinds)
        return sum(fitting, 0.0)

    waited = take("tensor", "nothing", "gather", "scatter")
    # a third of what tensor ranks wait for is in the forward, as of what is computed
    there, back = (forward + waited / 3) / passes, (backward + waited * 2 / 3) / passes
    gathers = take("data", "backward", "gather") / passes
    scatters = take("data", "backward", "scatter", "sum") / summed
    return (
        waited
        + take("data", "nothing", "gather", "scatter")
        + max(0.0, take("data", "forward", "gather") - there * passes)
        + max(0.0, gathers - back) * (passes - summed)
        + max(0.0, gathers + scatters - back) * summed
        + max(0.0, take("tensor", "backward", "gather", "scatter") - back * passes)
    )


def _forward(config: ModelConfig, layout: Layout, rates: Rates) -> Times:
    """Give what a rank computes in all passes' forwards; the head's gradients are made there."""
    passes, tokens = layout.passes, _tokens(config, layout)
    layer, attention, traffic = _layer(config, layout)
    head = 6 * config.vocab_size * config.dim * tokens
    logits = LOGITS * config.vocab_size * tokens
    arrival = passes * ARRIVAL * groups(config, layout.tensor).parameters
    return Times(
        (config.layers * layer + head) / rates.products,
        config.layers * attention / rates.attention,
        _at_least(config.layers * traffic + logits + arrival, rates, config, passes * KERNELS),
        0.0,
    )


def _backward(config: ModelConfig, layout: Layout, rates: Rates) -> Times:
    passes, tokens = layout.passes, _tokens(config, layout)
    layer, attention, traffic = _layer(config, layout)
    d, hidden = BACKWARD
    back = HALF * (d * config.dim + hidden * config.hidden) * tokens
    again = layout.activations == "full"
    # what runs again spares w2
    spared = 2 * config.dim * config.hidden * tokens
    copied = DEPARTURE + ARRIVAL * layout.reshard
    copies = passes * copied * groups(config, layout.tensor).parameters
    kernels = passes * (BACK_KERNELS + KERNELS * again)
    return Times(
        config.layers * ((2 + again) * layer - again * spared) / rates.products,
        config.layers * (ATTENTION_BACK + again) * attention / rates.attention,
        _at_least(config.layers * (back + again * traffic) + copies, rates, config, kernels),
        0.0,
    )


def _tokens(config: ModelConfig, layout: Layout) -> float:
    """Count the tokens of a step that are one rank's share of the work."""
    return layout.passes * layout.micro_batch * config.context / layout.tensor


def _layer(config: ModelConfig, layout: Layout) -> tuple[float, float, float]:
    """Count a layer's forward on a rank: FLOPs of products, of attention, and bytes of the rest."""
    tokens, (d, hidden) = _tokens(config, layout), FORWARD
    matrices = config.layer_parameters - 2 * config.dim
    attention = 2 * config.context * config.dim * tokens  # half of the scores are hidden
    return (
        2 * matrices * tokens,
        attention,
        HALF * (d * config.dim + hidden * config.hidden) * tokens,
    )


def _at_least(traffic: float, rates: Rates, config: ModelConfig, kernels: float) -> float:
    """Give the seconds of `traffic` bytes, or those that it takes to start the kernels."""
    return max(traffic / rates.memory, LAUNCH * config.layers * kernels)


def _seconds(message: Messages, layout: Layout, cluster: Cluster, rates: Rates) -> float:
    """Give the time of some messages, one after the other, if nothing else were sent."""
    return message.sent / _speed(message, layout, cluster, rates)


def _speed(message: Messages, layout: Layout, cluster: Cluster, rates: Rates) -> float:
    """Give the bytes/s that a rank may send, while all ranks of its node do.

    Of the ranks of a ring that crosses nodes, `inside` are in one node, and one of them at a time
    sends out of it: the ring has their part of the node's network.
    """
    if message.axis == "tensor":
        return rates.nvlink
    inside = 1 if message.kind == "sum" else min(layout.shards, cluster.node // layout.tensor)
    if message.ranks == inside:
        return rates.nvlink
    return min(rates.nvlink, rates.network * inside / cluster.node)
