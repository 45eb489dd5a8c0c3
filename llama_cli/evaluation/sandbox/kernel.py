"""The Linux calls that Python's `os` lacks, through ctypes. Each fails with an OSError.

unshare(2), setns(2), mount(2), pivot_root(2), umount2(2), prctl(2), capset(2), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x00020000, 0x04000000, 0x08000000  # linux/sched.h
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8  # linux/mount.h
REMOUNT, NO_ATIME, NO_DIR_ATIME = 32, 1024, 2048
BIND, RECURSIVE, PRIVATE, REL_ATIME = 4096, 16384, 1 << 18, 1 << 21
DETACH = 2

PARENT_DEATH, DUMPABLE, SECCOMP, NO_NEW_PRIVILEGES = 1, 4, 22, 38  # linux/prctl.h
FILTER = 2  # linux/seccomp.h
CAPABILITIES = 0x20080522  # version 3 of linux/capability.h

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def unshare(kinds: int) -> None:
    """Leave the namespaces of these kinds for new ones."""
    _call("unshare", ctypes.c_int(kinds))


def set_namespace(descriptor: int, kind: int) -> None:
    """Join the namespace that is open."""
    _call("setns", ctypes.c_int(descriptor), ctypes.c_int(kind))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or change how one is mounted."""
    paths = (_bytes(source), _bytes(target), _bytes(kind))
    _call("mount", *paths, ctypes.c_ulong(flags), _bytes(options), where=target)


def pivot_here() -> None:
    """Make the working directory the root, and let go of the old one (pivot_root(2), Notes)."""
    _call("pivot_root", b".", b".")
    _call("umount2", b".", ctypes.c_int(DETACH))
    os.chdir("/")


def prctl(operation: int, value: int = 0) -> None:
    """Set one thing about this process."""
    _call("prctl", ctypes.c_int(operation), *map(ctypes.c_ulong, (value, 0, 0, 0)))


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def filter_calls(code: bytes) -> None:
    """Hold this process to an assembled filter, for good."""
    program = _Program(len(code) // 8, code)
    zero = ctypes.c_ulong(0)
    arguments = (ctypes.c_ulong(FILTER), ctypes.byref(program), zero, zero)
    _call("prctl", ctypes.c_int(SECCOMP), *arguments)


def _call(name: str, *arguments: object, where: str = "") -> None:
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", where or None)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
