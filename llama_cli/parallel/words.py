"""A plan as lines for people, each figure beside where it comes from."""

from __future__ import annotations

from llama_cli.model.config import ModelConfig
from llama_cli.parallel.plan import CHINCHILLA_RATIO, Plan, flops_per_token

PAPER_65B = 65_285_660_672  # parameters


def describe(size: str, plan: Plan, *, least: int = 0, gpu: str = "") -> str:
    """Lay a plan out as a table of name, figure and remark.

    `least` is on how many of `gpu` it fits; 0 if it is not known.
    """
    room = [("fits on", f"{least:,}", f"{gpu}, or more: --gpus shows how")] if least else []
    rows = [*_model(plan), *_memory(plan), *room, *_compute(plan), *_optimal(plan)]
    lines = [f"{name:<24}{figure:>14}  {remark}".rstrip() for name, figure, remark in rows]
    return "\n".join([f"LLaMA {size}", *lines])


def head(size: str, config: ModelConfig, *, tokens: float, batch: int) -> str:
    """Say what is trained on how much."""
    steps = tokens / (batch * config.context)
    printed = "the paper prints 65.2" if config.parameters == PAPER_65B else ""
    per_token = flops_per_token(config, config.context)
    rows = [
        ("parameters", count(config.parameters), printed),
        ("tokens", count(tokens), ""),
        ("steps", f"{steps:,.0f}", f"of {batch:,} sequences of {config.context:,}"),
        ("training FLOPs a token", f"{per_token:.3g}", "6N + 12 L d s"),
    ]
    lines = [f"{name:<24}{figure:>14}  {remark}".rstrip() for name, figure, remark in rows]
    return "\n".join([f"LLaMA {size}", *lines])


def _model(plan: Plan) -> list[tuple[str, str, str]]:
    printed = "the paper prints 65.2" if plan.parameters == PAPER_65B else ""
    return [
        ("parameters", count(plan.parameters), printed),
        ("tokens", count(plan.tokens), ""),
    ]


def _memory(plan: Plan) -> list[tuple[str, str, str]]:
    memory = plan.memory
    return [
        ("memory", _bytes(memory.total), "of one copy; sharding divides it"),
        ("  weights", _bytes(memory.weights), "fp32"),
        ("  gradients", _bytes(memory.gradients), "fp32"),
        ("  optimizer", _bytes(memory.optimizer), "AdamW, two fp32 moments"),
        ("  weights for products", _bytes(memory.half_weights), "bf16"),
        (
            "  activations",
            _bytes(memory.activations),
            "one sequence, linear outputs kept (section 2.4); autograd keeps 2.3 times that",
        ),
    ]


def _compute(plan: Plan) -> list[tuple[str, str, str]]:
    rate = f"at {plan.tokens_per_second:,.0f} tokens/s on an A100-80GB: {plan.rate_from}"
    return [
        ("training FLOPs a token", f"{plan.flops_per_token:.3g}", "6N + 12 L d s"),
        ("training FLOPs", f"{plan.flops:.3g}", ""),
        ("GPU-hours", _hours(plan.gpu_hours), rate),
        ("inference FLOPs a token", f"{plan.inference_flops:.3g}", "2N + 4 L d s"),
    ]


def _optimal(plan: Plan) -> list[tuple[str, str, str]]:
    best = plan.optimal
    ratio = best.parameters / plan.parameters
    return [
        (
            "compute-optimal tokens",
            count(best.tokens),
            f"Hoffmann et al. (2022): C = 6ND, {CHINCHILLA_RATIO} tokens a parameter",
        ),
        (
            "  for a model of",
            count(best.parameters),
            f"{ratio:.2f} times the weights, so {ratio:.2f} times the inference FLOPs a token",
        ),
    ]


def count(number: float) -> str:
    """Shorten a large count to four figures, and leave one below a million whole.

    >>> count(32_528_943_616), count(65_285_660_672), count(1.4e12), count(530_432)
    ('32.53B', '65.29B', '1.400T', '530,432')
    """
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:#.4g}{name}"
    return f"{number:,.0f}"


def _bytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
