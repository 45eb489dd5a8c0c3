"""Steps that a GPU is told once, and then to repeat: CUDA graphs.

At batch 1 a layer's kernels take microseconds each, and Python longer to start one. A graph has
all kernels of a step, and starts with one call. It is bound to the memory it was recorded on: to
a window (`static`) of one cache of one size, so when the cache grows, all are forgotten.

    a window's first steps     as any step, by Network
    the next one               recorded, then run as recorded
    all later ones             four small lists copied to the GPU, and one call

What records is a `Recorder`, of which a GPU's is `Cuda`. LLAMA_CUDA_GRAPHS=0 leaves all this out.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from llama_cli.inference.backend import Piece, Say
from llama_cli.inference.cache import Cache
from llama_cli.inference.split import parts_of, works
from llama_cli.inference.static import Plan, Turns, Window, given, step, turns_of, window_of

if TYPE_CHECKING:
    from llama_cli.inference.network import Network

PLAIN = 2  # steps of a window before one is recorded, which costs some; ours
MOST = 64  # graphs that are kept; ours: each has some megabytes of kernels' arguments

Step = Callable[[Tensor], Tensor]


class Recorder(Protocol):
    """What takes a step down."""

    def record(self, step: Step, given: Tensor) -> Callable[[], Tensor]:
        """Give what does the step again on what is in `given` then; its result may be rewritten.

        The step may be run any number of times, and is not kept. Results of what was recorded
        before may be rewritten by what is recorded later.
        """

    def forget(self) -> None:
        """Expect nothing recorded so far to be run again."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step, and where it reads what is asked of it."""

    given_4N: Tensor
    again: Callable[[], Tensor]


class Graphs:
    """The steps recorded of one cache at a time; `say` is told if that fails."""

    def __init__(self, recorder: Recorder, say: Say = warnings.warn) -> None:
        self.recorder, self.say = recorder, say
        self.fault = ""  # why nothing is recorded any more
        self.held: OrderedDict[Window, Recorded] = OrderedDict()  # the last used last
        self._seen: Counter[Window] = Counter()
        self._on: ReferenceType[Tensor] | None = None  # the cache's memory that they are bound to
        self._turns: Turns | None = None

    def states(
        self, network: Network, tokens: Sequence[int], pieces: Sequence[Piece], cache: Cache
    ) -> Tensor | None:
        """Do a step as recorded, and as `Network.states`; None if it must be done as any other."""
        if self.fault or any(each.count > 1 for each in pieces):
            return None
        if not self._on or self._on() is not cache.kv_NSTHD:
            self._turn_to(cache)
        window = window_of(pieces, cache.slots, cache.length)
        asked = torch.tensor(given(tokens, pieces, window, cache.length))
        recorded = self._recorded(window) or self._record(network, window, cache, asked)
        if not recorded:
            return None
        recorded.given_4N.copy_(asked)
        return recorded.again()[: len(pieces)].clone()

    def _turn_to(self, cache: Cache) -> None:
        """Forget what was recorded on other memory."""
        self._on = ref(cache.kv_NSTHD)
        self._turns = None
        self.held.clear()
        self._seen.clear()
        self.recorder.forget()

    def _recorded(self, window: Window) -> Recorded | None:
        if window in self.held:
            self.held.move_to_end(window)
        return self.held.get(window)

    def _record(
        self, network: Network, window: Window, cache: Cache, asked: Tensor
    ) -> Recorded | None:
        self._seen[window] += 1
        if self._seen[window] <= PLAIN:
            return None
        given_4N = asked.to(network.device, copy=True)
        self._turns = self._turns or turns_of(network, cache.length)
        try:
            plan = Plan(window, self._turns, _parts(network, window))
            again = self.recorder.record(partial(step, network, plan, cache), given_4N)
        except RuntimeError as error:  # PyTorch's, whatever CUDA says
            self._give_up(error)
            return None
        if len(self.held) == MOST:
            self.held.popitem(last=False)
        self.held[window] = Recorded(given_4N, again)
        return self.held[window]

    def _give_up(self, error: RuntimeError) -> None:
        self.fault = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self.held.clear()
        self.recorder.forget()
        self.say(f"no CUDA graphs, tokens take longer: {self.fault}")


def _parts(network: Network, window: Window) -> int:
    """Say in how many parts attention reads places, if that works here."""
    parts, heads = parts_of(window.rows, window.length), network.key_heads
    shape = heads, network.heads // heads, network.config.head_dim
    return parts if parts > 1 and works(network.device, network.dtype, *shape) else 1


class Cuda:
    """A GPU's recorder. Its graphs share the memory of what comes and goes within them."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, step: Step, given: Tensor) -> Callable[[], Tensor]:
        """Run the step, so that all libraries are ready, and then record it."""
        current = torch.cuda.current_stream(given.device)
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                step(given)
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                out = step(given)
        finally:  # a capture that fails leaves its stream current
            torch.cuda.set_stream(current)
        current.wait_stream(self.stream)

        def again() -> Tensor:
            graph.replay()
            return out

        return again

    def forget(self) -> None:
        """Take other memory for what comes: a pool whose graphs are gone is given back."""
        self.pool = torch.cuda.graph_pool_handle()


def open_graphs(device: torch.device, say: Say = warnings.warn) -> Graphs | None:
    """Give what records on a device, if anything does; `say` is told if that fails."""
    if device.type != "cuda" or os.environ.get("LLAMA_CUDA_GRAPHS") == "0":
        return None
    return Graphs(Cuda(device), say)
