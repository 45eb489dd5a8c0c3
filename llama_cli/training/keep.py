"""Sequences from a stream, kept in RUN/data while training reads what has come so far.

A process of its own reads the stream, so that training waits neither for its end nor for its
JSON. It ends with the process that started it, which is the one that has stdin; the ranks
read RUN/data, and may come and go.

    llama mix … ─ JSON lines ─▶ keeper ─▶ RUN/data ─▶ every rank, and again after a restart

The same command brings the same stream again: it is compared with what is kept, and goes on
behind it. A stream that was cut off ends like any other, so its end counts only once training
has gone round it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO

import numpy as np

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.records import Sequence
from llama_cli.shards.formats import MANIFEST
from llama_cli.shards.grow import Differs, GrowingWriter, Growth, growth_for
from llama_cli.stream.reader import read_chunks, shown

FAILED, LOCK = "failed.json", ".lock"
FIRST = 64  # sequences that must be as they were before training goes on; ours
EVERY = 0.2  # seconds between two counts of what has come; ours
POLL = 0.02  # seconds between two looks at them; ours
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Stream:
    """What to keep of which input."""

    where: str  # of JSON lines of sequences
    directory: str
    vocab_size: int
    tokenizer_sha256: str | None
    used: int = 0  # sequences that training has gone through, counted in every round


def keep(stream: Stream) -> None:
    """Read the stream to its end.

    Raises:
        TooManyRejects: a line is no sequence, is not as long as the first, or names a token
            outside the vocabulary.
        LlamaError: there is no line, or the directory holds another stream.
    """
    sequences = _sequences(stream)
    first = next(sequences, None)
    if first is None:
        raise LlamaError(
            f"{shown(stream.where)} holds no sequence", hint="llama train --data mixed"
        )
    directory = Path(stream.directory)
    try:
        _write(directory, stream, first, sequences)
    except Differs as error:
        raise other_data(directory.parent, str(error)) from None


def other_data(run: Path, why: str = "") -> LlamaError:
    """Say that a run was begun with something else."""
    because = f": {why}" if why else ""
    return LlamaError(
        f"{run} holds a run with other data{because}", hint="llama train --run ANOTHER"
    )


def _lines(where: str) -> Iterator[tuple[int, bytes]]:
    for chunk in read_chunks(where, size=1):  # what is there, without waiting for more
        for number, line in enumerate(chunk.lines, chunk.line):
            if line and not line.isspace():
                yield number, line


def _sequences(stream: Stream) -> Iterator[Sequence]:
    width = 0
    for number, line in _lines(stream.where):
        try:
            sequence = Sequence.from_json(line)
            width = width or len(sequence.tokens)
            _check(sequence, width, stream.vocab_size)
        except ValueError as error:
            raise TooManyRejects(f"{shown(stream.where)}:{number}: {error}") from None
        yield sequence


def _check(sequence: Sequence, width: int, vocab_size: int) -> None:
    count = len(sequence.tokens)
    if count < 2:
        raise ValueError("a sequence has at least 2 tokens")
    if count != width:
        raise ValueError(f"{count} tokens, where the first has {width}")
    if (top := max(sequence.tokens)) >= vocab_size:
        raise ValueError(f"token {top} is outside the {vocab_size} known")


def _write(directory: Path, stream: Stream, first: Sequence, rest: Iterator[Sequence]) -> None:
    """Keep what is to be kept, and end the directory.

    Raises:
        Differs: it is not what was kept before.
    """
    width = len(first.tokens)
    writer = GrowingWriter(directory, growth_for(width, stream.vocab_size, stream.tokenizer_sha256))
    gone_round = 0 < writer.kept < stream.used
    try:
        with _counting(writer) as lock:
            for sequence in chain([first], rest):
                if gone_round and writer.count == writer.kept:
                    raise Differs(f"it goes on after {writer.kept:,} sequences")
                with lock:
                    writer.add(np.array(sequence.tokens, np.int64), "+".join(sequence.sources))
        writer.end()
    finally:
        writer.close()


@contextmanager
def _counting(writer: GrowingWriter) -> Iterator[Lock]:
    """Let readers see what has come, while whoever holds the lock adds to it."""
    lock, done = Lock(), Event()
    thread = Thread(target=_count, args=(writer, lock, done))
    thread.start()
    try:
        yield lock
    finally:
        done.set()
        thread.join()


def _count(writer: GrowingWriter, lock: Lock, done: Event) -> None:
    seen = 0
    while not done.wait(POLL if not seen else EVERY):
        with lock:
            if writer.count > seen:
                seen = writer.count
                writer.publish(checked=seen >= min(writer.kept, FIRST))


# -- the process --


def main(argument: str) -> None:
    """Keep the stream that the argument describes; say in a file how that failed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end, rather than take a cut for the end
    parent, description = json.loads(argument)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    stream = Stream(**description)
    try:
        keep(stream)
    except LlamaError as error:
        fail(Path(stream.directory), error)
    except OSError as error:
        fail(
            Path(stream.directory),
            LlamaError(f"{error.filename or stream.directory}: {error.strerror}"),
        )


