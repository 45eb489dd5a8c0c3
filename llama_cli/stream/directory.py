"""A directory that appears only when whole: hidden beside its place, renamed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_cli.errors import LlamaError, naming
from llama_cli.stream.sync import sync


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a hidden directory to write into, which is `path` once the block ends well.

    Raises:
        LlamaError: something is there already.
    """
    _refuse(path)
    place = path.resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)  # a dead run's, whose number came round
    with naming(str(path)):
        part.mkdir(parents=True)
    try:
        yield part
        for file in part.iterdir():
            sync(file)
        sync(part)
        _refuse(path)  # hours may have passed
        with naming(str(path)):
            part.rename(place)
            sync(place.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        message = f"{path} is there already, and stays as it is"
        raise LlamaError(message, hint="a name that is not taken")
