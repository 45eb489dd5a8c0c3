"""Steps that would harm: a loss or a gradient that is no number, or far from the last ones.

PaLM's loss spiked some twenty times: "we re-started training from a checkpoint roughly 100
steps before the spike started, and skipped roughly 200-500 data batches, which cover the
batches that were seen before and during the spike" (Chowdhery et al., 2022, section 5.1).
Here a step is judged before its update, from the loss and norm of the whole batch, which are
the same numbers on every rank; so all decide alike. What is done is `--on-spike`:

    skip     the batch is left out: the weights are as if it had never been in the data
    rewind   back to the newest of the regular checkpoints, or to the start; the batches since
             then, this one too, are left out
    stop     nothing more is saved, and the run ends

Without a choice a spike is noted in the log and the run goes on, for most pass by themselves;
only where loss or norm is no number does it stop, since the weights would be lost.

The batches left out are all that need be remembered: step n trains on the n-th batch that is
not among them. They are in RUN/skipped.json before training goes on, and in each checkpoint with
the steps judged last, so that a run stopped at any moment continues to the same bits.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any, Literal

from llama_cli.errors import LlamaError
from llama_cli.stream.sync import sync

NAME = "skipped.json"

# All ours; the paper does not say what it counted as a spike.
WINDOW = 128  # steps that a new one is compared with
FEWEST = 32  # below so many, only what is no number is a spike
SIGMAS = 6.0  # standard deviations of the loss over its mean: by chance, one step in a billion
NATS = 0.1  # the least that a loss must be over the mean
TIMES = 10.0  # the median of the gradient norms
IN_A_ROW = 10  # batches skipped one after the other, before the run is stopped
FROM_ONE = 3  # rewinds to one checkpoint, before the run is stopped

Choice = Literal["skip", "rewind", "stop"]


@dataclass(frozen=True, slots=True)
class Left:
    """Batches left out, both ends included, counted from 1."""

    first: int
    last: int
    step: int  # after which training went on
    choice: str
    why: str

    def to_line(self) -> dict[str, Any]:
        """Give what the log says of it."""
        batches = [self.first, self.last]
        return {"step": self.step, "spike": self.choice, "batches": batches, "why": self.why}


@dataclass(slots=True)
class Recent:
    """The steps before this one, and how far from them is too far."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def judge(self, loss: float, norm: float) -> str | None:
        """Say what is wrong with a step, if anything is.

        >>> Recent().judge(float("nan"), 1.0)
        'the loss is not a number'
        """
        if not isfinite(loss):
            return "the loss is not a number"
        if not isfinite(norm):
            return "the gradient's norm is not a number"
        if len(self.losses) < FEWEST:
            return None
        most = fmean(self.losses) + max(SIGMAS * pstdev(self.losses), NATS)
        if loss > most:
            return f"the loss of {loss:.3f} is over {most:.3f}"
        most = TIMES * median(self.norms)
        return f"the gradient's norm of {norm:.3g} is over {most:.3g}" if norm > most else None

    def add(self, loss: float, norm: float) -> None:
        """Remember a step that was taken."""
        self.losses.append(loss)
        self.norms.append(norm)

    def to_json(self) -> dict[str, list[float]]:
        """Give what a checkpoint keeps."""
        return {"losses": list(self.losses), "norms": list(self.norms)}

    @classmethod
    def from_json(cls, held: Mapping[str, Iterable[float]] | None) -> Recent:
        """Take what a checkpoint kept; nothing, if it is of before there was this."""
        recent = cls()
        if held:
            recent.losses.extend(held["losses"])
            recent.norms.extend(held["norms"])
        return recent


def is_fatal(loss: float, norm: float) -> bool:
    """Say whether a step would leave weights that are no numbers."""
    return not (isfinite(loss) and isfinite(norm))


class Skipped:
    """The batches that a run leaves out."""

    def __init__(self, left: Iterable[Left] = ()) -> None:
        self.left: list[Left] = []
        self._spans: list[tuple[int, int]] = []  # the same, in order and apart from each other
        for each in left:
            self.add(each)

    def add(self, left: Left) -> None:
        """Leave out more."""
        if left in self.left:
            return
        self.left.append(left)
        self._spans = []
        for first, last in sorted((each.first, each.last) for each in self.left):
            if self._spans and first <= self._spans[-1][1]:
                first, last = self._spans[-1][0], max(last, self._spans.pop()[1])
            self._spans.append((first, last))

    def batch(self, step: int) -> int:
        """Give the number of the batch that step `step` trains on; both count from 1.

        >>> Skipped([Left(3, 4, 2, "rewind", "")]).batch(3)
        5
        """
        for first, last in self._spans:
            if first > step:
                break
            step += last - first + 1
        return step

    def __len__(self) -> int:
        """Count the batches."""
        return sum(last - first + 1 for first, last in self._spans)

    def row_before(self, batch: int) -> int:
        """Count the batches skipped one by one just before `batch`."""
        alone = {each.last for each in self.left if each.choice == "skip"}
        count = 0
        while batch - 1 - count in alone:
            count += 1
        return count

    def rewinds_to(self, step: int) -> int:
        """Count how often training went back to the checkpoint of `step`."""
        return sum(each.choice == "rewind" and each.step == step for each in self.left)

    def to_json(self) -> list[dict[str, Any]]:
        """Give what is kept."""
        return [asdict(each) for each in self.left]

    @classmethod
    def from_json(cls, held: Iterable[Mapping[str, Any]]) -> Skipped:
        """Take what was kept."""
        return cls(Left(**each) for each in held)

    def save(self, run: Path) -> None:
        """Write RUN/skipped.json, whole and on the disk."""
        part = run / f".{NAME}.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(self.to_json(), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(run / NAME)
        sync(run)

    @classmethod
    def load(cls, run: Path) -> Skipped:
        """Read RUN/skipped.json, if there is one.

        Raises:
            LlamaError: it is damaged.
        """
        path = run / NAME
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError):
            raise LlamaError(f"{path}: damaged", hint="llama train --run ANOTHER") from None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a spike, and why."""

    choice: str  # "noted" as well
    why: str


class Guard:
    """What is done about spikes; the same on every rank, and after every stop."""

    def __init__(self, choice: Choice | None, skipped: Skipped) -> None:
        self.choice, self.skipped = choice, skipped
        self.recent = Recent()

    @property
    def accept(self) -> Callable[[float, float], bool] | None:
        """Give what refuses a step before the weights move, where that is needed."""
        return self._accept if self.choice == "skip" else None

    def _accept(self, loss: float, norm: float) -> bool:
        return self.recent.judge(loss, norm) is None

    def judge(self, batch: int, loss: float, norm: float) -> Verdict | None:
        """Say what to do about the step that this batch has made; None for nothing."""
        why = self.recent.judge(loss, norm)
        if why is None:
            return None
        if self.choice == "skip" and self.skipped.row_before(batch) >= IN_A_ROW:
            return Verdict("stop", f"{why}, after {IN_A_ROW} batches in a row were left out")
        return Verdict(self.choice or ("stop" if is_fatal(loss, norm) else "noted"), why)

    def is_in_vain(self, step: int) -> bool:
        """Say whether going back to the checkpoint of `step` has been tried often enough."""
        return self.skipped.rewinds_to(step) >= FROM_ONE

    def remember(self, recent: Mapping[str, Iterable[float]] | None) -> None:
        """Compare with the steps that a checkpoint knows."""
        self.recent = Recent.from_json(recent)

    def to_json(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return {"skipped": self.skipped.to_json(), "recent": self.recent.to_json()}
