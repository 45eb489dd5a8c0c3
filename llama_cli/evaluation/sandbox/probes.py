"""Attacks on a sandbox, to see which are stopped: the list behind `llama eval sandbox-check`.

Each is a program that passes if it got what it was after, so a tier is "open" to a probe whose
program passes, or whose mark is then found on the machine. A scene holds what it is after: a
file with a secret, a listening socket, a process to kill, all of our own making.

Nothing here does harm where it succeeds: at most 300 processes for a moment, 2 GiB of addresses
and 256 MiB in a directory that is removed.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_cli.errors import LlamaError
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.pool import Pool
from llama_cli.evaluation.sandbox.result import Result
from llama_cli.evaluation.sandbox.tiers import open_pool

LIMITS = Limits(cpu_seconds=2, wall_seconds=10.0)
MARK = "llama-probe"  # the name of a process that should not outlive its program; at most 15 bytes

Verdict = Literal["blocked", "open"]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the probes are after."""

    directory: Path  # holds a file named secret
    name: str  # of a variable of the environment
    secret: str  # the content of both
    port: int  # of a listening socket on this machine's loopback
    process: int  # that can be killed


@dataclass(frozen=True, slots=True)
class Probe:
    """One attack; `marked` looks on the machine for what it left there."""

    name: str
    program: Callable[[Scene], str]
    marked: Callable[[Scene], bool] = lambda scene: False


def check(tier: str) -> Iterator[tuple[str, Verdict]]:
    """Try every probe in one tier, each in a fresh sandbox.

    Raises:
        LlamaError: a harmless program does not pass, so that nothing can be told.
    """
    with stage() as scene, open_pool(tier=tier, limits=LIMITS) as pool:
        for probe in PROBES:
            yield probe.name, _try(probe, scene, pool)
            control = _one(pool, "pass")
            if not control.passed:
                raise LlamaError(f"{tier}: no program runs after '{probe.name}': {control.detail}")


def _try(probe: Probe, scene: Scene, pool: Pool) -> Verdict:
    result = _one(pool, probe.program(scene))
    return "open" if result.passed or probe.marked(scene) else "blocked"


def _one(pool: Pool, program: str) -> Result:
    (result,) = pool.run([program])
    return result


@contextmanager
def stage() -> Iterator[Scene]:
    """Set up what the probes are after, and take it away."""
    secret, name = secrets.token_hex(8), "LLAMA_PROBE"
    os.environ[name] = secret
    try:
        with (
            tempfile.TemporaryDirectory(prefix="llama-probe-") as directory,
            socket.create_server(("127.0.0.1", 0)) as server,
            subprocess.Popen(["sleep", "600"], start_new_session=True) as victim,
        ):
            (Path(directory) / "secret").write_text(secret, encoding="utf-8")
            try:
                yield Scene(Path(directory), name, secret, server.getsockname()[1], victim.pid)
            finally:
                victim.kill()
    finally:
        del os.environ[name]


def _is_dead(scene: Scene) -> bool:
    """Tell whether the victim was killed: it is ours, so it stays as a zombie till waited for."""
    with suppress(OSError):
        state = Path(f"/proc/{scene.process}/stat").read_text(encoding="utf-8")
        return state.rpartition(")")[2].split()[0] == "Z"
    return True


def _is_written(scene: Scene) -> bool:
    return (scene.directory / "written").exists()


def _outlives(scene: Scene) -> bool:
    """Look for a process with our mark, and end it."""
    time.sleep(0.2)
    left = [pid for pid, name in _processes() if name == MARK]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(left)


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "comm").read_text(encoding="utf-8").strip()


def _loopback(scene: Scene) -> str:
    return f"import socket\nsocket.create_connection(('127.0.0.1', {scene.port}), 2)"


def _internet(scene: Scene) -> str:
    # to connect a datagram socket looks for a route and sends nothing; RFC 5737's TEST-NET-1
    return (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    )


def _read_file(scene: Scene) -> str:
    return f"assert open({str(scene.directory / 'secret')!r}).read() == {scene.secret!r}"


