"""Every error a user can see, and the exit code each one means.

* LlamaError             1  the work could not be done
  x DataError            1  a record or a stream cannot be used; says file:line
  x TooManyRejects       3  more bad records than --max-rejects allows
  x NotReadyError        1  a model, tokenizer, library or file is missing; says what to run
  x UsageError           2  options that do not go together, or a bad configuration
  x Interrupted         75  stopped early; the same command goes on, from a checkpoint if any
  x Elsewhere            -  another process of the run has said it; this one ends as that did

click's own usage errors end with 2 as well. A reader that goes away is 141, Ctrl-C is
130, SIGTERM is 143: the process ends by the signal itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAUNCHER = "LLAMA_LAUNCHER"  # the process that started this one as a rank, by its id
LOST = 76  # how a rank tells its launcher, and nobody else, that another has gone


def one_line(text: str) -> str:
    r"""Show what no terminal should be sent, such as the line end in a file's name.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Let the system's errors name what the user knows, not a hidden file or nothing."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = where, None
        raise


class LlamaError(Exception):
    """Something the user can act on. The message is one line, lower case, no period."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker's error crosses to its parent by pickle, whatever its __init__ takes
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[LlamaError], args: tuple[Any, ...], state: dict[str, Any]) -> LlamaError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class DataError(LlamaError):
    """A record that cannot be used, located the way compilers locate errors."""

    def __init__(self, where: str, line: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{where}:{line}: {message}", hint=hint)
        self.where, self.line = where, line


class TooManyRejects(LlamaError):
    """More malformed records than the user allows."""

    exit_code = 3


class NotReadyError(LlamaError):
    """Something must be installed or made first; `hint` is the command that does it."""


class UsageError(LlamaError):
    """Options, environment or configuration that cannot be obeyed."""

    exit_code = 2


class Interrupted(LlamaError):
    """Stopped before the end; the same command goes on, from a checkpoint if there is one."""

    exit_code = 75


class Elsewhere(LlamaError):
    """What another process of the same run has said already; this one ends without words."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
