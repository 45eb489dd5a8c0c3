"""manifest.json: the files of a checkpoint, with their lengths and hashes; written last.

    {"step": 123, "files": {"model.safetensors": {"bytes": 12, "xxh3_128": "…"}, …}}

A disk that lied, a copy cut short or a bit that fell over is seen before anything is continued
from it. XXH3 is no seal against somebody who means harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from xxhash import xxh3_128

MANIFEST = "manifest.json"
BLOCK = 1 << 22  # bytes hashed at once; ours


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file is to be."""

    bytes: int
    xxh3_128: str

    @classmethod
    def of(cls, path: Path) -> Entry:
        """Measure a file.

        Raises:
            OSError: it cannot be read.
        """
        total, hashed = 0, xxh3_128()
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                total += len(block)
                hashed.update(block)
        return cls(total, hashed.hexdigest())


Files = Mapping[str, Entry]


def write_manifest(directory: Path, step: int, files: Files) -> Path:
    """Say in a directory what lies there."""
    told = {"step": step, "files": {name: asdict(files[name]) for name in sorted(files)}}
    path = directory / MANIFEST
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return path


def read_manifest(directory: Path) -> Files | None:
    """Give what is to lie in a directory; None without a manifest.

    Raises:
        ValueError: it is damaged.
    """
    try:
        told = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return {name: Entry(**entry) for name, entry in told["files"].items()}
    except FileNotFoundError:
        return None
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{directory / MANIFEST}: damaged") from error


def lacking(directory: Path, files: Files) -> list[str]:
    """Name the files that are not there or not as long as they are to be; quick."""
    return [name for name, entry in files.items() if _length(directory / name) != entry.bytes]


def damaged(directory: Path, files: Files, names: Iterable[str]) -> list[str]:
    """Name those of `names` whose bytes are not what they were; reads them all.

    Raises:
        OSError: one is there and cannot be read.
    """
    return [name for name in names if not _agrees(directory / name, files[name])]


def _agrees(path: Path, entry: Entry) -> bool:
    try:
        return Entry.of(path) == entry
    except FileNotFoundError:
        return False


def _length(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
