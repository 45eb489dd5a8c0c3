"""One command's streams: records in, work spread over processes, records out, and the count.

    Run(...) as run:  run.write(run.map(Document.from_json, step))

A bad line is named by file and line and counted, and the rest goes on. A Rejected record is
counted by its reason and kept where `--rejects` says. At the end one line on stderr tells
what went in and out and what it took, and `--report` holds the same as JSON: `result` is
comparable between runs, `run` is not.
"""

from __future__ import annotations

import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import orjson

from llama_cli import __version__
from llama_cli.engines import local
from llama_cli.errors import TooManyRejects
from llama_cli.records import Rejected
from llama_cli.stream.progress import Progress
from llama_cli.stream.reader import CHUNK, Chunk, read_chunks, shown
from llama_cli.stream.writer import Output, open_output

T = TypeVar("T")
R = TypeVar("R")

ITEMS = 32  # items of `spread` handed to a worker at a time; ours
NAMED = 20  # malformed lines named one by one before only the count goes on; ours


class Record(Protocol):
    """What can be written: one JSON object."""

    def to_json(self) -> bytes:
        """Write one line, without its end."""


Good = TypeVar("Good", bound=Record)


class Instead(ValueError):
    """Why a line is no record, and what goes on in its place; the line counts as malformed."""

    def __init__(self, message: str, instead: Any) -> None:
        super().__init__(message)
        self.instead = instead


@dataclass(frozen=True, slots=True)
class _Malformed:
    where: str
    line: int
    message: str
    instead: Any = None


