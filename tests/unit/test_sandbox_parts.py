"""The parts of a sandbox, each alone: what is asked of the kernel, and how a process is watched.

What runs in a sandbox runs out of sight of coverage; here the kernel is a list of what it was
asked for, and test_sandbox.py sees that the real one does it.
"""

import errno
import marshal
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from llama_cli.errors import LlamaError
from llama_cli.evaluation.sandbox import candidate, kernel, namespaces, spawn, view, zygote
from llama_cli.evaluation.sandbox.channel import receive, send
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.result import judge
from llama_cli.evaluation.sandbox.watch import Ended, watch

LIMITS = Limits(output=1000)


class Over(BaseException):
    """Stands for the end of a process."""


# the program's own process


@pytest.fixture
def process(monkeypatch):
    """Let a program believe that this process is given up to it; return its report's other end."""
    end, report = os.pipe()
    for name in ("modules", "path", "argv"):
        value = getattr(sys, name)
        monkeypatch.setattr(sys, name, dict(value) if isinstance(value, dict) else list(value))

    def leave(code):
        raise Over(code)

    monkeypatch.setattr(os, "_exit", leave)
    yield end, report
    os.close(end)
    os.close(report)


def told(process, program):
    end, report = process
    with pytest.raises(Over, match="0"):
        candidate.run(program, token="token", report=report, path=["/lib"])
    return os.read(end, 1000).decode()


def test_the_token_is_reported_after_the_last_line(process):
    assert told(process, "x = 1") == "token"


def test_an_error_is_reported_as_the_last_line_of_its_traceback(process):
    assert told(process, "assert 0, 'a'\n") == "!AssertionError: a"
    assert told(process, "assert 0\n") == "!AssertionError"


def test_a_long_error_is_cut(process):
    assert len(told(process, "raise Exception('a' * 1000)")) == candidate.LONGEST


def test_an_error_that_cannot_be_shown_has_a_name(process):
    program = "class E(Exception):\n    def __str__(self): raise self\nraise E"
    assert told(process, program) == "!E: …"


def test_a_program_sees_no_module_of_ours(process):
    assert told(process, "import sys\nassert 'llama_cli.errors' not in sys.modules") == "token"
    assert sys.path == ["/lib"]


def test_limits_only_go_down(monkeypatch):
    held = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: held.update({kind: pair}))
    hard = {1: (5, 10), 2: (resource.RLIM_INFINITY,) * 2}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: hard[kind])
    candidate.hold([(1, 20, 20), (2, 20, 30)])
    assert held == {1: (10, 10), 2: (20, 30)}


def test_a_fresh_python_reads_its_program_from_stdin(process, monkeypatch, tmp_path):
    end, report = process
    job = ("assert open(0, closefd=False).read() == ''", "token", [], ["/lib"])
    (tmp_path / "job").write_bytes(marshal.dumps(job))
    stdin = os.dup(0)
    try:
        with open(tmp_path / "job", "rb") as file:
            os.dup2(file.fileno(), 0)
        with pytest.raises(Over):
            candidate.main(report)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
    assert os.read(end, 100) == b"+token"


# its end


def watched(program, *, limits=LIMITS, stop=-1):
    output, output_end = os.pipe()
    report, report_end = os.pipe()
    command = [sys.executable, "-c", f"report = {report_end}\n{program}"]
    process = subprocess.Popen(
        command, stdout=output_end, pass_fds=[report_end], start_new_session=True
    )
    os.close(output_end)
    os.close(report_end)
    ended = watch(process.pid, output=output, report=report, limits=limits, group=True, stop=stop)
    process.returncode = ended.code
    os.close(output)
    os.close(report)
    return ended


def test_what_a_process_reports_and_prints_is_known_when_it_has_ended():
    ended = watched("import os, sys\nos.write(report, b'a')\nprint('words')\nsys.exit(3)")
    assert (ended.report, ended.words, ended.stopped, ended.code) == ("a", "words\n", "", 3)
    assert ended.cpu_seconds > 0


def test_a_process_that_closes_its_output_is_still_waited_for():
    ended = watched("import os, time\nos.close(1)\ntime.sleep(0.2)\nos.write(report, b'a')")
    assert (ended.report, ended.code) == ("a", 0)