def _list_home(scene: Scene) -> str:
    return f"import os\nassert os.listdir({str(Path.home())!r})"


def _environment(scene: Scene) -> str:
    return f"""
import os, glob
held = [os.environb.get({scene.name!r}.encode(), b'')]
for path in glob.glob('/proc/[0-9]*/environ'):
    try:
        held.append(open(path, 'rb').read())
    except OSError:
        pass
assert any({scene.secret!r}.encode() in each for each in held)
"""


def _write_file(scene: Scene) -> str:
    return f"open({str(scene.directory / 'written')!r}, 'w').close()"


def _see(scene: Scene) -> str:
    return f"""
import os
try:
    os.kill({scene.process}, 0)
except PermissionError:
    assert os.path.exists('/proc/{scene.process}')
"""


def _kill(scene: Scene) -> str:
    return f"import os\nos.kill({scene.process}, 9)"


def _signal_parent(scene: Scene) -> str:
    return """
import os, signal
assert os.getppid()  # 0: the parent is out of sight, and kill would mean the own group
os.kill(os.getppid(), signal.SIGCONT)
"""


def _signal_all(scene: Scene) -> str:
    return "import os\nos.kill(-1, 0)"


def _memory(scene: Scene) -> str:
    return "held = bytearray(2 << 30)"


def _memory_files(scene: Scene) -> str:
    return """
import os
held = [os.memfd_create(str(n)) for n in range(40)]
for each in held:
    os.truncate(each, 64 << 20)
"""


def _disk(scene: Scene) -> str:
    return """
for n in range(8):
    with open(str(n), 'wb') as file:
        for _ in range(32):
            file.write(bytes(1 << 20))
"""


def _forks(scene: Scene) -> str:
    return """
import os, time
for _ in range(300):
    if not os.fork():
        time.sleep(1)
        os._exit(0)
"""


def _users(scene: Scene) -> str:
    return "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"


def _trace(scene: Scene) -> str:
    # PTRACE_SEIZE, which unlike PTRACE_ATTACH stops nothing
    return f"import ctypes\nassert ctypes.CDLL(None).ptrace(0x4206, {scene.process}, 0, 0) == 0"


def _daemon(scene: Scene) -> str:
    return f"""
import ctypes, os, time
if not os.fork():
    os.setsid()
    ctypes.CDLL(None).prctl(15, {MARK.encode()!r}, 0, 0, 0)  # PR_SET_NAME
    time.sleep(3)
    os._exit(0)
time.sleep(0.2)
os._exit(0)
"""


def _exit(scene: Scene) -> str:
    return "import os\nprint('passed', flush=True)\nos._exit(0)"


def _system_exit(scene: Scene) -> str:
    return "import sys\nsys.exit(0)"


def _print(scene: Scene) -> str:
    return "for _ in range(1 << 10):\n    print('x' * (1 << 20))"


def _loop(scene: Scene) -> str:
    return f"import time\nend = time.time() + {2 * LIMITS.wall_seconds}\nwhile time.time() < end: 0"


PROBES: Sequence[Probe] = (
    Probe("reach the machine's loopback", _loopback),
    Probe("reach the internet", _internet),
    Probe("read files of the machine", _read_file),
    Probe("list the home directory", _list_home),
    Probe("read secrets of the environment", _environment),
    Probe("write files of the machine", _write_file, _is_written),
    Probe("see processes of the machine", _see),
    Probe("trace a process of the machine", _trace),
    Probe("kill a process of the machine", _kill, _is_dead),
    Probe("signal the parent", _signal_parent),
    Probe("signal every process", _signal_all),
    Probe("take 2 GiB of memory", _memory),
    Probe("take 2.5 GiB as files in memory", _memory_files),
    Probe("fill 256 MiB of disk", _disk),
    Probe("make 300 processes", _forks),
    Probe("make a user namespace", _users),
    Probe("leave a process behind", _daemon, _outlives),
    Probe("pass by os._exit(0)", _exit),
    Probe("pass by sys.exit(0)", _system_exit),
    Probe("print 1 GiB", _print),
    Probe("loop without end", _loop),
)