@dataclass(slots=True)
class Counts:
    """What a run saw: records in and out, lines that were no records, rejections by reason."""

    read: int = 0
    written: int = 0
    malformed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line said about streams."""

    command: str
    inputs: Sequence[str] = ("-",)
    output: Path | None = None
    rejects: Path | None = None
    report: Path | None = None
    max_rejects: int | None = None
    jobs: int = 1
    seed: int = 0
    line_buffered: bool = False
    quiet: bool = False
    verbose: bool = False
    config: dict[str, Any] = field(default_factory=dict)


class Run:
    """The streams of one command; a context manager that ends them all, well or not at all."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.inputs = settings.inputs
        self.output = settings.output
        self.jobs = settings.jobs
        self.seed = settings.seed
        self.quiet = settings.quiet
        self.verbose = settings.verbose
        self.counts = Counts()
        self._facts: dict[str, Any] = {}
        self._progress = Progress(settings.command, quiet=settings.quiet)
        self._stack = ExitStack()
        self._rejects: Output | None = None
        self._report: Output | None = None
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def __enter__(self) -> Run:
        with ExitStack() as opened:  # now, so that a wrong name is told before the work
            if self.settings.report:
                self._report = opened.enter_context(open_output(self.settings.report))
            opened.push(self._end)
            if self.settings.rejects:
                self._rejects = opened.enter_context(open_output(self.settings.rejects))
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.clear()
        self._stack.__exit__(kind, error, trace)

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()

    # -- records in --

    def read(self, parse: Callable[[bytes], T]) -> Iterator[T]:
        """Yield the records of the inputs, parsed in this process."""
        return self._good(map(partial(_parse_chunk, parse, _same), self._chunks()))

    def map(
        self,
        parse: Callable[[bytes], T],
        function: Callable[[T], R],
        inputs: Sequence[str] | None = None,
    ) -> Iterator[R]:
        """Yield `function(record)` for each record, in order; both run in `jobs` processes."""
        work = partial(_parse_chunk, parse, function)
        return self._good(local.spread(work, self._chunks(inputs), jobs=self.jobs))

    def spread(self, items: Iterable[T], function: Callable[[T], R]) -> Iterator[R]:
        """Yield `function(item)` for items that are no stream of lines, in order."""
        batches = _batched(items, ITEMS)
        for batch in local.spread(partial(_each, function), batches, jobs=self.jobs):
            for result in batch:
                self.counts.read += 1
                yield result
            self._progress.tick(self._state)

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Pass on records that come from elsewhere than the inputs; count and show them."""
        for item in items:
            self.counts.read += 1
            self._progress.tick(self._state)
            yield item

    def _chunks(self, inputs: Sequence[str] | None = None) -> Iterator[Chunk]:
        size = 1 if self.settings.line_buffered else CHUNK  # whatever has come, or a full chunk
        for where in self.inputs if inputs is None else inputs:
            yield from read_chunks(where, size)

    def _good(self, batches: Iterable[list[R | _Malformed]]) -> Iterator[R]:
        for batch in batches:
            for item in batch:
                if isinstance(item, _Malformed):
                    self.malformed(item.where, item.line, item.message)
                    if item.instead is not None:
                        yield item.instead
                else:
                    self.counts.read += 1
                    yield item
            self._progress.tick(self._state)

    def malformed(self, where: str, line: int, message: str) -> None:
        """Count a line that is no record, name it, and stop past `--max-rejects`."""
        self.counts.malformed += 1
        if self.counts.malformed <= NAMED or self.verbose:
            self.say(f"{shown(where)}:{line}: {message}")
        allowed = self.settings.max_rejects
        if allowed is not None and self.counts.malformed > allowed:
            raise TooManyRejects(
                f"{_lines(self.counts.malformed)}, more than the {allowed} allowed",
                hint="a larger --max-rejects, or mend the lines named above",
            )

    # -- records out --

    def count(self, items: Iterable[R | Rejected]) -> Iterator[R]:
        """Pass the good ones on; count the Rejected by reason and keep them where asked."""
        for item in items:
            if isinstance(item, Rejected):
                self.counts.rejected[f"{item.step}.{item.reason}"] += 1
                if self._rejects:
                    self._rejects.write(item.to_json() + b"\n")
            else:
                self.counts.written += 1
                yield item

    def write(self, items: Iterable[Good | Rejected]) -> None:
        """Write every good record to stdout or `-o`."""
        with open_output(self.output, line_buffered=self.settings.line_buffered) as output:
            for item in self.count(items):
                output.write(item.to_json() + b"\n")

    # -- words --

    def say(self, message: str) -> None:
        """Print one line on stderr, unless quiet."""
        self._progress.say(message)

    def note(self, **facts: Any) -> None:
        """Add to the `result` of the report."""
        self._facts.update(facts)

    def _state(self) -> str:
        counts, seconds = self.counts, time.monotonic() - self._clock
        return (
            f"{counts.read:,} in, {counts.written:,} out, {counts.rejected.total():,} rejected, "
            f"{counts.read / max(seconds, 1e-9):,.0f}/s"
        )

    def _finish(self) -> None:
        counts = self.counts
        if counts.malformed > NAMED and not self.verbose:
            self.say(f"{_lines(counts.malformed)} in all (-v names each)")
        for reason, number in counts.rejected.most_common():
            self.say(f"rejected {number:,} {reason}")
        spent = self._spent()
        self.say(
            f"{__version__}, {counts.read:,} in, {counts.written:,} out, "
            f"{counts.rejected.total():,} rejected, {counts.malformed:,} malformed, "
            f"{spent['seconds']:.1f} s, {spent['cpu_seconds']:.1f} s CPU, "
            f"{spent['peak_rss'] / 1e6:.0f} MB peak"
        )
        if self._report:
            report = orjson.dumps(_text(self._as_report(spent)), option=orjson.OPT_INDENT_2)
            self._report.write(report + b"\n")

    def _as_report(self, spent: dict[str, float]) -> dict[str, Any]:
        counts = self.counts
        result = {
            "in": counts.read,
            "out": counts.written,
            "malformed": counts.malformed,
            "rejected": dict(sorted(counts.rejected.items())),
        }
        return {
            "schema": 1,
            "command": self.settings.command,
            "version": __version__,
            "config": self.settings.config,
            "result": {**result, **self._facts},
            "run": {**spent, "host": socket.gethostname(), "started": self._started.isoformat()},
        }

    def _spent(self) -> dict[str, float]:
        own, workers = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return {
            "seconds": time.monotonic() - self._clock,
            "cpu_seconds": own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime,
            "peak_rss": max(own.ru_maxrss, workers.ru_maxrss) * 1024,  # the largest process, bytes
        }


def _text(value: Any) -> Any:
    """Replace what JSON cannot hold in a name: bytes that were no UTF-8 on the command line."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {name: _text(each) for name, each in value.items()}
    return [_text(each) for each in value] if isinstance(value, (list, tuple)) else value


def _lines(number: int) -> str:
    return f"{number:,} malformed line{'s' if number != 1 else ''}"


def _parse_chunk(
    parse: Callable[[bytes], T], function: Callable[[T], R], chunk: Chunk
) -> list[R | _Malformed]:
    done: list[R | _Malformed] = []
    for number, line in enumerate(chunk.lines, chunk.line):
        if not line or line.isspace():
            continue
        try:
            record = parse(line)
        except Instead as error:
            instead = function(error.instead)
            done.append(_Malformed(chunk.where, number, str(error), instead))
        except ValueError as error:
            done.append(_Malformed(chunk.where, number, str(error)))
        else:
            done.append(function(record))
    return done


def _same(record: T) -> T:
    return record


def _each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    return [function(item) for item in items]


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
