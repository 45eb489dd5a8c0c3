"""What a layout needs of a GPU's memory, in bytes, part by part.

Weights, gradients and AdamW's two moments are fp32, of a rank's own part. Activations are those of
one micro-batch: what each policy keeps of a token and layer, shared by the tensor ranks. The rest
is what FSDP2, a layer and the head hold for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_cli.model.config import ModelConfig
from llama_cli.parallel.gpus import Cluster
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.shapes import Groups, groups

MASTER, GRADIENT, MOMENTS, HALF = 4, 4, 8, 2  # bytes a parameter
ROOM = 0.125  # of the memory that gradients may take between micro-batches; fsdp.py
USABLE = 0.92  # of the memory: CUDA's and NCCL's own, and what lies between blocks; ours
LOGIT_ROWS = 512  # tokens whose logits exist at once; training/loss.py
LOGIT = 2 + 4 + 2  # bytes: the product, its softmax, its gradient


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one GPU, part by part, and the most that is there at once."""

    weights: float
    gradients: float
    optimizer: float
    half_weights: float  # gathered, for products
    activations: float
    head: float  # what the loss holds: states, logits, and the gradients of both and of the head
    buffers: float  # of messages, and of a layer that runs again
    peak: float


def need(config: ModelConfig, layout: Layout, cluster: Cluster) -> Need:
    """Count the bytes that the fullest rank of a layout needs.

    In a single pass, gradients come as activations go; between passes they stay. Head and
    layers are never at work together.
    """
    found = groups(config, layout.tensor)
    own, once = found.of_rank(layout.shards), layout.passes == 1
    whole = 0 if once or sums(found, layout, cluster) > 1 else found.parameters
    weights, optimizer = MASTER * own, MOMENTS * own
    gradients = GRADIENT * (own + whole)
    half_weights = HALF * _gathered(found, layout)
    kept = activations(config, layout)
    head, buffers = _head(config, layout), _buffers(config, found, layout)
    changing = max(gradients, kept) if once else gradients + kept
    peak = weights + optimizer + half_weights + changing + max(head, buffers)
    return Need(weights, gradients, optimizer, half_weights, kept, head, buffers, peak)


def sums(found: Groups, layout: Layout, cluster: Cluster) -> int:
    """Count how often a step gradients cross the network: once, if they may wait in memory."""
    whole = GRADIENT * found.parameters <= ROOM * cluster.gpu.memory
    return 1 if whole else layout.passes


def _gathered(found: Groups, layout: Layout) -> int:
    """Count the bf16 weights that are there at once: all, or the root's and two groups'.

    One data rank gathers nothing, but converts: autograd keeps what it is given, the hand-written
    layer one weight at a time, which is no more than a group.
    """
    if layout.data == 1 and layout.activations != "keep":
        return found.layer.parameters
    if layout.data == 1 or not layout.reshard:
        return found.parameters
    return found.root.parameters + 2 * max(found.layer.parameters, found.head.parameters)


def activations(config: ModelConfig, layout: Layout) -> float:
    """Count what a micro-batch's layers leave for the backward pass, and the rotary table."""
    table = 4 * config.context * config.head_dim
    return table + layout.micro_batch * config.context * config.layers * _kept(config, layout)


def _kept(config: ModelConfig, layout: Layout) -> float:
    """Count the bytes that a layer keeps of one token: what torch.compile does, for "keep".

    Beside what the hand-written layer keeps, that is SwiGLU's product, and both inputs of the
    split products, of which every tensor rank has all.
    """
    if layout.activations == "full":
        return HALF * config.dim / layout.tensor
    if layout.activations == "linear":
        return _linear(config) / layout.tensor
    return (_linear(config) + HALF * config.hidden) / layout.tensor + 2 * HALF * config.dim


def _buffers(config: ModelConfig, found: Groups, layout: Layout) -> float:
    """Count what a layer's backward holds besides what was kept for it."""
    tokens, tensor = layout.micro_batch * config.context, layout.tensor
    # of whole positions its gradient, its input and that one's gradient; SwiGLU's four of a rank
    work = HALF * tokens * (3 * config.dim + 4 * config.hidden / tensor)
    if layout.activations == "full":
        work += tokens * _linear(config) / tensor  # it runs again
    if layout.data == 1:
        return work
    # weights that arrive for the next layer, gradients as they come, and as they are summed
    return work + (HALF + HALF + layout.reduced) * found.layer.parameters


def _linear(config: ModelConfig) -> float:
    """Count the bytes a token: x, q, k, v, o, m; both halves of SwiGLU; two norms and lse."""
    width = 4 * config.dim + 2 * config.kv_dim + 2 * config.hidden
    return HALF * width + 4 * (config.heads + 2)


def _head(config: ModelConfig, layout: Layout) -> float:
    tokens, rows = layout.micro_batch * config.context, config.vocab_size / layout.tensor
    gradients = (GRADIENT + HALF) * rows * config.dim
    return 2 * HALF * tokens * config.dim + gradients + LOGIT * min(tokens, LOGIT_ROWS) * rows
