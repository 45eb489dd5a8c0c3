"""What runs a model: the processor's kernel (`host`), or PyTorch on any device (`network`).

Both take new tokens of any rows in one list and give what the head reads of each; both keep
keys and values in a cache of their own kind, by slots. Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llama_cli.kernels import host
from llama_cli.kernels.attention import VARIABLE
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens of the row in `slot`, from its position `start`."""

    slot: int
    start: int
    count: int


class Room(Protocol):
    """Keys and values of rows, each in a slot."""

    prompts: list[list[int]]  # of each slot: the tokens of a prompt that lie there

    @property
    def slots(self) -> int:
        """Rows there is room for."""

    def grow(self, slots: int, length: int) -> None:
        """Make room for as much, at least, and keep what is there."""

    def nearest(self, ids: Sequence[int]) -> tuple[int, int]:
        """Name the slot whose prompt begins most as `ids` does, and for how many whole blocks."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Give a slot the first tokens of another."""

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""


class Backend(Protocol):
    """A model that can be run."""

    config: ModelConfig
    device: torch.device
    at_once: int  # positions whose logits are held at a time

    def cache(self) -> Any:
        """Make a Room of its kind, without any room yet."""

    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Any) -> Tensor:
        """Give what the head reads of each token (N, d), and add the tokens to the cache."""

    def logits(self, states_Nd: Tensor) -> Tensor:
        """Give the logits (N, V) after states, in fp32 on the CPU, where tokens are chosen."""

    def summary(self, logits_NV: Tensor) -> tuple[list[int], Tensor]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""


def open_backend(
    model: Transformer, *, quantize: bool = False, deterministic: bool = False
) -> Backend:
    """Take a model over: on a CPU by its kernel, if that is built, else by PyTorch.

    PyTorch runs it too where the environment names an attention (`kernels.attention`).
    """
    from llama_cli.inference.host import HostNetwork
    from llama_cli.inference.network import Network

    weight = model.tok_embeddings.weight
    asked = os.environ.get(VARIABLE) or "auto"
    if weight.device.type == "cpu" and asked == "auto" and host.available():
        return HostNetwork(model, quantize=quantize)
    return Network(model, quantize=quantize, deterministic=deterministic)
