"""`llama train`: what is seen of a run, by whom. Its options, the listener, and --watch.

The meter of llama_cli.carbon and the training that it measures do not know each other; they are
put together here. Imports no torch: --watch starts at once.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llama_cli.commands._options import Named
from llama_cli.errors import Interrupted

if TYPE_CHECKING:
    from llama_cli.parallel.mesh import Mesh
    from llama_cli.stream.progress import Progress
    from llama_cli.training.job import Listener
    from llama_cli.training.log import Line
    from llama_cli.training.spike import Choice
    from llama_cli.training.view import View
    from llama_cli.training.watch import Follower

F = TypeVar("F", bound=Callable[..., Any])

POLL = 0.5  # seconds between two looks at the log of --watch; ours


@dataclass(frozen=True, slots=True)
class Seeing:
    """The options, by name."""

    watch: Path | None
    on_spike: Choice | None
    tensorboard: bool
    wandb: str | None


NAMES = tuple(field.name for field in fields(Seeing))


def seeing_options(function: F) -> F:
    """Add the options, and hand the command a `Seeing` of them."""

    @functools.wraps(function)
    def wrapped(**options: Any) -> Any:
        seeing = Seeing(**{name: options.pop(name) for name in NAMES})
        return function(seeing=seeing, **options)

    found: Any = wrapped
    for option in OPTIONS:
        found = option(found)
    return found  # type: ignore[no-any-return]


OPTIONS = (
    click.option(
        "--wandb",
        metavar="PROJECT",
        help="Send the log to this project of Weights & Biases too, if that is installed.",
    ),
    click.option(
        "--tensorboard",
        is_flag=True,
        help="Write the log to RUN/tensorboard too, if TensorBoard is installed.",
    ),
    click.option(
        "--watch",
        type=Named(path_type=Path),
        metavar="RUN",
        help="Show how a run of another process fares, until it ends, and train nothing.",
    ),
    click.option(
        "--on-spike",
        type=click.Choice(["skip", "rewind", "stop"]),
        help="When loss or gradient is no number, or far above the last 128 steps: leave that "
        "batch out; go back to the last checkpoint and leave out the batches since, as PaLM did; "
        "or end.  [default: end if it is no number, else only note it]",
    ),
)


@contextmanager
def tracking(
    seeing: Seeing, run: Path, progress: Progress, mesh: Mesh
) -> Iterator[Callable[[Line], None]]:
    """Begin with the trackers that were asked for, on the first rank; give who tells them.

    Raises:
        NotReadyError: one is not installed.
        LlamaError: one cannot begin.
    """
    from llama_cli.training.trackers import TensorBoard, Tracker, Trackers, WeightsAndBiases

    found: list[Tracker] = []
    if seeing.tensorboard and mesh.first:
        found.append(TensorBoard(run))
    if seeing.wandb and mesh.first:
        found.append(WeightsAndBiases(run, seeing.wandb))
    trackers, failed = Trackers(found, progress.say), True
    try:
        yield trackers
        failed = False
    finally:
        trackers.close(failed)


@contextmanager
def listening(
    run: Path, progress: Progress, tell: Callable[[Line], None], mesh: Mesh
) -> Iterator[Listener]:
    """Give who is told of a run: a panel or plain lines, and `tell`."""
    from llama_cli.stream.block import shown
    from llama_cli.training.job import Listener

    seen = Seen(run, progress)

    def on_line(line: Line) -> None:
        seen(line)
        tell(line)

    with shown(progress, seen.draw):
        yield Listener(time.perf_counter, time.process_time, progress.say, on_line, _meter(mesh))


class Seen:
    """The lines of a run's log on stderr: a panel on a terminal, else a line now and then."""

    def __init__(self, run: Path, progress: Progress) -> None:
        from llama_cli.training.view import View

        self.run, self.progress = run, progress
        self.view = View()
        self._lock = Lock()  # the panel is drawn by a thread of its own
        if progress.terminal and not progress.quiet:
            for line in self._log():  # of a run that continues; the view goes back by itself
                self.view.feed(line)

    def __call__(self, line: Line) -> None:
        """Take the next line."""
        from llama_cli.training.panel import progress

        with self._lock:
            if not self.view.about:
                self.view.feed(next(self._log(), {}))
            self.view.feed(line)
        if self.progress.above is not None:  # the panel has it
            return
        if "validation_loss" in line:
            self.progress.say(validation_words(line))
        elif "loss" in line:
            self.progress.tick(lambda: progress(self.view, rate=True))

    def draw(self, width: int, height: int) -> list[str]:
        """Give the panel."""
        with self._lock:
            return draw(self.view, width, height, str(self.run))

    def _log(self) -> Iterator[Line]:
        from llama_cli.training.log import NAME, read_log

        return read_log(self.run / NAME)


