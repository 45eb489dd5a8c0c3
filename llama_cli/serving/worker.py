"""The thread that owns the model: rows of all requests in one batch, step by step.

Other threads hand it jobs, and take them back; it tells what came of them after each step, by
a function that runs things on the event loop. Only it touches a row once that is handed in.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llama_cli.inference.batch import Batch
from llama_cli.inference.engine import Engine
from llama_cli.inference.rows import Row, completion, first_told, text
from llama_cli.inference.text import settled
from llama_cli.records import Completion

Post = Callable[[Callable[[], None]], object]  # runs a function on the event loop


@dataclass(frozen=True, slots=True)
class News:
    """What has become of one row since the last news of it: all of it, where it is not streamed."""

    row: int  # its index in the job
    made: int  # tokens it has now
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[list[tuple[int, float]], ...] = ()
    finish: str = ""
    completion: Completion | None = None  # once it has ended, if it is not streamed
    first_token: float | None = None  # seconds it took, told with the first news
    failure: str = ""  # why there will be no more


@dataclass(eq=False, slots=True)
class Job:
    """The rows of one request, and who is told of them, on the event loop."""

    rows: Sequence[Row]
    stream: bool
    tell: Callable[[News], None]


@dataclass(eq=False, slots=True)
class _Track:
    """What was told of a row."""

    job: Job
    row: Row
    index: int
    sent: int = 0  # characters
    told: int = 0  # tokens
    made: int = 0
    began: bool = False


class Worker:
    """A batch of `size` rows in a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        size: int,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self.engine, self.size, self.clock, self.say = engine, size, clock, say
        self.made = 0  # tokens, in all
        self._batch = self._empty()
        self._waiting: deque[Row] = deque()
        self._tracks: dict[int, _Track] = {}  # by the identity of the row
        self._changed = threading.Condition()
        self._new: list[Job] = []
        self._gone: list[Job] = []
        self._stopped = False
        self._thread: threading.Thread | None = None

    # -- of any thread --

    def start(self, post: Post) -> None:
        """Begin; `post` runs a function on the event loop."""
        self._thread = threading.Thread(
            target=self._run, args=(post,), name="llama model", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the step it is in."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for its end."""
        if self._thread:
            self._thread.join()

    @property
    def runs(self) -> bool:
        """Say whether it takes jobs."""
        return not self._stopped and self._thread is not None and self._thread.is_alive()

    @property
    def running(self) -> int:
        """Count the rows in the batch."""
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        """Count the rows that wait for a place in it."""
        return len(self._tracks) - self.running

    def submit(self, job: Job) -> None:
        """Take in the rows of a job."""
        with self._changed:
            self._new.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Give up what is left of a job; there is no news of it from the next step on."""
        with self._changed:
            self._gone.append(job)
            self._changed.notify()

    # -- of its own --

    def _run(self, post: Post) -> None:
        self.engine.network.begin_thread()
        while not self._stopped:
            self._wait()
            news = self._guarded(self._take)
            if self._tracks:
                news += self._guarded(self._step)
            if news:
                self._post(post, news)

    def _guarded(self, part: Callable[[], Iterator[tuple[Job, News]]]) -> list[tuple[Job, News]]:
        """Do a part of the work; if it fails, tell all whose rows it may have touched.

        Too little memory, or a bug of ours, must not stop the others.
        """
        news: list[tuple[Job, News]] = []
        try:
            news.extend(part())
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            next_ = {id(row) for row in islice(self._waiting, 1)}
            tracks = [t for i, t in self._tracks.items() if t.row.slot >= 0 or i in next_]
            self.say(f"{len(tracks)} completions failed: {reason}")
            self._forget([track.row for track in tracks])
            self._batch = self._empty()
            news += [(each.job, News(each.index, each.made, failure=reason)) for each in tracks]
        return news

    def _post(self, post: Post, news: list[tuple[Job, News]]) -> None:
        def tell() -> None:
            for job, each in news:
                job.tell(each)

        try:
            post(tell)
        except RuntimeError:  # the loop has ended, and nobody listens
            self._stopped = True

    def _empty(self) -> Batch:
        engine = self.engine
        return Batch(engine.network, engine.tokenizer, size=self.size, clock=self.clock)

    def _wait(self) -> None:
        with self._changed:
            while not (self._new or self._gone or self._tracks or self._stopped):
                self._changed.wait()

    def _take(self) -> Iterator[tuple[Job, News]]:
        """Take in new jobs, and out those that were given up."""
        with self._changed:
            new, self._new = self._new, []
            gone, self._gone = self._gone, []
        for job in new:
            for index, row in enumerate(job.rows):
                track = _Track(job, row, index)
                if row.runs:
                    self._tracks[id(row)] = track
                    self._waiting.append(row)
                else:
                    yield job, self._news(track)
        if gone:
            self._forget([row for job in gone for row in job.rows])

    def _forget(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._tracks.pop(id(row), None)
        self._batch.drop(rows)
        self._waiting = deque(row for row in self._waiting if id(row) in self._tracks)

    def _step(self) -> Iterator[tuple[Job, News]]:
        within = [*self._batch.rows, *islice(self._waiting, self.size)]
        self._batch.step(self._waiting)
        for row in within:
            if row.slot < 0:  # it waits still
                continue
            track = self._tracks[id(row)]
            self.made += row.from_start - track.made
            track.made = row.from_start
            if row.finish or (track.job.stream and row.from_start):
                yield track.job, self._news(track)
            if row.finish:
                del self._tracks[id(row)]

    def _news(self, track: _Track) -> News:
        row, made = track.row, track.row.from_start
        took = None
        if not track.began and row.first is not None and row.began is not None:
            track.began, took = True, row.first - row.began
        if row.failure:
            self.say(f"prompt '{row.prompt.id}': {row.failure}")
            return News(track.index, made, failure=row.failure)
        if not track.job.stream:
            whole = completion(row, self.engine.tokenizer)
            return News(track.index, made, finish=row.finish, completion=whole, first_token=took)
        shown = row.settings.echo * row.prompt.prompt + text(row, self.engine.tokenizer)
        end = len(shown) if row.finish else settled(shown, row.settings.stop)
        piece, track.sent = shown[track.sent : end], max(end, track.sent)
        if row.settings.logprobs is None:
            return News(track.index, made, piece, finish=row.finish, first_token=took)
        told, track.told = track.told, len(row.logprobs)
        return News(
            track.index,
            made,
            piece,
            tuple(row.ids[first_told(row) + told :]),
            tuple(row.logprobs[told:]),
            tuple(row.top[told:]),
            row.finish,
            first_token=took,
        )
