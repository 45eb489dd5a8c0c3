"""What a generated program may see of the disk: Python's own files, read-only, and nothing else.

No home directory, no /etc, no /proc, no /sys: what leads to Python can be passed through and not
listed. The working directory is empty, in memory, and gone with the program.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

WORK = "/tmp"  # the one place to write to
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PASS_THROUGH = 0o111  # of a directory on the way: it cannot be listed

_LOADER = ("/lib64", "/usr/lib64", "/etc/ld.so.cache")  # ld.so(8), and where Red Hat has libraries


def interpreter() -> str:
    """Give Python itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def python_files() -> list[str]:
    """List what Python needs to run and to import its standard library."""
    return sorted(_outermost(path for path in _wanted() if Path(path).exists()))


def standard_library() -> list[str]:
    """Give the import path of Python without any package."""
    own = [Path(os.__file__).parent, Path(_config("DESTSHARED"))]
    return list(dict.fromkeys(str(path) for path in own if path.is_dir()))


def _wanted() -> Iterator[str]:
    """Name more than may exist: builds of Python differ in where they keep their parts."""
    yield interpreter()
    yield from standard_library()
    if sys.base_prefix != "/usr":  # there, lib holds the whole system
        yield f"{sys.base_prefix}/lib"
    for directory in (_config("LIBDIR"), f"{sys.base_prefix}/lib"):
        yield f"{directory}/{_config('INSTSONAME')}"
    if several := _config("MULTIARCH"):
        yield from (f"/lib/{several}", f"/usr/lib/{several}")
    yield from _LOADER


def _config(name: str) -> str:
    return str(sysconfig.get_config_var(name) or "")


def _outermost(paths: Iterable[str]) -> Iterator[str]:
    """Leave out what lies in another of them.

    >>> list(_outermost(["/a/b", "/a", "/ab"]))
    ['/a', '/ab']
    """
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
            yield path


def parents(paths: Iterable[str]) -> list[str]:
    """List the directories on the way to `paths`, the outer ones first; not the root.

    >>> parents(["/a/b/c", "/a/d"])
    ['/a', '/a/b']
    """
    return sorted({str(above) for path in paths for above in Path(path).parents} - {"/"})
