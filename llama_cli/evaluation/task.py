"""What a benchmark is: where its rows are, what the model sees, and what counts as right.

A task is data. `render.py` writes its rows as requests, its `kind` says what is asked of a model
and grades the answers, `summary.py` adds them up. Files are read as their authors publish them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.rows import Files, Row

if TYPE_CHECKING:
    from llama_cli.evaluation.sandbox.result import Result

__all__ = [
    "Figures",
    "Files",
    "Kind",
    "Mark",
    "Row",
    "Scorer",
    "Shots",
    "Task",
    "Tools",
    "each",
    "naming",
]

Figures = Mapping[str, float]  # by model size: "7B", "13B", "33B", "65B"
Scorer = Callable[[Sequence[str]], Sequence[float]]  # a number from 0 to 1 for each text


@dataclass(frozen=True, slots=True)
class Mark:
    """What grading made of one response: a number for each metric, and what it was taken from."""

    values: Mapping[str, float]
    answer: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tools:
    """What grading may need beside the responses.

    `scorers` are by what they measure: "toxicity", "truth", "info". `run` runs programs in a
    sandbox, and gives what became of each, in order.
    """

    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    run: Callable[[Iterable[str]], Iterator[Result]] | None = None

    def scorer(self, name: str) -> Scorer:
        """Give the scorer of that name.

        Raises:
            NotReadyError: there is none.
        """
        if name not in self.scorers:
            raise NotReadyError(
                f"no scorer of {name} to grade with", hint=f"--scorer {name}=linear:FILE"
            )
        return self.scorers[name]


def each(mark: Callable[[Response], Mark], responses: Iterable[Response]) -> Iterator[Mark]:
    """Mark responses one by one.

    Raises:
        LlamaError: one does not hold what its task asks.
    """
    for response in responses:
        with naming(response):
            marked = mark(response)
        yield marked


@contextmanager
def naming(response: Response) -> Iterator[None]:
    """Say which response it is that does not hold what its task asks.

    Raises:
        LlamaError: it does not.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        request = response.request
        what = f"{type(error).__name__}: {error}"
        raise LlamaError(f"{request.task} {request.id}: not to be graded ({what})") from None


class Kind(Protocol):
    """What is asked of a model for a row, and how its answer is graded."""

    @property
    def normalize(self) -> str:
        """Name the rule by which the answer is found."""

    @property
    def stop(self) -> Sequence[str]:
        """Give the texts that end a continuation."""

    @property
    def needs(self) -> Sequence[str]:
        """Name the tools that grading needs: scorers, or "sandbox"."""

    def ask(self, row: Row, prompt: str) -> Request:
        """Write the request, all but its name and meta.

        Raises:
            KeyError, TypeError, ValueError: the row is not in the official format.
        """

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Mark each response, in order."""


@dataclass(frozen=True, slots=True)
class Shots:
    """Where worked examples come from.

    Rows of `files`, written by `worked`: the first in the file, or `drawn` by the seed. Without
    those files they are taken from the test rows, which then are fewer. A row is shown rows with
    which it shares `among`. `texts` are examples written out; they go before rows.
    """

    worked: Callable[[Row], str] = lambda row: ""
    files: Files | None = None
    drawn: bool = False
    among: Callable[[Row], str] = lambda row: ""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark: a row is given to the model as header, worked examples and prompt."""

    name: str
    metric: str  # of the headline figure
    kind: Kind
    prompt: Callable[[Row], str]
    note: str  # what the paper leaves open, said with every result
    files: Files | None = None  # None: documents
    split: str = ""
    header: Callable[[Row], str] = lambda row: ""
    shots: int = 0
    worked: Shots | None = None  # None: there can be no shots
    id: Callable[[Row], Any] = lambda row: row.get("id")  # None is the row's number from 0
    groups: Callable[[Row], Sequence[str]] = lambda row: ()  # what it is counted under as well
    scale: float = 100.0  # a right row adds so much to the mean; 1 for fractions
    reported: Figures = field(default_factory=dict)  # the paper's, in the unit of the result
    by_shots: Mapping[int, Figures] = field(default_factory=dict)  # where `reported` depends on it
    by_group: Mapping[str, Figures] = field(default_factory=dict)
    by_metric: Mapping[str, Figures] = field(default_factory=dict)  # of further metrics

    def figures(self, metric: str, group: str, shots: int) -> Figures:
        """Give what the paper reports for one cell, nothing if it does not."""
        if metric != self.metric:
            return {} if group else self.by_metric.get(metric, {})
        if group:
            return self.by_group.get(group, {})
        if self.by_shots:
            return self.by_shots.get(shots, {})
        return self.reported if shots == self.shots else {}
