"""The tier that needs no program but Python: namespaces(7), made through ctypes.

`enter` is done once, by the process from which programs are forked: it leaves the users, the
files and the processes of the machine. `isolate` is done by each program's own process: fresh
mounts with an empty directory in memory, network without an interface, IPC and host name; then
limits, no capability, and the filter of system calls.

Root becomes nobody on the way: files and settings of the kernel that root may write by its
number alone are out of reach even if all else failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llama_cli.evaluation.sandbox import kernel
from llama_cli.evaluation.sandbox.candidate import hold
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.view import DEVICES, PASS_THROUGH, WORK, parents

NOBODY = 65534  # the overflow user of user_namespaces(7)
_COVER = "/proc"  # where the new root is built: nothing of Python lies below it
_PARTS = kernel.NEW_MOUNTS | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS


def enter(paths: Sequence[str]) -> None:
    """Leave the machine's users and files; of those, only `paths` and some devices stay.

    Raises:
        OSError: the kernel, or who rules this machine, does not allow it.
    """
    process = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)  # /proc will be out of sight
    try:
        try:
            kernel.unshare(kernel.NEW_MOUNTS)
        except PermissionError:
            _own_users(process)
            kernel.unshare(kernel.NEW_MOUNTS)
            build_root(paths, process)
        else:  # root: Python's files may lie where only it can go, so it changes after
            build_root(paths, process)
            _become_nobody()
            _own_users(process)
    finally:
        os.close(process)
    kernel.unshare(kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS)


def isolate(limits: Limits, calls: bytes) -> None:
    """Put this process, the first of its process namespace, where it can do no harm."""
    kernel.unshare(_PARTS)
    size = f"mode=1777,size={limits.disk},nr_inodes=1024"
    kernel.mount("tmpfs", WORK, "tmpfs", kernel.NO_SUID | kernel.NO_DEV, size)
    os.chdir(WORK)
    hold(limits.resources())
    kernel.prctl(kernel.NO_NEW_PRIVILEGES, 1)
    kernel.drop_capabilities()
    kernel.filter_calls(calls)


def _become_nobody() -> None:
    """Change to nobody; root of a user namespace that has none is no more than a user itself."""
    with suppress(OSError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.prctl(kernel.DUMPABLE, 1)  # else its files in /proc stay root's


def _own_users(process: int) -> None:
    """Be alone in a user namespace, under the same number (user_namespaces(7))."""
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_USER)
    _write("setgroups", "deny", process)
    _write("uid_map", f"{user} {user} 1", process)
    _write("gid_map", f"{group} {group} 1", process)


def _write(name: str, text: str, process: int) -> None:
    descriptor = os.open(name, os.O_WRONLY, dir_fd=process)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def build_root(paths: Sequence[str], process: int) -> None:
    """Make a root of `paths` alone, each where it was and read-only, and go there."""
    kernel.mount(None, "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", _COVER, "tmpfs", kernel.NO_SUID | kernel.NO_DEV, "mode=755,size=1m")
    for path in paths:
        _bind(path)
    _freeze(process)
    for device in filter(os.path.exists, DEVICES):
        _bind(device)
    (Path(_COVER) / WORK.lstrip("/")).mkdir(mode=0o700, exist_ok=True)
    for path in parents([*paths, *DEVICES]):
        Path(_COVER + path).chmod(PASS_THROUGH)
    os.chdir(_COVER)
    kernel.pivot_here()
    flags = kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEV
    kernel.mount(None, "/", None, flags)


def _bind(path: str) -> None:
    """Show a file or directory of the machine, with all that is mounted in it."""
    inside = Path(_COVER + path)
    inside.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        inside.mkdir()
    else:
        inside.touch()
    kernel.mount(path, str(inside), None, kernel.BIND | kernel.RECURSIVE)


def _freeze(process: int) -> None:
    """Make every mount below the new root read-only; a plain bind changes only the topmost."""
    descriptor = os.open("mountinfo", os.O_RDONLY, dir_fd=process)
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as lines:
        points = [_unescape(line.split(" ")[4]) for line in lines]
    for point in points:
        if point.startswith(f"{_COVER}/"):
            flags = kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | _kept(point)
            kernel.mount(None, point, None, flags)


def _kept(point: str) -> int:
    """Give the flags that a remount in a user namespace may not take away (mount(2))."""
    now = os.statvfs(point).f_flag
    pairs = (
        (os.ST_NOEXEC, kernel.NO_EXEC),
        (os.ST_NOATIME, kernel.NO_ATIME),
        (os.ST_NODIRATIME, kernel.NO_DIR_ATIME),
        (os.ST_RELATIME, kernel.REL_ATIME),
    )
    kept = sum(flag for held, flag in pairs if now & held)
    return kernel.NO_SUID | kernel.NO_DEV | kept


def _unescape(text: str) -> str:
    r"""Undo what proc(5) does to blanks in a path.

    >>> _unescape(r"/a\040b")
    '/a b'
    """
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
