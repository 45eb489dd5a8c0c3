"""Which model lies in a directory: a digest of its config and of the bytes of its weights.

The hashes of a checkpoint's manifest are taken where it has one and no weight has been written
since. Otherwise files are read whole, by XXH3 at the speed of the disk, and what was found is
remembered with the length and time of the file: a file is read again once it has changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_cli.errors import naming
from llama_cli.evaluation.models.store import digest
from llama_cli.model.formats.source import Source
from llama_cli.model.manifest import MANIFEST, Entry, lacking, read_manifest

REMEMBERED = "files.json"


def weights_digest(source: Source, root: Path, say: Callable[[str], None]) -> str:
    """Name the model of a directory; `root` is where hashes of files are remembered.

    Raises:
        OSError: a file cannot be read.
    """
    paths = sorted({file.path for file in source.files})
    hashes = _from_manifest(source.directory, paths)
    if hashes is None:
        hashes = _from_bytes(paths, root / REMEMBERED, say)
    about = source.about.read_text(encoding="utf-8")
    return digest(about, [[path.name, hashes[path]] for path in paths])


def _from_manifest(directory: Path, paths: list[Path]) -> dict[Path, str] | None:
    """Take the hashes that training wrote, unless something was written after them."""
    try:
        files = read_manifest(directory)
    except ValueError:
        return None
    if files is None or lacking(directory, files):
        return None
    written = (directory / MANIFEST).stat().st_mtime_ns
    if any(path.name not in files or path.stat().st_mtime_ns > written for path in paths):
        return None
    return {path: files[path.name].xxh3_128 for path in paths}


def _from_bytes(paths: list[Path], memory: Path, say: Callable[[str], None]) -> dict[Path, str]:
    """Read files whole that are not remembered as they are now."""
    known = _read(memory)
    found: dict[Path, str] = {}
    for path in paths:
        status = path.stat()
        name, mark = str(path.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]
        if known.get(name, [None])[0] != mark:
            say(f"{path}: read once, to name the model by its bytes")
            known[name] = [mark, Entry.of(path).xxh3_128]
        found[path] = known[name][1]
    with naming(str(memory.parent)):
        memory.parent.mkdir(parents=True, exist_ok=True)
    part = memory.with_name(f".{memory.name}.{os.getpid()}.part")
    part.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(memory)  # of two processes the last wins, and the other reads again
    return found


def _read(memory: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
