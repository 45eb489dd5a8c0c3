"""Requests through a model: in groups, past the cache, over the processes of a run, in order.

    requests ─▶ groups ─▶ what the cache lacks ─▶ model ─▶ cache ─▶ responses
                  │ every world-th: this process's
                  └ the others': the first process takes their answers from the store they share

Where a group ends depends on the requests alone, never on what the cache holds or on the number
of processes. So the model sees the same groups in a run that is interrupted and begun again as
in one that is not, and rounds the same: the output is the same to the last byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from llama_cli.evaluation.request import Request, Response

if TYPE_CHECKING:
    from llama_cli.evaluation.models.store import Store
    from llama_cli.parallel.mesh import Mesh

F = TypeVar("F")  # what a model makes of a request before it answers: ids, or a text


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of a request: the fields of a Response that are its own."""

    logprobs: Sequence[float] = ()
    greedy: Sequence[bool] = ()
    tokens: Sequence[int] = ()
    completions: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Name the fields that say something."""
        return {name: list(value) for name, value in asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class Asked(Generic[F]):
    """A request, made ready. Two with one `key` have one answer."""

    request: Request
    form: F
    key: str
    truncated: bool = False


class Backend(Protocol[F]):
    """What answers."""

    @property
    def name(self) -> str:
        """Name it as a Response tells it."""

    @property
    def bos(self) -> bool | None:
        """Say whether it puts its begin mark first, if that is known."""

    @property
    def budget(self) -> int:
        """Say how much of what `cost` counts goes into a group."""

    def prepare(self, request: Request) -> Asked[F]:
        """Make a request ready."""

    def cost(self, asked: Asked[F], before: Asked[F] | None) -> int:
        """Say how much work it is after the one before it."""

    def answer(self, groups: Iterator[list[Asked[F]]]) -> Iterator[list[Answer]]:
        """Give one list a group, in order, with one answer a request; it may read ahead."""


@dataclass(frozen=True, slots=True)
class _Group(Generic[F]):
    number: int
    asked: list[Asked[F]]
    lacking: list[Asked[F]] | None  # None: another process answers it


class Answering(Generic[F]):
    """A model. On a process that is not the first it answers for that one, and yields nothing."""

    def __init__(
        self, backend: Backend[F], *, store: Store | None = None, mesh: Mesh | None = None
    ) -> None:
        self.backend, self.store, self.mesh = backend, store, mesh
        self._calls = 0  # the same on all processes

    @property
    def first(self) -> bool:
        """Say whether this process is the one that has the responses."""
        return self.mesh is None or self.mesh.first

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Yield a response a request, in order."""
        self._calls += 1
        ahead: deque[_Group[F]] = deque()
        for answers in self.backend.answer(self._own(requests, ahead)):
            while (group := ahead.popleft()).lacking is None:
                yield from self._responses(group, self._others(group.number))
            found = self._keep(group, answers)
            if self.mesh and not self.first:
                told = [found[each.key].as_json() for each in group.asked]
                self.mesh.leave_word(self._word(group.number), told)
            else:
                yield from self._responses(group, [found[each.key] for each in group.asked])
        while ahead:
            group = ahead.popleft()
            yield from self._responses(group, self._others(group.number))

    def _own(
        self, requests: Iterable[Request], ahead: deque[_Group[F]]
    ) -> Iterator[list[Asked[F]]]:
        """Note every group, and give those of this process, without what the cache has."""
        for number, asked in enumerate(self._groups(requests)):
            if self.mesh and number % self.mesh.size != self.mesh.rank:
                ahead.append(_Group(number, asked, None))
                continue
            once = {each.key: each for each in asked}
            known = self.store.answers if self.store else {}
            lacking = [each for key, each in once.items() if key not in known]
            ahead.append(_Group(number, asked, lacking))
            yield lacking

    def _groups(self, requests: Iterable[Request]) -> Iterator[list[Asked[F]]]:
        group: list[Asked[F]] = []
        spent, before = 0, None
        for request in requests:
            asked = self.backend.prepare(request)
            cost = self.backend.cost(asked, before)
            if group and spent + cost > self.backend.budget:
                yield group
                group, spent, cost = [], 0, self.backend.cost(asked, None)
            group.append(asked)
            spent, before = spent + cost, asked
        if group:
            yield group

    def _keep(self, group: _Group[F], answers: list[Answer]) -> dict[str, Answer]:
        """Add what is new to the cache; give all of the group."""
        assert group.lacking is not None
        new = {each.key: a for each, a in zip(group.lacking, answers, strict=True)}
        if not self.store:
            return new
        if new:
            self.store.add(new)
        known = self.store.answers
        return {each.key: new.get(each.key) or known[each.key] for each in group.asked}

    def _others(self, number: int) -> list[Answer] | None:
        """Take the answers of another process's group; None where nobody wants them here."""
        if not self.mesh or not self.mesh.first:
            return None
        return [Answer(**each) for each in self.mesh.find_word(self._word(number), self._spoken)]

    def _spoken(self) -> bool:
        """Say whether a process has ended with an error, so that no word comes any more."""
        from llama_cli.parallel.mesh import WORD

        assert self.mesh is not None
        assert self.mesh.store is not None
        return self.mesh.store.check([WORD])

    def _word(self, number: int) -> str:
        return f"llama/eval/{self._calls}/{number}"

    def _responses(self, group: _Group[F], answers: Sequence[Answer] | None) -> Iterator[Response]:
        if answers is None:
            return
        for asked, answer in zip(group.asked, answers, strict=True):
            yield Response(
                request=asked.request,
                model=self.backend.name,
                logprobs=answer.logprobs,
                greedy=answer.greedy,
                tokens=answer.tokens,
                completions=answer.completions,
                truncated=asked.truncated,
                bos=self.backend.bos,
            )
