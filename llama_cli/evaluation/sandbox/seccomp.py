"""A filter of system calls, as the few instructions of classic BPF that seccomp(2) runs.

The filter is a list: what is not in it is allowed. A thread may be made and a process may not;
clone3(2) keeps its flags in memory, where a filter cannot look, so it is answered as by a kernel
that lacks it, and the C library falls back to clone(2). A program may signal itself alone: it is
process 1 of its own namespace.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llama_cli.evaluation.sandbox.syscalls import (
    CLONE,
    CLONE3,
    EXECUTE,
    KILL,
    LAST,
    MACHINES,
    REFUSED,
    Numbers,
)

# linux/bpf_common.h
LOAD, EQUAL, GREATER, SET, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# linux/seccomp.h
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
# struct seccomp_data: the call's number, the machine, and the low half of the first argument;
# both machines put the low half first
NUMBER, MACHINE, ARGUMENT = 0, 4, 16
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h

CLONE_THREAD = 0x00010000  # linux/sched.h
CLONE_NEW = 0x7E020080  # every namespace of linux/sched.h
OWN = 1  # the program's number in its own namespace


class Instruction(NamedTuple):
    """struct sock_filter: what to do, and how far to jump if it holds and if it does not."""

    code: int
    then: int
    otherwise: int
    value: int


def build(*, execute: bool, machine: str | None = None) -> list[Instruction]:
    """Write the filter for a machine, this one unless told; `execute` allows execve(2) too.

    Raises:
        ValueError: the machine's numbers are not known.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise ValueError(f"no system call numbers for {machine}")
    refused = {**REFUSED, **({} if execute else EXECUTE)}
    return [*_this_machine(machine), *_calls(MACHINES[machine], refused.values()), _give(ALLOW)]


def assemble(instructions: Iterable[Instruction]) -> bytes:
    """Give the filter as the kernel and `bwrap --seccomp` read it."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _this_machine(machine: str) -> Iterator[Instruction]:
    """Kill what calls by the numbers of another machine, such as 32-bit code: a way around."""
    yield Instruction(LOAD, 0, 0, MACHINE)
    yield Instruction(EQUAL, 1, 0, AUDIT[machine])
    yield _give(KILL_PROCESS)
    yield Instruction(LOAD, 0, 0, NUMBER)
    yield Instruction(GREATER, 0, 1, LAST)  # so are x32's, from 2^30 on
    yield _give(ERRNO | errno.ENOSYS)


def _calls(index: int, refused: Iterable[Numbers]) -> Iterator[Instruction]:
    for numbers in refused:
        if (number := numbers[index]) is not None:
            yield Instruction(EQUAL, 0, 1, number)
            yield _give(ERRNO | errno.EPERM)
    yield Instruction(EQUAL, 0, 1, CLONE3[index] or 0)
    yield _give(ERRNO | errno.ENOSYS)
    yield from _threads_only(CLONE[index] or 0)
    for numbers in KILL.values():
        yield from _self_only(numbers[index] or 0)


def _threads_only(number: int) -> Iterator[Instruction]:
    yield Instruction(EQUAL, 0, 5, number)
    yield Instruction(LOAD, 0, 0, ARGUMENT)
    yield Instruction(SET, 2, 0, CLONE_NEW)
    yield Instruction(SET, 0, 1, CLONE_THREAD)
    yield _give(ALLOW)
    yield _give(ERRNO | errno.EPERM)


def _self_only(number: int) -> Iterator[Instruction]:
    yield Instruction(EQUAL, 0, 4, number)
    yield Instruction(LOAD, 0, 0, ARGUMENT)
    yield Instruction(EQUAL, 0, 1, OWN)
    yield _give(ALLOW)
    yield _give(ERRNO | errno.EPERM)


def _give(action: int) -> Instruction:
    return Instruction(RETURN, 0, 0, action)
