"""Read the files of a directory that tell licences: LICENSE, COPYING, RECORD, METADATA."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from llama_cli.sources.ownership import Owner, owners, telling


def installed(root: Path) -> dict[str, Owner]:
    """Find what the RECORDs of the packages beside or above an input say of its files.

    So that a package can be fetched by its own directory.
    """
    root = root.absolute()
    for folder in root.parents:
        if infos := sorted(folder.glob("*.dist-info")):
            name = root.relative_to(folder).as_posix()
            start = f"{name}/" if root.is_dir() else name
            infos = [info for info in infos if start.encode() in _record(info)]
            files = {key: data for info in infos for key, data in _info_files(info).items()}
            cut = len(start) if root.is_dir() else len(name) - len(root.name)
            return {path[cut:]: owner for path, owner in owners(files) if path.startswith(start)}
    return {}


def _record(info: Path) -> bytes:
    with suppress(OSError):
        return (info / "RECORD").read_bytes()
    return b""


def telling_files(entries: list[os.DirEntry[str]]) -> dict[str, bytes]:
    """Read the files of a folder, and of the dist-info folders in it, that tell licences."""
    found: dict[str, bytes] = {}
    for entry in entries:
        path = Path(entry.path)
        if entry.name.endswith(".dist-info") and entry.is_dir(follow_symlinks=False):
            found |= _info_files(path)
        else:
            found |= _told([path], path.parent)
    return found


def _info_files(info: Path) -> dict[str, bytes]:
    return _told(sorted(info.rglob("*")), info.parent)


def _told(files: Iterable[Path], root: Path) -> dict[str, bytes]:
    found = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        if telling(name) and file.is_file() and not file.is_symlink():
            with suppress(OSError):  # its files have no licence then, and are counted so
                found[name] = file.read_bytes()
    return found
