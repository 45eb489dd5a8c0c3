"""Programs in each sandbox of this machine: what is stopped, and how it is counted."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.evaluation.sandbox import forked, probes
from llama_cli.evaluation.sandbox.forked import Forked
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.probes import PROBES, Probe, check
from llama_cli.evaluation.sandbox.result import Result
from llama_cli.evaluation.sandbox.tiers import TIERS, UNSAFE, choose, open_pool, tried, why_not
from tests.sandboxes import QUICK, need
from tests.shell import ROOT

FORK_BOMB = """
import os
for _ in range(300):
    os.fork()
"""
STOPPED = {
    "fork bomb": (FORK_BOMB, "failed", "PermissionError: [Errno 1] Operation not permitted"),
    "socket": ("import socket\nsocket.socket()", "failed", "PermissionError: [Errno 1] Oper"),
    "home": (f"import os\nos.listdir({str(Path.home())!r})", "failed", ""),
    "4 GB": ("held = bytearray(4 << 30)", "memory", "MemoryError"),
    "endless loop": ("while True:\n    pass", "timeout", "more than 3 CPU seconds"),
    "exit 0": ("import os\nos._exit(0)", "failed", "ended with 0 before its tests did"),
    "1 GB": (
        "for _ in range(1000):\n    print('x' * 10**6)",
        "output",
        "more than 1,048,576 bytes",
    ),
    "assertion": ("assert 1 + 1 == 3, 'sum'", "failed", "AssertionError: sum"),
    "bare assertion": ("assert False", "failed", "AssertionError"),
    "syntax": ("def f(:", "failed", "SyntaxError: invalid syntax"),
    "sys.exit": ("import sys\nsys.exit(0)", "failed", "SystemExit: 0"),
    "exception": ("{}['a\\nb']", "failed", r"KeyError: 'a\nb'"),
    "crash": ("import ctypes\nctypes.string_at(0)", "killed", "signal 11"),
    "recursion": ("def f():\n    f()\nf()", "failed", "RecursionError: maximum recursion"),
    "half a character": ("'\ud800'", "failed", "UnicodeEncodeError"),
    "stdin": ("input()", "failed", "EOFError"),
    "closed report": ("import os\nos.closerange(3, 99)", "failed", "ended with 0 before its"),
    "no exceptions": ("import builtins\nbuiltins.type = 1\n1 / 0", "failed", "ended with 0 before"),
    "odd exception": (
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        "failed",
        "E: …",
    ),
}


@pytest.mark.parametrize("name", STOPPED)
def test_what_goes_wrong_is_a_failure_with_its_reason_and_the_next_program_runs(pool, name):
    program, outcome, detail = STOPPED[name]
    result, after = pool.run([program, "pass"])
    assert (result.outcome, result.tier) == (outcome, pool.tier)
    assert result.detail.startswith(detail)
    assert not result.passed
    assert after.passed


@pytest.mark.parametrize(
    "program",
    [
        "assert __name__ == '__main__'",
        "import sys\nassert sys.argv == ['program.py']",
        "import sys\nassert sys.modules['__main__'].__dict__ is globals()",
        "import sys\nassert not any('llama' in name for name in sys.modules)",
        "from __future__ import annotations\ndef f(x: unknown): ...",
        "def f(x: int): ...\nassert f.__annotations__ == {'x': int}",
        "import os\nassert os.getcwd() == '/tmp' and os.listdir() == []",
        "open('a', 'w').write('b')\nassert open('a').read() == 'b'",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "import asyncio\nasyncio.run(asyncio.sleep(0))",
        "import ctypes, decimal, hashlib, lzma, sqlite3, ssl, zlib",
        "import os\nos.kill(os.getpid(), 0)",
        "import os, signal\nheard = []\nsignal.signal(10, lambda *_: heard.append(1))\n"
        "os.kill(os.getpid(), 10)\nassert heard",
        "import atexit\natexit.register(lambda: 1 / 0)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "import os\nassert set(os.environ) <= {'HOME', 'PYTHONHASHSEED', 'LC_CTYPE', 'PWD'}",
        "import json, os, sys\nos.write = os._exit = sys.exit = json.dumps = None",
        "import builtins\nbuiltins.str = builtins.type = builtins.BaseException = None",
        "import sys\nsys.stdout = sys.stderr = None",
        "print('é' * 1000)",
        "# no line end",
        "",
    ],
)
def test_a_program_that_does_no_harm_passes(pool, program):
    (result,) = pool.run([program])
    assert result == Result("passed", "", result.seconds, pool.tier)


def test_sets_are_in_the_same_order_in_every_run(pool):
    show = "raise Exception(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    assert len({result.detail for result in pool.run([show] * 4)}) == 1


def test_a_program_finds_nothing_of_the_one_before(pool):
    leave = (
        "import builtins, os\nbuiltins.left = 1\nopen('left', 'w').close()\nos.environ['L'] = '1'"
    )
    look = (
        "import builtins, os\nassert not hasattr(builtins, 'left') and 'L' not in os.environ\n"
        "assert not os.path.exists('left')"
    )
    assert [result.outcome for result in pool.run([leave, look] * 4)] == ["passed"] * 8


def test_python_is_there_and_can_neither_be_changed_nor_listed_from_above(pool):
    program = """
