"""The processes of one machine: started, watched, and started again, as torchrun's agent does.

One process a GPU, told who it is as torchrun tells it. Machines meet as torchrun's do (meeting.py).
The rest is ours, so that a run of many processes ends as one of a single process does: what is
sent to this process, the launcher, goes to all of them, and how they end decides.

    0             all: done
    LOST, killed  a process has gone, or one that it works with: all are started again, and go on
                  from the last checkpoint, with the machines that are left
    another code  the run has ended as that process did, which has said why

Where the launcher is killed, so are its processes.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from signal import Signals
from types import FrameType

from llama_cli.errors import LAUNCHER, LOST, Elsewhere, Interrupted, LlamaError
from llama_cli.training.meeting import Meeting, World
from llama_cli.training.place import Place
from llama_cli.training.stop import TWICE, nothing_saved, raise_as_usual

STOPPED = Interrupted.exit_code
PASSED_ON = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGUSR1, Signals.SIGHUP)
LOOK = 0.05  # seconds between two looks at the processes; ours
ASK = 2.0  # seconds between two questions whether another machine waits; ours
PATIENCE = 10.0  # seconds that the others have to end by themselves after one has; ours
SAVING = 900.0  # the same, while they save a checkpoint; ours
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run in each process, where, and who hears of it."""

    command: Sequence[str]
    processes: int  # on this machine
    place: Place
    restarts: int  # in a row, without a new checkpoint
    progress: Callable[[], object]  # changes with every checkpoint
    say: Callable[[str], None]


def launch(job: Launch) -> None:
    """Run until the run has ended.

    Raises:
        Elsewhere: a process ended the run, and has said why.
        LlamaError: processes were lost too often, or the machines did not meet.
        KeyboardInterrupt: Ctrl-C came, and the processes have ended.
        Interrupted: they were to end before there was anything to save.
    """
    _prepare()
    with _passing_on() as asked:
        meeting = Meeting(job.place, job.say)
        code = _until_the_end(job, meeting, asked)
        meeting.leave(code)
    if code == -Signals.SIGINT:
        raise KeyboardInterrupt
    if code < 0 and asked.impatient:
        raise_as_usual(Signals(-code))  # the second has its usual effect
    if code < 0:
        raise nothing_saved()
    if code:
        raise Elsewhere("said by a process", exit_code=code)


def verdict(codes: Sequence[int | None], asked: Signals | None = None) -> int | None:
    """Say how the run ended, from the codes of all processes; None if it is to go on.

    >>> verdict([0, 0]), verdict([LOST, 1]), verdict([75, 75]), verdict([LOST, -9])
    (0, 1, 75, None)
    >>> verdict([-2, -2]), verdict([-15, LOST], Signals.SIGTERM), verdict([-15, LOST])
    (-2, -15, None)
    """
    said = [code for code in codes if code and code > 0 and code != LOST]
    if said:
        return next((code for code in said if code != STOPPED), STOPPED)
    if not any(codes):
        return 0
    if asked:
        return -asked
    return -Signals.SIGINT if -Signals.SIGINT in codes else None


