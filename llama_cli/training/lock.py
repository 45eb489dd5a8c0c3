"""One process a run: a lock that ends with the process, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_cli.errors import LlamaError


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the run directory if need be, and hold its lock.

    Raises:
        LlamaError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlamaError(
                f"{run} is in use by another process", hint="llama train --run ANOTHER"
            ) from None
        yield
