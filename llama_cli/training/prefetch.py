"""The batches of the next steps, read while the steps before them run.

A thread reads them in order into (pinned) memory, a few ahead and no more. What goes wrong
there is raised in the step that needs it. Whether a batch was read ahead or not, it is the
same: it depends on its step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, Full, Queue
from threading import Event, Thread

from llama_cli.training.batch import Batch

AHEAD = 2  # batches; ours: one in hand, one on its way
WAKE = 0.1  # seconds between two looks whether to stop; ours

Read = Callable[[int], Batch]


class Prefetch:
    """Batches by step, mostly the next one.

    >>> with Prefetch(read, first=1, last=9) as batches:  # doctest: +SKIP
    ...     batch = batches.get(1)
    """

    def __init__(self, read: Read, *, first: int, last: int, ahead: int = AHEAD) -> None:
        """Begin to read.

        Args:
            read: gives the batch of a step; called from the thread.
            first, last: the steps, both included.
            ahead: batches that are held before they are asked for.
        """
        self._read, self._ahead = read, ahead
        self._begin(first, last)

    def _begin(self, first: int, last: int) -> None:
        self._next, self._last = first, last
        self._queue: Queue[Batch | BaseException] = Queue(self._ahead)
        self._done = Event()
        arguments = (self._read, range(first, last + 1), self._queue, self._done)
        self._thread = Thread(target=_fill, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, step: int, give_up: Callable[[], bool] = lambda: False) -> Batch | None:
        """Give the batch of `step`.

        Args:
            step: the one after the last one asked for; any other begins anew.
            give_up: asked again and again while there is nothing; if true, the batch is None.

        Raises:
            Exception: whatever reading that batch raised.
        """
        if step != self._next or step > self._last:
            self.close()
            self._begin(step, max(step, self._last))
        found = self._take(give_up)
        if isinstance(found, BaseException):
            raise found
        self._next += found is not None
        return found

    def _take(self, give_up: Callable[[], bool]) -> Batch | BaseException | None:
        while True:
            try:
                return self._queue.get(timeout=WAKE)
            except Empty:
                if give_up():
                    return None

    def close(self) -> None:
        """Stop reading. One that waits for a stream ends with the process."""
        self._done.set()
        self._thread.join(WAKE)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(read: Read, steps: range, queue: Queue[Batch | BaseException], done: Event) -> None:
    """Put batch after batch, and last of all what went wrong."""
    for step in steps:
        found: Batch | BaseException
        try:
            found = read(step)
        except BaseException as error:
            found = error
        _put(found, queue, done)
        if done.is_set() or isinstance(found, BaseException):
            return


def _put(found: Batch | BaseException, queue: Queue[Batch | BaseException], done: Event) -> None:
    while not done.is_set():
        try:
            queue.put(found, timeout=WAKE)
        except Full:
            continue
        return
