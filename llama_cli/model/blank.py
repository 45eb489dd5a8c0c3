"""Modules without numbers: their shapes only, on PyTorch's "meta" device, in no time.

PyTorch draws weights when a module is made, on that device too, and imports its compiler for it:
seconds before the first token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

DRAWS = (init.normal_, init.uniform_, init.kaiming_uniform_)


class _Undrawn(TorchFunctionMode):
    """Leave what would be drawn as it is."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def blank() -> Iterator[None]:
    """Make the modules within blank."""
    with torch.device("meta"), _Undrawn():
        yield
