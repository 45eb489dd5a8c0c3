"""Rows as requests: header, worked examples, prompt, and what the kind of the task asks.

No model is needed, except to drop worked examples that would not fit its context: with a `Fit`,
the last are left out until what remains does, as in the code of Hendrycks et al. for MMLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

from llama_cli.errors import UsageError
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.labels import textless
from llama_cli.evaluation.request import Request
from llama_cli.evaluation.rows import Row, official
from llama_cli.evaluation.shots import Shown, choose, without
from llama_cli.evaluation.task import Task


@dataclass(frozen=True, slots=True)
class Setting:
    """What may be chosen beside the task: None is the task's own."""

    shots: int | None = None
    samples: int | None = None
    seed: int = 0
    limit: int | None = None
    examples: Mapping[str, str] = field(default_factory=dict)  # by task, as they go before a row


class Fit:
    """Tell whether a request fits a context, by the tokens of its parts or, in doubt, of all."""

    def __init__(self, count: Callable[[str], int], context: int) -> None:
        self.count = count  # tokens of a text, its begin mark included
        self.context = context
        self._part = lru_cache(4096)(count)

    def __call__(self, request: Request, parts: list[str]) -> bool:
        """Tell for a request whose context is `parts` together."""
        if request.kind == "complete":
            room, whole = request.max_tokens, request.prompt
        else:
            before, text = max(request.pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
            room, whole = -1, before + text  # the last token of a pair is only predicted
        rest = whole[len("".join(parts)) :]
        if sum(map(self._part, [*parts, rest])) + room <= self.context:
            return True
        return self.count(whole) + room <= self.context


def render(task: Task, data: Data, setting: Setting, fit: Fit | None = None) -> Iterator[Request]:
    """Write each row of a task as a request.

    Raises:
        UsageError: the setting is not one of this task.
        DataError: a row is not in the official format.
    """
    check(task, setting)
    given, count = setting.examples.get(task.name), shots_of(task, setting)
    texts = () if given is None else (given,)
    shown = choose(task, data, count=count, seed=setting.seed, texts=texts)
    rows = islice(without(data.rows(task), shown.cut), setting.limit)
    asked = False
    for number, (where, line, row) in data.watch(rows) if task.files else rows:
        with official(where, line, task.name):
            if wrong := textless(row):
                raise ValueError(wrong)
            request = _request(task, row, number, shown, count, setting, fit)
        asked = True
        yield request
    if shown.cut and not asked:
        raise UsageError(f"{task.name}: {count} shots are taken from its rows, and none is left")


def shots_of(task: Task, setting: Setting) -> int:
    """Tell how many worked examples are wanted."""
    return task.shots if setting.shots is None else setting.shots


def check(task: Task, setting: Setting) -> None:
    """See that what is asked for is something the task has, before any row is read.

    Raises:
        UsageError: it is not.
    """
    count, given = shots_of(task, setting), task.name in setting.examples
    if task.worked is None and (count or given):
        raise UsageError(f"{task.name} is asked without worked examples")
    if given and not count:
        raise UsageError(f"{task.name}: --examples are given, and --shots is 0")
    own = task.worked.texts if task.worked else ()
    if own and not given and count > len(own):
        raise UsageError(f"{task.name}: {count} shots are wanted, there are {len(own)}")


def _request(
    task: Task, row: Row, number: int, shown: Shown, count: int, setting: Setting, fit: Fit | None
) -> Request:
    request, used = _fitted(task, row, shown.before(row), fit)
    name = task.id(row)
    meta = {"shots": count if used is None else used, "groups": list(task.groups(row))}
    if used is not None:
        meta["asked_shots"] = count
    if shown.cut:
        meta["cut"] = len(shown.cut)
    if task.name in setting.examples:
        meta["examples"] = "as given"
    samples = setting.samples if setting.samples and request.temperature else request.samples
    return replace(
        request,
        task=task.name,
        id=str(number if name is None else name),
        samples=samples,
        seed=setting.seed,
        meta={**meta, **request.meta},
    )


def _fitted(task: Task, row: Row, texts: list[str], fit: Fit | None) -> tuple[Request, int | None]:
    """Ask with all worked examples, or as many as fit; None says that all did."""
    header, prompt = task.header(row), task.prompt(row)
    for used in range(len(texts), -1, -1):
        parts = [header, *texts[:used]]
        request = task.kind.ask(row, "".join([*parts, prompt]))
        if fit is None or used == 0 or fit(request, parts):
            break
    return request, None if used == len(texts) else used