def test_output_up_to_the_limit_is_allowed_and_a_byte_more_is_not():
    assert watched("print('x' * 999)").stopped == ""
    assert watched("import time\nprint('x' * 1000, flush=True)\ntime.sleep(60)").stopped == "output"


def test_the_clock_ends_a_process():
    ended = watched("import time\ntime.sleep(60)", limits=Limits(wall_seconds=0.3))
    assert (ended.stopped, ended.code) == ("wall", -signal.SIGKILL)


def test_a_process_ends_when_the_one_that_asked_for_it_has_gone():
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        assert watched("import time\ntime.sleep(60)", stop=ours.fileno()).stopped == "parent"


def test_a_report_that_a_child_still_holds_is_not_waited_for():
    ended = watched("import os, time\nif not os.fork():\n    os.setsid(); time.sleep(3)")
    assert (ended.report, ended.code) == ("", 0)
    assert ended.seconds < 3


# what became of it


def judged(report, *, stopped="", code=0, cpu=0.0):
    ended = Ended(report, "a\nb", stopped, code, 1.0, cpu)
    result = judge(ended, token="token", limits=LIMITS, tier="t")
    return result.outcome, result.detail


@pytest.mark.parametrize(
    ("ended", "result"),
    [
        ({"report": "+token"}, ("passed", "")),
        ({"report": "+token", "code": -9, "stopped": "wall"}, ("passed", "")),
        ({"report": "+toke"}, ("failed", "ended with 0 before its tests did")),
        ({"report": "+tokens"}, ("failed", "ended with 0 before its tests did")),
        ({"report": "+"}, ("failed", "ended with 0 before its tests did")),
        ({"report": "+!KeyError: 1"}, ("failed", "KeyError: 1")),
        ({"report": "+!MemoryError"}, ("memory", "MemoryError")),
        (
            {"report": "+", "code": -9, "stopped": "output"},
            ("output", "more than 1,000 bytes of output"),
        ),
        ({"report": "", "code": -9, "stopped": "wall"}, ("timeout", "more than 30 seconds")),
        ({"report": "+", "code": -9, "cpu": 4.9}, ("timeout", "more than 5 CPU seconds")),
        ({"report": "+", "code": 137, "cpu": 5.1}, ("timeout", "more than 5 CPU seconds")),
        (
            {"report": "+", "code": -signal.SIGXCPU, "cpu": 5},
            ("timeout", "more than 5 CPU seconds"),
        ),
        ({"report": "+", "code": -9, "cpu": 0.1}, ("killed", "signal 9")),
        ({"report": "+", "code": 139}, ("killed", "signal 11")),
        ({"report": "+", "code": -9, "stopped": "lost"}, ("killed", "lost")),
    ],
)
def test_only_the_token_is_a_pass(ended, result):
    assert judged(**ended) == result


def test_a_process_that_never_began_is_an_error_and_no_failure():
    with pytest.raises(LlamaError, match="the t sandbox could not be made: a b"):
        judged("token")