def follow_launcher() -> None:
    """Let this process be killed when its launcher is; Linux does it."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it went before it was followed
        os._exit(LOST)


def _prepare() -> None:
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # it would be at `local_addr`
    logging.disable(logging.CRITICAL)  # of torch's rendezvous, in this process alone


def _until_the_end(job: Launch, meeting: Meeting, asked: _Asked) -> int:
    losses = _Losses(job)
    for start in count():
        world = meeting.join(job.processes)
        if world.node == 0:
            job.say(world.words)
        with _running(job, world, start) as workers, asked.passed_on_to(workers):
            watch = _Watch(workers, meeting, asked)
            watch.to_the_end()
        code = verdict(workers.codes, asked.first)
        if code is None:
            code = meeting.ended()
        if watch.grows and code == STOPPED and not asked.first:
            job.say("another machine has come")
        elif code is not None:
            return code
        else:
            losses.add(watch.why or _what_went(watch.first, world))
    raise AssertionError("count() has no end")


class _Watch:
    """One round of the processes.

    Once one has ended badly, the others have some time to end by themselves, and are then killed.
    """

    def __init__(self, workers: _Workers, meeting: Meeting, asked: _Asked) -> None:
        self.workers, self.meeting, self.asked = workers, meeting, asked
        self.first: list[int | None] = []  # how they were when one first ended badly
        self.why = ""  # they were killed, if they were while all was well
        self.grows = False  # they were to end for another machine to take part
        self._end, self._ask = math.inf, time.monotonic() + ASK

    def to_the_end(self) -> None:
        """Wait until every process has ended.

        Raises:
            LlamaError: the machine where all meet is silent.
        """
        while None in self.workers.codes:
            time.sleep(LOOK)
            self._look(time.monotonic())
        self.first = self.first or self.workers.codes

    def _look(self, now: float) -> None:
        codes = self.workers.codes
        if any(codes) and not self.first:
            self.first = codes
            # one that was lost, even to a signal that the others heard, can save nothing with them
            self._end = now + (SAVING if STOPPED in codes else PATIENCE)
        if self.asked.impatient:
            self._end = min(self._end, now + PATIENCE)
        if now > self._ask:
            self._ask = now + ASK
            self._look_around(now)
        if now > self._end:
            self.first = self.first or codes
            self.workers.send(Signals.SIGKILL)

    def _look_around(self, now: float) -> None:
        if silent := self.meeting.silent():
            self.why, self._end = silent, now  # who waits for it waits for long
        elif not self.grows and not self.asked.first and self.meeting.somebody_waits():
            self.grows, self._end = True, now + SAVING
            self.workers.send(Signals.SIGTERM)


class _Losses:
    """How often in a row processes went, without a checkpoint in between."""

    def __init__(self, job: Launch) -> None:
        self.job, self.count, self.mark = job, 0, job.progress()

    def add(self, what: str) -> None:
        """Count one.

        Raises:
            LlamaError: that were too many.
        """
        mark = self.job.progress()
        self.count = self.count + 1 if mark == self.mark else 1
        self.mark = mark
        if self.count > self.job.restarts:
            since = f", after {self.job.restarts} restarts without a checkpoint"
            raise LlamaError(
                f"{what}{since if self.job.restarts else ''}",
                hint="the same command again; with -v each process says what it saw",
            )
        self.job.say(f"{what}; going on from the last checkpoint")


def _what_went(codes: Sequence[int | None], world: World) -> str:
    """Name the first process that was killed, or say that none of this machine's was.

    >>> _what_went([LOST, -9], World(1, 2, 2, 4, "", 0))
    'process 3 was ended by SIGKILL'
    """
    for number, code in enumerate(codes, world.first):
        if code is not None and code < 0:
            return f"process {number} was ended by {Signals(-code).name}"
    return "a process failed" if world.nodes == 1 else "a process of another machine has gone"


class _Workers:
    """The processes of one round."""

    def __init__(self, job: Launch, world: World, start: int) -> None:
        self._all = [
            subprocess.Popen(
                job.command,
                env=_environment(job, world, local, start),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches them through the launcher alone
            )
            for local in range(job.processes)
        ]

    @property
    def codes(self) -> list[int | None]:
        """Give how each has ended, None for one that has not."""
        return [process.poll() for process in self._all]

    def send(self, number: Signals) -> None:
        """Send a signal to those that have not ended."""
        for process in self._all:
            process.send_signal(number)


@contextmanager
def _running(job: Launch, world: World, start: int) -> Iterator[_Workers]:
    """Start the processes; whatever happens, none outlives the context."""
    workers = _Workers(job, world, start)
    try:
        yield workers
    finally:
        workers.send(Signals.SIGKILL)


def _environment(job: Launch, world: World, local: int, start: int) -> dict[str, str]:
    """Tell a process who it is, as torchrun does."""
    told = {
        "RANK": world.first + local,
        "WORLD_SIZE": world.size,
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": job.processes,
        "GROUP_RANK": world.node,
        "GROUP_WORLD_SIZE": world.nodes,
        "MASTER_ADDR": world.address,
        "MASTER_PORT": world.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the launcher's; no rank makes one
        "TORCHELASTIC_RESTART_COUNT": start,
        LAUNCHER: os.getpid(),
    }
    threads = max(1, len(os.sched_getaffinity(0)) // job.processes)
    shared = {"OMP_NUM_THREADS": str(threads)} if job.processes > 1 else {}
    shared |= {"GLOO_SOCKET_IFNAME": world.interface} if world.interface else {}
    return {**shared, **os.environ, **{name: str(value) for name, value in told.items()}}


class _Asked:
    """The signals that this process got, and the processes to which they go."""

    def __init__(self) -> None:
        self.first: Signals | None = None
        self.impatient = False  # the same has come again, and not by two ways at once
        self._since = 0.0
        self._workers: _Workers | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on; without anybody to get it, end.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            Interrupted: for the others.
        """
        got = Signals.SIGTERM if number == Signals.SIGHUP else Signals(number)
        now = time.monotonic()
        self.impatient = got is self.first and now - self._since > TWICE
        self.first, self._since = self.first or got, now
        if self._workers:
            self._workers.send(got)
        elif got is Signals.SIGINT:
            raise KeyboardInterrupt
        else:
            raise nothing_saved()

    @contextmanager
    def passed_on_to(self, workers: _Workers) -> Iterator[None]:
        """Send to `workers` what comes while the context lasts."""
        self._workers = workers
        try:
            yield
        finally:
            self._workers = None


@contextmanager
def _passing_on() -> Iterator[_Asked]:
    """Hear signals, but for those that whoever started this process wants ignored."""
    asked = _Asked()
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, asked.note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
