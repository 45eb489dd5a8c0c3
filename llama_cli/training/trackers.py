"""The lines of the log for TensorBoard, in RUN/tensorboard, and for Weights & Biases.

Neither is needed to train, so neither may end a run: a tracker that fails is let go, and that
is said once. That one is missing is an error, but before any work is done. A run that continues
goes on in the same place: TensorBoard is told from which step on what it holds is void, and
the name that Weights & Biases has for the run is in RUN/wandb.json.
"""

from __future__ import annotations

import importlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.training.log import NAME, Line, read_log

TENSORBOARD, WANDB = "tensorboard", "wandb.json"
NOT_FIGURES = ("step", "checkpoint", "checkpoint_failed", "spike", "batches", "why", "end")


class Tracker(Protocol):
    """Who else is told the lines of the log."""

    name: str

    def write(self, line: Line) -> None:
        """Take the next line."""

    def close(self, failed: bool) -> None:
        """End, well or not."""


class TensorBoard:
    """Event files in RUN/tensorboard, by torch.utils.tensorboard."""

    name = "TensorBoard"

    def __init__(self, run: Path) -> None:
        """Find the library.

        Raises:
            NotReadyError: it is not installed.
        """
        self._writers = _imported("torch.utils.tensorboard", self.name, "tensorboard")
        self._directory = run / TENSORBOARD
        self._writer: Any = None
        self._step = 0

    def write(self, line: Line) -> None:
        """Add the figures of a line at its step."""
        figures = dict(_figures(line))
        if not figures:
            return
        step = int(line["step"])
        if self._writer is None or step < self._step:  # the run continues, or went back
            self.close(failed=False)
            self._writer = self._writers.SummaryWriter(str(self._directory), purge_step=step)
        self._step = step
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        """Write what is not on the disk yet."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """A run of a project on wandb.ai, or on the disk where WANDB_MODE is offline."""

    name = "Weights & Biases"

    def __init__(self, run: Path, project: str) -> None:
        """Begin its run, or go on with the one of this directory.

        Raises:
            NotReadyError: wandb is not installed.
            LlamaError: wandb does not begin, as without a key.
        """
        wandb = _imported("wandb", self.name, "wandb")
        try:
            self._run = wandb.init(
                project=project,
                id=_identity(run, project),
                resume="allow",
                name=run.name,
                dir=str(run),
                settings=wandb.Settings(console="off", silent=True),
            )
            # by a step of our own: wandb's may not go back, as a run that continues does
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # of wandb's own kinds, or of the network
            raise LlamaError(
                f"Weights & Biases: {_words(error)}",
                hint="wandb login, or export WANDB_MODE=offline",
            ) from None
        self._log: Path | None = run / NAME  # whose first line is still to be told

    def write(self, line: Line) -> None:
        """Log the figures of a line."""
        if self._log:
            about = next(read_log(self._log), {}).get("run", {})
            self._run.config.update(about, allow_val_change=True)
            self._log = None
        figures = dict(_figures(line))
        if figures:
            self._run.log({"step": int(line["step"]), **figures})

    def close(self, failed: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=int(failed))


class Trackers:
    """All that were asked for; one that fails is let go."""

    def __init__(self, trackers: list[Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = trackers, say

    def __call__(self, line: Line) -> None:
        """Tell all of them."""
        for tracker in list(self._trackers):
            try:
                tracker.write(line)
            except Exception as error:
                self._trackers.remove(tracker)
                self._say(f"{tracker.name} failed and gets no more lines: {_words(error)}")

    def close(self, failed: bool = False) -> None:
        """End all of them."""
        for tracker in self._trackers:
            with suppress(Exception):
                tracker.close(failed)
        self._trackers = []


def _imported(module: str, name: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotReadyError(
            f"{name} is not installed ({error.name or error})", hint=f"pip install {package}"
        ) from None


def _figures(line: Line) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line that have a step."""
    if "step" not in line:
        return
    for name, value in line.items():
        if name not in NOT_FIGURES and isinstance(value, (int, float)):
            yield name, value


def _identity(run: Path, project: str) -> str:
    """Give the name of this directory's run in a project, made when it is first asked for."""
    path = run / WANDB
    known: Mapping[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    if project not in known:
        known = {**known, project: secrets.token_hex(4)}
        part = path.with_name(f".{WANDB}.part")
        part.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        part.rename(path)
    return known[project]


def _words(error: Exception) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__
