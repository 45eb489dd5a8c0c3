"""What training a model takes, by arithmetic: memory, FLOPs and GPU-hours.

A token costs 6N + 12 * L * d * s FLOPs to train on (Chowdhery et al., 2022, appendix B) and
2N + 4 * L * d * s to infer. Beside that stands what Hoffmann et al., 2022
(https://arxiv.org/abs/2203.15556), would do with the same compute, C = 6ND at 20 tokens a
parameter: a larger model on fewer tokens. LLaMA's reason for the opposite (section 1) is the
cost of inference, which falls with N and is paid for as long as the model is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_cli.model.config import ModelConfig
from llama_cli.parallel.memory import GRADIENT, HALF, MASTER, MOMENTS

CHINCHILLA_RATIO = 20  # tokens a parameter; Hoffmann et al., 2022, approaches 1 and 2, rounded
A100_PEAK = 312e12  # bf16 FLOP/s, NVIDIA's data sheet
MFU = 0.5  # ours: the paper's four runs had 0.47 to 0.55

# Tokens (Table 2) and hours of an A100-80GB (Table 15); their quotient for the 65B is the
# "around 380 tokens/sec/GPU" of section 2.4.
PAPER_RUNS = {
    "7b": (1.0e12, 82_432),
    "13b": (1.0e12, 135_168),
    "33b": (1.4e12, 530_432),
    "65b": (1.4e12, 1_022_362),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one copy of everything; sharding divides all of it."""

    weights: float
    gradients: float
    optimizer: float
    half_weights: float
    activations: float  # of one sequence

    @property
    def total(self) -> float:
        """All of it together."""
        state = self.weights + self.gradients + self.optimizer
        return state + self.half_weights + self.activations


@dataclass(frozen=True, slots=True)
class Optimal:
    """What Hoffmann et al. would train with the same compute."""

    parameters: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run in numbers."""

    parameters: int
    tokens: int
    memory: Memory
    flops_per_token: float
    flops: float
    tokens_per_second: float  # of one A100
    rate_from: str
    gpu_hours: float
    optimal: Optimal
    inference_flops: float  # a token
    optimal_inference_flops: float  # a token of the compute-optimal model, weights only


def plan(config: ModelConfig, *, size: str, tokens: int, bf16: bool = True) -> Plan:
    """Work out what it takes to train `config` on `tokens` tokens."""
    per_token = flops_per_token(config, config.context)
    rate, rate_from = _rate(size, per_token)
    optimal = compute_optimal(6.0 * config.parameters * tokens)
    return Plan(
        parameters=config.parameters,
        tokens=tokens,
        memory=memory(config, bf16=bf16),
        flops_per_token=per_token,
        flops=per_token * tokens,
        tokens_per_second=rate,
        rate_from=rate_from,
        gpu_hours=tokens / rate / 3600,
        optimal=optimal,
        inference_flops=per_token / 3,
        optimal_inference_flops=2.0 * optimal.parameters,
    )


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Give the FLOPs of training on one token: 6N, and 12 * L * d * s for the attention.

    The attention counts over all `length` positions, hidden ones too; recomputation does not.

    >>> from llama_cli.model.config import SIZES
    >>> [round(flops_per_token(SIZES[size], 2048) / 1e9) for size in ("7b", "13b", "33b", "65b")]
    [44, 83, 205, 408]
    """
    return 6.0 * config.parameters + 12.0 * config.layers * config.dim * length


def memory(config: ModelConfig, *, bf16: bool) -> Memory:
    """Count bytes: fp32 weights, gradients and moments, bf16 copies, one sequence's activations."""
    n = config.parameters
    return Memory(
        weights=float(MASTER * n),
        gradients=float(GRADIENT * n),
        optimizer=float(MOMENTS * n),
        half_weights=float(HALF * n) if bf16 else 0.0,
        activations=activations(config, bf16=bf16),
    )


def activations(config: ModelConfig, *, bf16: bool) -> float:
    """Count the bytes that one sequence leaves for the backward pass, the head's excluded.

    With the paper's choice (section 2.4: keep "the outputs of linear layers", compute the rest
    again): the two residual inputs, q, k, v, the attention's output, and both halves of
    SwiGLU's hidden layer, in bf16, and 4 bytes a head for the softmax.
    """
    width = 4 * config.dim + 2 * config.kv_dim + 2 * config.hidden
    per_token = width * (2 if bf16 else 4) + 4 * config.heads
    return float(config.layers * config.context * per_token)


def compute_optimal(flops: float) -> Optimal:
    """Split C = 6ND so that D = 20N.

    >>> found = compute_optimal(5.76e23)  # Gopher's compute; Chinchilla is 70B on 1.4T
    >>> round(found.parameters / 1e9), round(found.tokens / 1e12, 1)
    (69, 1.4)
    """
    parameters = math.sqrt(flops / (6 * CHINCHILLA_RATIO))
    return Optimal(parameters, CHINCHILLA_RATIO * parameters)


def _rate(size: str, flops_per_token: float) -> tuple[float, str]:
    if size in PAPER_RUNS:
        tokens, hours = PAPER_RUNS[size]
        return tokens / hours / 3600, "the paper's, from Tables 2 and 15"
    return MFU * A100_PEAK / flops_per_token, f"ours, {MFU:.0%} of {A100_PEAK / 1e12:g} TFLOP/s"
