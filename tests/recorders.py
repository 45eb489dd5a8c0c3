"""What stands in for CUDA graphs where there is no GPU.

`Traced` takes the first run of a step down, operator by operator, and then does those operators
again on the same memory, as a graph does its kernels: whatever the step read of Python's values,
or of memory that is another's now, is what it was then, and the completions come out wrong. As in
memory that graphs share, a result is gone when another step is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from llama_cli.inference.graphs import Step


class Traced:
    """A recorder, and how often it was asked for what."""

    def __init__(self) -> None:
        self.recorded = self.repeated = self.forgotten = 0
        self.results: list[Tensor] = []

    def record(self, step: Step, given: Tensor) -> Callable[[], Tensor]:
        taken = make_fx(step)(given)  # fails where a tensor is asked for its value
        out: Tensor = taken(given)
        self.results.append(out)
        self.recorded += 1
        age = self.forgotten

        def again() -> Tensor:
            assert age == self.forgotten, "forgotten, and run again"
            self.repeated += 1
            for each in self.results:
                each.fill_(math.nan)
            return out.copy_(taken(given))

        return again

    def forget(self) -> None:
        self.forgotten += 1


class Failing(Traced):
    """A recorder of a GPU that says why it cannot."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def record(self, step: Step, given: Tensor) -> Callable[[], Tensor]:
        raise RuntimeError(self.why)