import errno, os
try:
    open(os.__file__, 'a')
except OSError as error:
    assert error.errno in (errno.EROFS, errno.EACCES), error
assert os.statvfs(os.__file__).f_flag & os.ST_RDONLY and os.statvfs('/').f_flag & os.ST_RDONLY
for place in ('/etc', '/root', '/dev'):
    try:
        os.listdir(place)
    except PermissionError:
        continue
    except FileNotFoundError:
        continue
    raise Exception(place)
for name in os.listdir('/'):
    try:
        open('/' + name + '/new', 'w')
    except OSError:
        assert name != 'tmp'
"""
    (result,) = pool.run([program])
    assert result.detail == ""


def test_a_program_that_waits_is_ended_by_the_clock(pool):
    with open_pool(tier=pool.tier, limits=Limits(wall_seconds=3.0)) as quick:
        result, after = quick.run(["import time\ntime.sleep(60)", "pass"])
    assert (result.outcome, result.detail) == ("timeout", "more than 3 seconds")
    assert after.passed
    assert 3 <= result.seconds < 20


def test_a_directory_holds_as_much_as_the_limit_says(pool):
    write = "for n in range(8):\n    open(str(n), 'wb').write(bytes(1 << 20))"
    for megabytes, outcome in ((16, "passed"), (4, "failed")):
        with open_pool(tier=pool.tier, limits=Limits(disk=megabytes << 20)) as small:
            assert [result.outcome for result in small.run([write])] == [outcome]


def test_results_are_in_order_whoever_is_first(pool):
    programs = [f"import time\ntime.sleep({n % 2 / 10})\nassert {n} < 0, {n}" for n in range(12)]
    assert [result.detail for result in pool.run(programs)] == [
        f"AssertionError: {n}" for n in range(12)
    ]


def test_only_a_few_programs_are_read_ahead(pool):
    read = []

    def programs():
        for n in range(100):
            read.append(n)
            yield "pass"

    results = pool.run(programs())
    next(results)
    assert len(read) <= 8
    assert sum(result.passed for result in results) == 99


@pytest.mark.parametrize("tier", TIERS)
def test_every_attack_is_stopped(tier):
    need(tier)
    found = dict(check(tier))
    assert [name for name, verdict in found.items() if verdict == "open"] == []
    assert len(found) == len(PROBES)


HARMLESS = {
    "reach the machine's loopback",
    "read files of the machine",
    "read secrets of the environment",
    "write files of the machine",
    "see processes of the machine",
    "kill a process of the machine",
}
if not os.geteuid():  # the limit on processes counts all of a user's, and may be reached already
    HARMLESS.add("leave a process behind")


def test_the_same_attacks_succeed_without_a_sandbox(monkeypatch):
    monkeypatch.setattr(probes, "PROBES", [each for each in PROBES if each.name in HARMLESS])
    assert dict(check(UNSAFE)) == dict.fromkeys(HARMLESS, "open")


def test_a_sandbox_in_which_nothing_runs_cannot_be_judged(monkeypatch):
    monkeypatch.setattr(probes, "PROBES", [Probe("wait", lambda scene: "pass")])
    monkeypatch.setattr(probes, "LIMITS", Limits(wall_seconds=0.0))
    with pytest.raises(LlamaError, match="unsafe: no program runs after 'wait': more than 0 s"):
        list(check(UNSAFE))


def test_the_first_tier_without_a_reason_against_it_is_used():
    assert choose({"namespaces": "", "bubblewrap": ""}) == "namespaces"
    assert choose({"namespaces": "forbidden", "bubblewrap": ""}) == "bubblewrap"
    assert choose({"namespaces": "", "bubblewrap": ""}, unsafe=True) == "namespaces"


def test_without_a_sandbox_nothing_runs_unless_it_is_asked_for():
    reasons = {"namespaces": "forbidden", "bubblewrap": "no bwrap on PATH"}
    with pytest.raises(NotReadyError, match="namespaces: forbidden; bubblewrap: no bwrap") as error:
        choose(reasons)
    assert "--unsafe" in (error.value.hint or "")
    assert choose(reasons, unsafe=True) == UNSAFE


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert why_not("bubblewrap") == "no bwrap on PATH"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tried() == dict.fromkeys(TIERS, "Linux is needed")


def test_a_sandbox_that_cannot_be_made_is_an_error_and_no_failed_program(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho no user namespaces here\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr(forked, "_PACKAGE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tried() == {
        "namespaces": "no namespaces here: it ended before it began",
        "bubblewrap": "the bubblewrap sandbox could not be made: no user namespaces here",
    }


def test_a_forking_process_that_is_lost_is_started_again():
    need("namespaces")
    runner = Forked()
    try:
        assert runner.run("pass", "t", QUICK).report == "+t"
        first = runner._process
        assert first is not None
        first.kill()
        first.wait()
        assert runner.run("pass", "u", QUICK).report == "+u"
        assert runner._process is not first
    finally:
        runner.close()


def test_a_program_with_which_the_forking_process_is_lost_twice_is_killed(monkeypatch):
    need("namespaces")
    monkeypatch.setattr(forked, "GRACE", 1.0)
    monkeypatch.setattr(
        forked, "receive", lambda channel: _lost() if channel.gettimeout() < 1 else ""
    )

    def _lost():
        raise EOFError

    with open_pool(tier="namespaces", limits=Limits(wall_seconds=-0.5)) as pool:
        (result,) = pool.run(["pass"])
    assert (result.outcome, result.detail) == ("killed", "lost")


def test_nothing_is_left_when_the_parent_is_killed(tmp_path):
    need("namespaces")
    script = (
        "from llama_cli.evaluation.sandbox.tiers import open_pool\n"
        "pool = open_pool(tier='namespaces')\n"
        "next(pool.run(['pass']))\n"
        "print(pool._runners[0]._process.pid, flush=True)\n"
        "next(pool.run(['import time; time.sleep(60)']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        group = [pid, *_children(pid)]
        assert len(group) >= 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{each}").exists() for each in group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [each for each in group if Path(f"/proc/{each}").exists()] == []


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, found) for each in (child, *_children(child))]


@pytest.mark.parametrize(
    "before",
    [
        ["setpriv", "--bounding-set", "-sys_admin"],  # root that may make no mounts of its own
        ["unshare", "--user", "--map-root-user"],  # root of a user namespace with no other user
    ],
)
def test_who_is_not_quite_root_gets_namespaces_too(before):
    if os.geteuid() or not shutil.which(before[0]):
        pytest.skip(f"needs root and {before[0]}")
    need("namespaces")
    script = (
        "from llama_cli.evaluation.sandbox.tiers import open_pool, why_not\n"
        "assert why_not('namespaces') == '', why_not('namespaces')\n"
        "with open_pool(tier='namespaces') as pool:\n"
        "    print(*pool.run(['import os; open(1, \"w\"); os.fork()']))\n"
    )
    done = subprocess.run(
        [*before, sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in done.stdout, done.stderr


def test_to_leave_early_ends_the_programs_that_run(pool):
    start = time.monotonic()
    with open_pool(tier=pool.tier, jobs=2) as left:
        results = left.run(["pass", *["import time\ntime.sleep(29)"] * 9])
        assert next(results).passed
    assert time.monotonic() - start < 25


def test_the_tiers_are_tried_in_the_order_in_which_they_are_preferred():
    assert list(TIERS) == ["namespaces", "bubblewrap"]