def fail(directory: Path, error: LlamaError) -> None:
    """Let everyone who waits for the stream know that no more comes."""
    part = directory / f".{FAILED}.{os.getpid()}.part"
    told = {"message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    part.write_text(json.dumps(told) + "\n", encoding="utf-8")
    part.replace(directory / FAILED)


def failure(directory: Path) -> LlamaError | None:
    """Give the error for which no more comes, if there is one."""
    try:
        told = json.loads((directory / FAILED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    kind = TooManyRejects if told["exit_code"] == TooManyRejects.exit_code else LlamaError
    return kind(told["message"], hint=told["hint"])


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process, seen by the one that started it."""

    stream: Stream
    process: subprocess.Popen[bytes]

    @property
    def directory(self) -> Path:
        """Where it keeps the sequences."""
        return Path(self.stream.directory)

    def begun(self) -> None:
        """Wait for the first sequences, which are those that were kept, if any were.

        Raises:
            LlamaError: they are not, or there are none.
        """
        while not self._has_begun():
            if self.process.poll() is not None:
                self._ended()
                return
            time.sleep(POLL)

    def _has_begun(self) -> bool:
        growth = Growth.read(self.directory)
        return growth is not None and growth.checked

    def to_the_end(self) -> None:
        """Wait until everything is kept.

        Raises:
            LlamaError: it cannot be.
        """
        while not ((growth := Growth.read(self.directory)) and growth.ended):
            if self.process.poll() is not None:
                self._ended()
                return
            time.sleep(POLL)

    def _ended(self) -> None:
        if error := failure(self.directory):
            raise error
        if not self._has_begun():
            raise stopped(self.directory)


@contextmanager
def keeping(stream: Stream) -> Iterator[Keeper]:
    """Start the process, and end it at the end.

    Raises:
        LlamaError: the directory holds something else; or, at the end, the stream went wrong
            after all that was needed had come.
    """
    directory = Path(stream.directory)
    with _locked(directory) as lock:
        (directory / FAILED).unlink(missing_ok=True)
        _begin_anew(directory)
        module = "from llama_cli.training.keep import main; import sys; main(sys.argv[1])"
        argument = json.dumps([os.getpid(), asdict(stream)])
        process = subprocess.Popen([sys.executable, "-c", module, argument], pass_fds=[lock])
    try:
        yield Keeper(stream, process)
        if error := failure(directory):
            raise error
    finally:
        process.kill()
        process.wait()


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the lock of whoever writes; a process that inherits it keeps it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one that was killed lets go of it at once
        yield file.fileno()


def _begin_anew(directory: Path) -> None:
    growth = Growth.read(directory)
    if growth:
        replace(growth, ended=False, checked=False).write(directory)
    elif (directory / MANIFEST).exists():
        raise other_data(directory.parent)


def stopped(directory: Path) -> LlamaError:
    """Say that the stream ended without an end."""
    return LlamaError(f"the stream into {directory} has stopped", hint="the same command again")


def is_kept(directory: Path) -> bool:
    """Tell whether a process is there that may still bring more."""
    with (directory / LOCK).open("w") as file, suppress(OSError):
        return not _free(file)
    return True


def _free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
