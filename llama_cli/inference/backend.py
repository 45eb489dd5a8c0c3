"""What runs a model: the processor's kernel (`host`), or PyTorch on any device (`network`).

Both take new tokens of any rows in one list and give what the head reads of each; both keep
keys and values in a cache of their own kind, by slots. Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from llama_cli.kernels import VARIABLE, host
from llama_cli.kernels.host import Floats
from llama_cli.model.config import ModelConfig
from llama_cli.model.dtypes import Array, DType, as_array, converted, torch_dtype
from llama_cli.model.parts import let_go

if TYPE_CHECKING:
    from llama_cli.model.formats.source import Source
    from llama_cli.model.transformer import Transformer

States = Any  # an array or a tensor (N, d), where the model runs
Say = Callable[[str], object]


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

    def rows(self, length: int) -> int:
        """Say how many rows of a length are well held at a time."""

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
    at_once: int  # positions whose logits are held at a time

    def begin_thread(self) -> None:
        """Get ready to be run by the thread that calls this, which is not the one that made it."""

    def cache(self) -> Any:
        """Make a Room of its kind, without any room yet."""

    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Any) -> States:
        """Give what the head reads of each token (N, d), and add the tokens to the cache."""

    def logits(self, states_Nd: States) -> Floats:
        """Give the logits (N, V) after states, where tokens are chosen."""

    def summary(self, logits_NV: Floats) -> tuple[list[int], Floats]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""


def takes_kernel(device: str) -> bool:
    """Say whether the processor's kernel runs models there: on a CPU, where it is built.

    PyTorch runs them where the environment names an attention (`kernels.attention`).
    """
    asked = os.environ.get(VARIABLE) or "auto"
    return device == "cpu" and asked == "auto" and host.available()


def open_network(
    source: Source,
    *,
    device: str = "cpu",
    dtype: DType | None = None,
    quantize: bool = False,
    deterministic: bool = False,
    threads: int | None = None,
    say: Say = warnings.warn,
) -> Backend:
    """Load a model, in another dtype than it is kept in if that is given.

    PyTorch, which takes a second, is imported only if it runs the model. `say` is told where tokens
    take longer than they should.

    Raises:
        NotReadyError: a file is damaged.
    """
    if takes_kernel(device):
        from llama_cli.inference.host import HostNetwork

        if threads:
            host.use_threads(threads)
        given = partial(_converted, source, dtype) if dtype else source.array
        return HostNetwork(source.config, given, quantize=quantize)
    import torch

    from llama_cli.inference.network import Network
    from llama_cli.model.formats.loading import load

    if threads:
        torch.set_num_threads(threads)
    kept, on_cpu = torch_dtype(dtype) if dtype else None, device == "cpu"
    model = load(source, device=device, dtype=kept, columns=on_cpu)
    return Network(model.eval(), quantize=quantize, deterministic=deterministic, say=say)


def _converted(source: Source, dtype: DType, name: str) -> Array:
    kept = source.array(name)
    made = converted(kept, dtype)
    if made is not kept:
        let_go(kept)
    return made


def take_over(
    model: Transformer, *, quantize: bool = False, deterministic: bool = False
) -> Backend:
    """Run a model that PyTorch holds, with its weights where they are."""
    weights = {name: each.detach() for name, each in model.named_parameters()}
    device = next(iter(weights.values())).device.type
    if takes_kernel(device):
        from llama_cli.inference.host import HostNetwork

        return HostNetwork(model.config, lambda name: as_array(weights[name]), quantize=quantize)
    from llama_cli.inference.network import Network

    return Network(model.eval(), quantize=quantize, deterministic=deterministic)
