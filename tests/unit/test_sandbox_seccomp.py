"""The filter of system calls: what it answers, by an interpreter of BPF and by the kernel."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.evaluation.sandbox import seccomp, syscalls
from llama_cli.evaluation.sandbox.seccomp import assemble, build
from llama_cli.evaluation.sandbox.syscalls import CLONE, CLONE3, EXECUTE, KILL, LAST, REFUSED
from tests.shell import ROOT

MACHINES = sorted(syscalls.MACHINES)
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
I386 = 0x40000003
REFUSE, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
THREAD = 0x3D0F00  # the flags with which glibc makes a thread (pthread_create.c)
PROCESS = 0x01200011  # and those of its fork: CHILD_SETTID, CHILD_CLEARTID, SIGCHLD


def answer(code: bytes, machine: int, number: int, argument: int = 0) -> int:
    """Run a filter as the kernel does, from its bytes (linux/filter.h)."""
    data = {0: number, 4: machine, 16: argument & 0xFFFFFFFF}
    value = at = 0
    while True:
        operation = int.from_bytes(code[at : at + 2], sys.byteorder)
        then, otherwise = code[at + 2], code[at + 3]
        constant = int.from_bytes(code[at + 4 : at + 8], sys.byteorder)
        at += 8
        match operation:
            case 0x20:
                value = data[constant]
            case 0x15:
                at += 8 * (then if value == constant else otherwise)
            case 0x25:
                at += 8 * (then if value > constant else otherwise)
            case 0x45:
                at += 8 * (then if value & constant else otherwise)
            case 0x06:
                return constant
            case _:
                raise AssertionError(operation)


def ask(machine: str, number: int, argument: int = 0, *, execute: bool = False) -> int:
    return answer(
        assemble(build(execute=execute, machine=machine)), AUDIT[machine], number, argument
    )


def number(numbers: syscalls.Numbers, machine: str) -> int:
    found = numbers[syscalls.MACHINES[machine]]
    assert found is not None
    return found


def refused(machine: str) -> set[int]:
    index = syscalls.MACHINES[machine]
    tables = chain(REFUSED.values(), EXECUTE.values())
    return {numbers[index] for numbers in tables if numbers[index] is not None}


@pytest.mark.parametrize("machine", MACHINES)
@given(call=st.integers(0, LAST), argument=st.integers(0, 2**64 - 1))
def test_a_call_is_refused_if_it_is_listed_and_allowed_if_not(machine, call, argument):
    if call in {number(CLONE, machine), number(CLONE3, machine)} | {
        number(each, machine) for each in KILL.values()
    }:
        return
    assert ask(machine, call, argument) == (REFUSE if call in refused(machine) else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=st.integers(0, 2**32 - 1))
def test_what_clone_makes_is_a_thread_in_the_same_namespaces_or_nothing(machine, flags):
    allowed = flags & seccomp.CLONE_THREAD and not flags & seccomp.CLONE_NEW
    assert ask(machine, number(CLONE, machine), flags) == (ALLOW if allowed else REFUSE)


@pytest.mark.parametrize("machine", MACHINES)
def test_glibc_may_make_a_thread_and_no_process(machine):
    assert ask(machine, number(CLONE, machine), THREAD) == ALLOW
    assert ask(machine, number(CLONE, machine), PROCESS) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_is_answered_as_by_an_old_kernel(machine):
    assert ask(machine, number(CLONE3, machine)) == ABSENT


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", sorted(KILL))
@pytest.mark.parametrize(("target", "action"), [(1, ALLOW), (0, REFUSE), (2, REFUSE), (-1, REFUSE)])
def test_a_program_signals_itself_alone(machine, name, target, action):
    assert ask(machine, number(KILL[name], machine), target) == action


@pytest.mark.parametrize("machine", MACHINES)
def test_execve_is_allowed_where_python_is_still_to_be_started(machine):
    assert ask(machine, number(EXECUTE["execve"], machine), execute=True) == ALLOW
    assert ask(machine, number(EXECUTE["execve"], machine), execute=False) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
@given(call=st.integers(LAST + 1, 2**32 - 1))
def test_a_call_that_came_later_or_is_of_x32_does_not_exist(machine, call):
    assert ask(machine, call) == ABSENT


@pytest.mark.parametrize("machine", MACHINES)
@given(call=st.integers(0, 2**32 - 1))
def test_a_call_by_the_numbers_of_another_machine_kills(machine, call):
    code = assemble(build(execute=True, machine=machine))
    assert answer(code, I386, call) == KILL_PROCESS


def test_a_machine_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="riscv64"):
        build(execute=True, machine="riscv64")


def test_a_filter_is_short_enough_for_the_kernel():
    assert len(build(execute=False)) <= 4096  # BPF_MAXINSNS


def test_no_call_is_listed_twice():
    for machine in MACHINES:
        index = syscalls.MACHINES[machine]
        tables = chain(REFUSED.values(), EXECUTE.values(), KILL.values(), [CLONE, CLONE3])
        numbers = [numbers[index] for numbers in tables if numbers[index] is not None]
        assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_the_numbers_are_those_of_the_kernels_headers(machine, header):
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path} to compare with")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    known = {name: int(value) for name, value in found}
    index = syscalls.MACHINES[machine]
    ours = {**REFUSED, **EXECUTE, **KILL, "clone": CLONE, "clone3": CLONE3}
    compared = {name: numbers[index] for name, numbers in ours.items() if name in known}
    assert compared == {name: known[name] for name in compared}
    assert len(compared) > 80
    if machine == "aarch64":  # it has none of those that are not in the file
        newer = {
            name for name, numbers in ours.items() if (numbers[index] or 0) > max(known.values())
        }
        absent = {name for name, numbers in ours.items() if numbers[index] is None}
        assert set(ours) - set(known) <= absent | newer
        assert absent & set(known) == set()


ATTEMPTS = """
import ctypes, json, os, platform, signal, socket, sys, threading
from llama_cli.evaluation.sandbox import kernel
from llama_cli.evaluation.sandbox.seccomp import assemble, build
kernel.prctl(kernel.NO_NEW_PRIVILEGES, 1)
kernel.filter_calls(assemble(build(execute=False)))
libc = ctypes.CDLL(None, use_errno=True)
def tried(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0
def raw(name, *arguments):
    return 0 if getattr(libc, name)(*arguments) != -1 else ctypes.get_errno()
thread = threading.Thread(target=lambda: None)
print(json.dumps({
    "fork": tried(os.fork),
    "socket": tried(socket.socket),
    "socketpair": tried(socket.socketpair),
    "execve": tried(lambda: os.execv("/bin/true", ["true"])),
    "kill": tried(lambda: os.kill(os.getppid(), 0)),
    "ptrace": raw("ptrace", 0, 0, 0, 0),
    "unshare": raw("unshare", 0x10000000),
    "clone3": raw("syscall", 435, 0, 0),
    "later": raw("syscall", 5000),
    "thread": thread.start() or thread.join(),
}))
"""


def test_the_kernel_takes_the_filter_and_obeys():
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        **dict.fromkeys(["fork", "socket", "execve", "kill", "ptrace", "unshare"], errno.EPERM),
        "socketpair": 0,
        "clone3": errno.ENOSYS,
        "later": errno.ENOSYS,
        "thread": None,
    }


def test_a_call_of_32_bits_kills(tmp_path):
    if os.uname().machine != "x86_64" or not shutil.which("gcc"):
        pytest.skip("needs gcc on x86-64")
    source = 'int getpid32(void) { int r; __asm__("int $0x80" : "=a"(r) : "a"(20)); return r; }'
    (tmp_path / "call.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "call.c", "-o", "call.so"], cwd=tmp_path, check=True)
    script = ATTEMPTS.split("def tried")[0] + f"ctypes.CDLL({str(tmp_path / 'call.so')!r})"
    done = subprocess.run([sys.executable, "-c", f"{script}.getpid32()"], cwd=ROOT, check=False)
    assert done.returncode in (-31, -11)  # SIGSYS; SIGSEGV by a kernel without 32-bit calls
