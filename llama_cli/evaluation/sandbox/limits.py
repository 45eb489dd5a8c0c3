"""How much one program may use; `candidate.hold` gives it to setrlimit(2)."""

from __future__ import annotations

import resource
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one program. All are ours; the paper names none.

    CPU time decides, so that a busy machine does not fail what a quiet one passes; the clock
    on the wall is there for programs that wait.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory: int = 1024 * MIB  # addresses, bytes
    disk: int = 64 * MIB  # bytes of its directory, and of each file in it
    output: int = 1 * MIB  # bytes written to stdout and stderr together
    files: int = 64  # open at once
    threads: int = 256  # processes and threads of its user; nothing to root

    def resources(self) -> list[tuple[int, int, int]]:
        """Give what setrlimit(2) takes: the resource, its soft and its hard limit."""
        return [
            (resource.RLIMIT_CPU, self.cpu_seconds, self.cpu_seconds),
            (resource.RLIMIT_AS, self.memory, self.memory),
            (resource.RLIMIT_FSIZE, self.disk, self.disk),
            (resource.RLIMIT_NOFILE, self.files, self.files),
            (resource.RLIMIT_NPROC, self.threads, self.threads),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_MEMLOCK, 0, 0),
        ]
