"""A prompt with its completion while it grows, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llama_cli.errors import LlamaError
from llama_cli.inference.text import cut
from llama_cli.records import Completion, Prompt, Timings
from llama_cli.tokenizer.bpe import Tokenizer

BOUNDS = {
    **dict.fromkeys(("max_tokens", "temperature", "top_k", "logprobs"), (0, math.inf)),
    **dict.fromkeys(("batch", "ahead", "samples"), (1, math.inf)),
    **dict.fromkeys(("top_p", "min_p"), (0, 1)),
}
BROKEN = "\ufffd"  # what a byte is shown as whose character is not whole


@dataclass(frozen=True, slots=True)
class Settings:
    """How to complete. Defaults of temperature, top-p and length are the released code's."""

    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0  # 0: any number
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    samples: int = 1
    logprobs: int | None = None  # alternatives to each token that are told
    echo: bool = False
    batch: int = 16  # ours
    ahead: int = 128  # rows read before the first has ended; ours

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                above = "" if most == math.inf else f" or above {most}"
                shown = "n" if name == "samples" else name  # as those say it who can get it wrong
                raise ValueError(f"{shown} is {value}, which is below {least}{above}")
        if "" in self.stop:
            raise ValueError("a stop string is empty")


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how to complete it; `ids` are its tokens, if they are not those of its text."""

    prompt: Prompt
    settings: Settings
    ids: tuple[int, ...] | None = None


@dataclass(slots=True)
class Row:
    """One completion of a prompt."""

    prompt: Prompt
    settings: Settings
    sample: int  # which of several
    ids: list[int]  # the prompt's, then the completion's
    start: int  # where the completion begins
    end: int  # where it must end
    began: float | None = None  # by the clock, if there is one
    first: float | None = None  # when its first token came
    ended: float | None = None
    finish: str = ""  # while it goes on
    failure: str = ""  # why it ended with "error"
    slot: int = -1
    held: int = 0  # tokens that are in the cache
    said: str = ""  # text of the completion that no later token can change
    read: int = 0  # tokens of the completion that are in `said`
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Say whether the model has something to do for it."""
        return not self.finish

    def fail(self, why: str) -> None:
        """End it, without a completion; what is beside it goes on."""
        self.finish, self.failure = "error", why

    @property
    def from_start(self) -> int:
        """Tell how many tokens the completion has."""
        return len(self.ids) - self.start


def rows_of(
    request: Request, tokenizer: Tokenizer, context: int, clock: Callable[[], float] | None
) -> Iterator[Row]:
    """Begin each sample of a request; one that has nothing to be computed has ended."""
    settings = request.settings
    ids = tokenizer.encode(request.prompt.prompt) if request.ids is None else request.ids
    end = min(context, len(ids) + settings.max_tokens)
    scored = settings.echo and 1 < len(ids) <= context
    finish = "" if len(ids) < end or scored else "length"
    for sample in range(settings.samples):
        row = Row(request.prompt, settings, sample, list(ids), len(ids), end, finish=finish)
        row.began = clock() if clock else None
        yield row


def whole_text(row: Row, tokenizer: Tokenizer) -> str:
    """Give all that was made, as it stands after the prompt; only what is new is decoded.

    A character that the ids of a prompt cut in two stays cut.
    """
    at, said = row.start + row.read, row.said
    shown = tokenizer.decode_from(row.ids, at)
    # bytes without the rest of their character are U+FFFD each, and there are at most three
    loose = min(len(shown) - len(shown.rstrip(BROKEN)), 3)
    end = len(row.ids) - loose
    whole = tokenizer.decode_from(row.ids[:end], at) if loose else shown
    if end >= at and whole + BROKEN * loose == shown:
        row.said, row.read = said + whole, end - row.start
    return said + shown


def text(row: Row, tokenizer: Tokenizer) -> str:
    """Give what was made, up to the first stop string."""
    return cut(whole_text(row, tokenizer), row.settings.stop)


def first_told(row: Row) -> int:
    """Tell which token is the first of those told; the rest, and `logprobs`, go with it."""
    scored = row.settings.echo and (row.held > 0 or row.start == 1)
    return 1 if scored else row.start


def completion(row: Row, tokenizer: Tokenizer) -> Completion:
    """Make the record of a row that has ended.

    Raises:
        LlamaError: it has failed.
    """
    if row.failure:
        raise LlamaError(
            f"prompt '{row.prompt.id}': {row.failure}", hint="llama generate --dtype fp32"
        )
    settings = row.settings
    return Completion(
        id=row.prompt.id,
        prompt=row.prompt.prompt,
        completion=settings.echo * row.prompt.prompt + text(row, tokenizer),
        finish=row.finish,
        tokens=row.ids[first_told(row) :],
        logprobs=row.logprobs,
        seed=settings.seed,
        sample=row.sample if settings.samples > 1 else None,
        top_logprobs=None if settings.logprobs is None else row.top,
        timings=_timings(row),
    )


def _timings(row: Row) -> Timings | None:
    if row.began is None:
        return None
    ended = row.began if row.ended is None else row.ended  # at once, if nothing was computed
    first = ended if row.first is None else row.first
    return Timings(first_token=first - row.began, seconds=ended - row.began)
