"""One process a run: a lock that ends with the process, however it ends.

Who only asks whether it is held has it for a moment, in which nobody else can begin: so whoever
begins tries more than once.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llama_cli.errors import LlamaError

NAME = ".lock"
TRIES, PAUSE = 3, 0.02  # and seconds between two; ours


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the run directory if need be, and hold its lock.

    Raises:
        LlamaError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / NAME).open("w") as file:
        if not any(_is_taken(file, attempt) for attempt in range(TRIES)):
            raise LlamaError(
                f"{run} is in use by another process", hint="llama train --run ANOTHER"
            )
        yield


def _is_taken(file: IO[str], attempt: int) -> bool:
    if attempt:
        time.sleep(PAUSE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(run: Path) -> bool:
    """Say whether a run was begun and no process holds its lock, as far as the disk tells."""
    try:
        with (run / NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, not there, or on a disk without locks
        return False
    return True
