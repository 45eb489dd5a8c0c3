"""What decides the weights that come out: Table 2 of the paper, and the options over it.

Imports nothing heavy, so that `llama train --help` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any, Literal

DType = Literal["fp32", "bf16"]

PAPER_WARMUP = 2000  # steps; section 2.3
WARMUP_FROM = 0.1  # of the peak, where the warm-up begins; ours, as the paper does not say
SHORT_WARMUP = 4  # of a shorter run, the warm-up takes one step in 4; ours, by measurement
OLDER: Mapping[str, Any] = {  # in runs begun before there was a choice
    "warmup_from": 0.0,
    "cross_document": True,
    "from": None,
}
PAPER_BATCH = 2048 * 2048  # tokens; "4M" in Table 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """A row of Table 2. `tokens` is None where a run is as long as its data."""

    lr: float
    batch_tokens: int
    tokens: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "3m": Recipe(3e-3, 1024),  # these three are ours
    "15m": Recipe(2e-3, 8192),
    "110m": Recipe(1e-3, 65_536),
    "7b": Recipe(3.0e-4, PAPER_BATCH, 10**12),
    "13b": Recipe(3.0e-4, PAPER_BATCH, 10**12),
    "33b": Recipe(1.5e-4, PAPER_BATCH, 14 * 10**11),
    "65b": Recipe(1.5e-4, PAPER_BATCH, 14 * 10**11),
}


# Learning from instructions, as Stanford Alpaca did with the 7B
# (https://github.com/tatsu-lab/stanford_alpaca): 3 epochs of 128 examples a step, the rate 2e-5,
# a fifteenth of Table 2's, after 3% of the steps. That other sizes take a fifteenth too is ours.
EPOCHS = 3
EXAMPLES = 128
SHARE_OF_LR = 1 / 15
SHARE_OF_STEPS = 0.03


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything besides model and data on which the final weights depend."""

    steps: int
    batch: int  # sequences a step
    lr: float
    warmup: int  # steps
    seed: int = 0
    dtype: DType = "fp32"  # of the arithmetic; weights and optimizer are always fp32
    warmup_from: float = 0.0  # of lr; the command's is WARMUP_FROM
    cross_document: bool = True  # whether documents packed in one sequence see each other

    def to_json(self) -> dict[str, Any]:
        """Name the fields."""
        return asdict(self)


def default_batch(size: str, length: int) -> int:
    """Give the sequences of `length` tokens that make this size's batch.

    >>> default_batch("65b", 2048)
    2048
    """
    return max(1, RECIPES[size].batch_tokens // length)


def default_warmup(steps: int) -> int:
    """Give the paper's 2,000 steps, or a quarter of a short run.

    >>> default_warmup(334_000), default_warmup(200)
    (2000, 50)
    """
    return min(PAPER_WARMUP, max(1, steps // SHORT_WARMUP))


def tuning_batch(sequences: int, conversations: int) -> int:
    """Give the sequences that hold Alpaca's examples a step, as a power of two.

    >>> tuning_batch(5_000, 52_000), tuning_batch(10, 40)
    (16, 8)
    """
    wanted = min(EXAMPLES * sequences / conversations, sequences)
    return int(2 ** max(0, round(log2(wanted))))


def tuning_warmup(steps: int) -> int:
    """Give Alpaca's share of a run, and at least a step.

    >>> tuning_warmup(1_000), tuning_warmup(10)
    (30, 1)
    """
    return max(1, round(steps * SHARE_OF_STEPS))