# namespaces


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Record what the kernel is asked for, and build the new root in a directory of the test."""
    calls = []
    for name in ("unshare", "prctl", "filter_calls", "set_namespace"):
        monkeypatch.setattr(kernel, name, lambda *a, name=name: calls.append((name, *a)))
    for name in ("drop_capabilities", "pivot_here"):
        monkeypatch.setattr(kernel, name, lambda name=name: calls.append((name,)))
    monkeypatch.setattr(kernel, "mount", lambda *a: calls.append(("mount", *a)))
    monkeypatch.setattr(namespaces, "hold", lambda limits: calls.append(("hold", limits)))
    monkeypatch.setattr(namespaces, "_COVER", str(tmp_path / "root"))
    monkeypatch.setattr(os, "setgroups", lambda groups: calls.append(("setgroups", groups)))
    monkeypatch.setattr(os, "setresgid", lambda *ids: calls.append(("setresgid", *ids)))
    monkeypatch.setattr(os, "setresuid", lambda *ids: calls.append(("setresuid", *ids)))
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def proc(monkeypatch, tmp_path):
    """A /proc/self to write to, in which one mount lies below the new root."""
    directory = tmp_path / "self"
    directory.mkdir()
    for name in ("setgroups", "uid_map", "gid_map"):
        (directory / name).touch()
    inside = tmp_path / "root" / "a b"
    inside.mkdir(parents=True)
    point = str(inside).replace(" ", r"\040")
    (directory / "mountinfo").write_text(
        f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:1 / {point} rw - ext4 x rw\n"
    )
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: real(directory if path == "/proc/self" else path, *a, **k)
    )
    return directory


def test_root_builds_the_view_before_it_becomes_nobody(asked, proc, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "python").touch()
    namespaces.enter([str(tmp_path / "lib")])
    names = [name for name, *_ in asked]
    assert names.index("pivot_here") < names.index("setresuid")
    users = [("unshare", kernel.NEW_MOUNTS), ("unshare", kernel.NEW_USER)]
    assert [each for each in asked if each in users] == users
    assert ("setresuid", 65534, 65534, 65534) in asked
    assert (proc / "setgroups").read_text() == "deny"
    assert (proc / "uid_map").read_text() == f"{os.geteuid()} {os.geteuid()} 1"
    parts = kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS
    assert asked[-1] == ("unshare", parts)


def test_an_ordinary_user_makes_its_user_namespace_first(asked, proc, monkeypatch):
    def unshare(kinds):
        asked.append(("unshare", kinds))
        if len(asked) == 1:
            raise PermissionError(errno.EPERM, "unshare")

    monkeypatch.setattr(kernel, "unshare", unshare)
    namespaces.enter([])
    kinds = [call[1] for call in asked if call[0] == "unshare"]
    assert kinds[:3] == [kernel.NEW_MOUNTS, kernel.NEW_USER, kernel.NEW_MOUNTS]
    assert "setresuid" not in {name for name, *_ in asked}


def test_the_new_root_holds_what_was_asked_for_where_it_was_and_read_only(asked, proc, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "file").touch()
    process = os.open(proc, os.O_PATH)
    namespaces.build_root([str(tmp_path / "lib"), str(tmp_path / "file")], process)
    os.close(process)
    root = tmp_path / "root"
    assert (root / str(tmp_path)[1:] / "lib").is_dir()
    assert (root / str(tmp_path)[1:] / "file").is_file()
    assert (root / str(tmp_path)[1:]).stat().st_mode & 0o777 == 0o111
    read_only = [call[2] for call in asked if call[0] == "mount" and call[4] & kernel.READ_ONLY]
    assert read_only == [str(root / "a b"), "/"]
    last = [call[0] for call in asked][-2:]
    assert last == ["pivot_here", "mount"]


def test_a_remount_keeps_what_a_user_may_not_take_away(monkeypatch):
    class Status:
        f_flag = os.ST_NOEXEC | os.ST_RELATIME

    monkeypatch.setattr(os, "statvfs", lambda path: Status)
    always = kernel.NO_SUID | kernel.NO_DEV
    assert namespaces._kept("/x") == always | kernel.NO_EXEC | kernel.REL_ATIME


def test_a_program_is_limited_and_filtered_after_its_mounts_are_made(asked, monkeypatch):
    monkeypatch.setattr(os, "chdir", lambda path: asked.append(("chdir", path)))
    namespaces.isolate(LIMITS, b"code")
    assert [name for name, *_ in asked] == [
        "unshare",
        "mount",
        "chdir",
        "hold",
        "prctl",
        "drop_capabilities",
        "filter_calls",
    ]
    assert asked[1][2:] == (
        "/tmp",
        "tmpfs",
        kernel.NO_SUID | kernel.NO_DEV,
        f"mode=1777,size={LIMITS.disk},nr_inodes=1024",
    )


def test_a_call_that_the_kernel_refuses_says_which():
    with pytest.raises(OSError, match=r"^\[Errno 2\] mount: No such file") as error:
        kernel.mount(None, "/nowhere", None, kernel.PRIVATE)
    assert error.value.filename == "/nowhere"
    for call in (
        lambda: kernel.unshare(1),
        lambda: kernel.set_namespace(-1, 0),
        lambda: kernel.filter_calls(b""),
    ):
        with pytest.raises(OSError, match=r"unshare|setns|prctl"):
            call()


def test_capabilities_and_the_old_root_are_let_go_by_calls_of_the_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(kernel, "_call", lambda name, *a, **k: calls.append(name))
    monkeypatch.setattr(os, "chdir", calls.append)
    kernel.drop_capabilities()
    kernel.pivot_here()
    assert calls == ["capset", "pivot_root", "umount2", "/"]


# the process that forks


@pytest.fixture
def forking(asked, monkeypatch):
    """Let this process fork programs that are not confined; return both ends of its channel."""
    monkeypatch.setattr(zygote, "build", lambda *, execute: [])
    monkeypatch.setattr(namespaces, "enter", lambda paths: asked.append(("enter", len(paths))))
    monkeypatch.setattr(zygote.gc, "freeze", lambda: None)
    ours, theirs = socket.socketpair()
    leave, parent = os._exit, os.getpid()

    def over(code):
        if os.getpid() == parent:
            raise Over(code)
        leave(code)

    monkeypatch.setattr(os, "_exit", over)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_each_program_is_forked_into_a_namespace_of_processes_of_its_own(
    forking, asked, monkeypatch
):
    ours, theirs = forking
    monkeypatch.setattr(namespaces, "isolate", lambda limits, calls: None)
    send(ours, (f"import os\nassert os.getppid() == {os.getpid()}", "t", astuple(Limits())))
    send(ours, ("1 / 0", "t", astuple(Limits())))
    ours.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(zygote, "watch", _without_stop(zygote.watch))
    with pytest.raises(Over, match="0"):
        zygote.serve(theirs, b"", view.standard_library())
    assert receive(ours)[0] == "+t"
    assert receive(ours)[0] == "+!ZeroDivisionError: division by zero"
    names = [name for name, *_ in asked]
    assert names == ["unshare", "set_namespace"] * 2


def _without_stop(real):
    # the test has said all at once, so the channel can be read while a program runs
    return lambda *a, stop, **k: real(*a, **k)


def test_a_program_that_cannot_be_confined_does_not_run(forking, monkeypatch):
    theirs = forking[1]

    def isolate(limits, calls):
        raise OSError(errno.EPERM, "mount: no")

    monkeypatch.setattr(namespaces, "isolate", isolate)
    here = os.pidfd_open(os.getpid())
    ended = zygote._run("pass", "t", Limits(), b"", [], here, theirs.fileno())
    os.close(here)
    assert (ended.report, ended.words, ended.code) == ("", "[Errno 1] mount: no", 1)


def test_what_forbids_namespaces_is_said(forking, monkeypatch):
    ours, theirs = forking

    def enter(paths):
        raise OSError(errno.ENOSPC, "unshare: no space")

    monkeypatch.setattr(namespaces, "enter", enter)
    with pytest.raises(Over, match="1"):
        zygote.main(theirs.detach())
    assert receive(ours) == "unshare: no space"


def test_the_first_process_waits_and_the_second_serves(forking, asked, monkeypatch):
    ours, theirs = forking
    monkeypatch.setattr(os, "waitpid", lambda pid, options: asked.append(("wait", pid)))
    monkeypatch.setattr(os, "fork", lambda: 7)
    with pytest.raises(Over, match="0"):
        zygote.main(os.dup(theirs.fileno()))
    assert asked[-1] == ("wait", 7)
    monkeypatch.setattr(os, "fork", lambda: 0)
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(Over, match="0"):
        zygote.main(theirs.detach())
    assert receive(ours) == ""
    assert ("prctl", kernel.PARENT_DEATH, signal.SIGKILL) in asked


def test_a_message_that_ends_early_is_an_error():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"\0\0\0")
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs)


# what is seen


def test_python_and_its_library_are_seen_and_home_is_not():
    files = view.python_files()
    assert any(os.__file__.startswith(f"{path}/") for path in files)
    assert any(f"{view.interpreter()}/".startswith(f"{path}/") for path in files)
    assert not any(path in ("/", "/usr", "/etc", "/root", str(Path.home())) for path in files)


def test_of_a_python_that_shares_usr_only_its_own_part_is_seen(monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert "/usr/lib" not in set(view._wanted())
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    assert "/opt/python/lib" in set(view._wanted())


def test_bubblewrap_is_given_a_view_without_writing_and_a_filter():
    command = spawn.bubblewrap(["python"], 9, LIMITS)
    assert command[command.index("--seccomp") + 1] == "9"
    assert command[-2:] == ["--", "python"]
    assert command.count("--ro-bind") == len(view.python_files())
    assert "--bind" not in command
    assert "--proc" not in command