def draw(view: View, width: int, height: int, title: str, state: str = "") -> list[str]:
    """Draw a view for this terminal."""
    from llama_cli.stream.block import has_blocks
    from llama_cli.stream.progress import coloured
    from llama_cli.training import panel

    pen = panel.Pen(colour=coloured(), blocks=has_blocks())
    return panel.draw(view, width, height, title=title, pen=pen, state=state)


def validation_words(line: Line) -> str:
    """Say a validation loss."""
    loss = line["validation_loss"]
    return f"step {line['step']:,}: validation loss {'?' if loss is None else f'{loss:.3f}'}"


def _meter(mesh: Mesh) -> Callable[[], float | None]:
    """Measure this process's GPU; or the processors, once for each machine."""
    from llama_cli.carbon.meter import of_gpus, of_processors

    if mesh.device.startswith("cuda"):  # pragma: no cover (gpu)
        import torch

        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return of_gpus([f"GPU-{uuid}"], time.perf_counter)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return lambda: 0.0
    return of_processors(time.perf_counter)


# -- llama train --watch --


def watch(run: Path, *, quiet: bool) -> None:
    """Show a run until it ends.

    Raises:
        NotReadyError: there is no run.
        Interrupted: the run has stopped before its end.
    """
    from llama_cli.stream.block import shown
    from llama_cli.stream.progress import Progress
    from llama_cli.training.watch import Follower

    follower = Follower(run, time.time)
    progress, lock = Progress("train", quiet=quiet), Lock()

    def panel(width: int, height: int) -> list[str]:
        with lock:
            return draw(follower.view, width, height, str(run), _state(follower))

    plain = not (quiet or (progress.terminal and sys.stdout.isatty()))
    with nullcontext() if plain else shown(progress, panel):
        _follow(follower, lock, _print if plain else lambda line: None)
    _ended(follower, run, quiet)


def _follow(follower: Follower, lock: Lock, say: Callable[[str], None]) -> None:
    """Read until the run ends; `say` gets a line for what is new."""
    from llama_cli.training.panel import progress

    stalled, first = False, True
    while True:
        with lock:
            lines = follower.poll()
        news = [] if first else [line for line in lines if "loss" not in line]
        for line in filter(None, map(_news, news)):
            say(line)
        if first or any("loss" in line for line in lines):
            say(progress(follower.view, rate=True))
        if follower.has_ended:
            return
        if follower.stalled and not stalled:
            say(_state(follower))
        stalled, first = follower.stalled, False
        time.sleep(POLL)


def _news(line: Line) -> str | None:
    """Say what happened between steps."""
    if "validation_loss" in line:
        return validation_words(line)
    if "spike" in line:
        batches = line.get("batches")
        left = f"; batches {batches[0]:,} to {batches[1]:,} are left out" if batches else ""
        return f"step {line['step']:,}: {line['spike']}: {line['why']}{left}"
    return None


def _state(follower: Follower) -> str:
    from llama_cli.training.panel import time_words

    if follower.stalled:
        return f"stalled or killed: no line for {time_words(follower.silence)}"
    return "" if follower.view.last else "starting"


def _ended(follower: Follower, run: Path, quiet: bool) -> None:
    view = follower.view
    if not follower.is_finished:
        gone = "its process has gone without a word" if follower.has_gone else "no reason given"
        why = view.end.get("why") or gone
        raise Interrupted(
            f"{run} has stopped after step {view.step:,}: {why}",
            hint="the same llama train command continues it",
        )
    if not quiet:
        _print(f"{run} is finished: step {view.step:,}, loss {view.last['loss']:.3f}")


def _print(line: str) -> None:
    print(line, flush=True)
