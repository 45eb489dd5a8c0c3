"""Several processes that share requests: who answers what, and how it ends when one fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llama_cli.errors import LlamaError
from llama_cli.evaluation.models.answering import Answer, Answering, Asked
from llama_cli.evaluation.request import Request
from llama_cli.parallel.mesh import Mesh
from tests.unit.test_parallel_mesh import ends

ROWS = 11  # six groups of two, the last of one


class Counting:
    """A backend that answers with a row's number, unless it is told to fail."""

    name, bos, budget = "counting", None, 2

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.asked: list[int] = []

    def prepare(self, request: Request) -> Asked[None]:
        return Asked(request, None, request.id)

    def cost(self, asked: Asked[None], before: Asked[None] | None) -> int:
        return 1

    def answer(self, groups: Iterator[list[Asked[None]]]) -> Iterator[list[Answer]]:
        for group in groups:
            if self.fails:
                raise LlamaError("the GPU of rank 1 has fallen off")
            numbers = [int(each.request.id) for each in group]
            self.asked += numbers
            yield [Answer(logprobs=[number / 3]) for number in numbers]


def rows() -> Iterator[Request]:
    return (Request("t", str(n), "score", 0, pairs=[("a", "b")]) for n in range(ROWS))


def share(mesh: Mesh) -> None:
    """Answer twice, as two tasks would be."""
    backend = Counting()
    model = Answering(backend, mesh=mesh)
    for _ in range(2):
        told = [(int(each.request.id), *each.logprobs) for each in model(rows())]
        assert told == ([(n, n / 3) for n in range(ROWS)] if mesh.first else [])
    own = [n for n in range(ROWS) if n // 2 % 3 == mesh.rank]
    assert backend.asked == own * 2, backend.asked


def one_fails(mesh: Mesh) -> None:
    list(Answering(Counting(fails=mesh.rank == 1), mesh=mesh)(rows()))


def test_each_rank_answers_every_third_group_and_the_first_has_them_all(tmp_path: Path) -> None:
    assert ends(tmp_path, share) == ["well"] * 3


def test_a_rank_that_fails_speaks_and_ends_the_others(tmp_path: Path) -> None:
    said = ends(tmp_path, one_fails)
    assert said == ["silent 1", "LlamaError: the GPU of rank 1 has fallen off", "silent 1"]
