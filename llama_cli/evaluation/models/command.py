"""A program as a model: Requests to its stdin, Responses from its stdout, one JSON line each.

    llama eval answer --model '!python mymodel.py' requests.jsonl

It is started once, by the shell. It may answer line by line or read everything first; requests
are written while responses are read. What it says on stderr is the user's to see.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from llama_cli.errors import LlamaError
from llama_cli.evaluation.models.answering import Answer, Asked
from llama_cli.evaluation.models.store import digest
from llama_cli.evaluation.request import Request, Response
from llama_cli.stream.program import Program, started

SHOWN = 60  # characters of a line that is no response; ours


class Command:
    """A program, from its command line."""

    bos = None
    budget = 1  # each response is kept as it comes

    def __init__(self, line: str) -> None:
        self.line = line
        self.name = f"!{line}"

    def prepare(self, request: Request) -> Asked[bytes]:
        """Write the line."""
        return Asked(request, request.to_json() + b"\n", digest(asdict(request)))

    def cost(self, asked: Asked[bytes], before: Asked[bytes] | None) -> int:
        """Count a request."""
        return 1

    def answer(self, groups: Iterator[list[Asked[bytes]]]) -> Iterator[list[Answer]]:
        """Let the program answer.

        Raises:
            LlamaError: it ended early or badly, or wrote something else.
        """
        with started(self.line) as program:
            number = 0
            for group in _fed(program.given, groups):
                yield [
                    self._read(program, each.request, number + i) for i, each in enumerate(group, 1)
                ]
                number += len(group)
            if program.told.readline():
                raise LlamaError(f"{self.name}: more than the {number} responses asked for")
            if code := program.wait():
                raise LlamaError(f"{self.name} ended with {code}")

    def _read(self, program: Program, request: Request, number: int) -> Answer:
        line = program.told.readline()
        where = f"{self.name}, line {number}"
        if not line.endswith(b"\n"):
            code = program.wait()
            raise LlamaError(f"{self.name} ended with {code}, and row {request.id} is not answered")
        try:
            response = Response.from_json(line)
        except ValueError as error:
            shown = line.decode("utf-8", "replace").strip()[:SHOWN]
            raise LlamaError(f"{where}: not a response ({error}): {shown}") from None
        return checked(response, request, where)


def checked(response: Response, request: Request, where: str) -> Answer:
    """Take what is the model's, if it answers the request in full.

    Raises:
        LlamaError: it does not.
    """
    other = response.request
    if (other.task, other.id) != (request.task, request.id):
        asked = f"{request.task} {request.id}"
        raise LlamaError(f"{where}: {other.task} {other.id} is answered where {asked} was asked")
    for name, count in _wanted(request).items():
        found = len(getattr(response, name))
        if found != count:
            raise LlamaError(f"{where}: {found} {name} where {count} are wanted")
    return Answer(response.logprobs, response.greedy, response.tokens, response.completions)


def _wanted(request: Request) -> dict[str, int]:
    if request.kind == "score":
        return {"logprobs": len(request.pairs)}
    return {"completions": request.samples}


def files_of(line: str) -> list[Path]:
    """List the files that a command line names: a program that changes is another model."""
    words = (Path(word.strip("'\"")) for word in line.split())
    return [path for path in words if path.is_file()]


def _fed(given: IO[bytes], groups: Iterator[list[Asked[bytes]]]) -> Iterator[list[Asked[bytes]]]:
    """Write requests from a thread, and pass on what has been written."""
    passed: SimpleQueue[list[Asked[bytes]] | BaseException | None] = SimpleQueue()

    def feed() -> None:
        try:
            for group in groups:
                passed.put(group)
                for asked in group:
                    given.write(asked.form)
                given.flush()
        except BrokenPipeError:
            pass  # that the program has ended is told where it is read
        except BaseException as error:
            passed.put(error)
        finally:
            with suppress(BrokenPipeError):
                given.close()
            passed.put(None)

    threading.Thread(target=feed, daemon=True).start()
    while (group := passed.get()) is not None:
        if isinstance(group, BaseException):
            raise group
        yield group
