"""MBPP: write a short Python program from a sentence and three tests.

Austin et al., 2021, https://arxiv.org/abs/2108.07732, figure 1 for the prompt: rows 2, 3 and 4 of
the one file are worked examples, rows 11 to 510 the test. LLaMA, section 3.5 and Table 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llama_cli.evaluation.kinds.programs import Programs
from llama_cli.evaluation.programs import MBPP_STOPS, mbpp
from llama_cli.evaluation.rows import Found, Placed, official, read_jsonl
from llama_cli.evaluation.task import Figures, Files, Row, Shots, Task


def _numbered(first: int, last: int) -> Callable[[Found], Iterator[Placed]]:
    """Read the rows of those numbers."""

    def read(found: Found) -> Iterator[Placed]:
        for where, line, row in read_jsonl(found):
            with official(where, line):
                wanted = first <= int(row["task_id"]) <= last
            if wanted:
                yield where, line, row

    return read


def _prompt(row: Row) -> str:
    if not row["test_list"]:  # any program would pass
        raise ValueError("no tests")
    tests = "\n".join(row["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _worked(row: Row) -> str:
    code = "\n".join(line.rstrip() for line in row["code"].splitlines())
    return f"{_prompt(row)}{code}\n[DONE]\n\n"


def _task(name: str, k: int, samples: int, temperature: float, reported: Figures) -> Task:
    return Task(
        name=name,
        metric=f"pass@{k}",
        files=Files("mbpp", ("mbpp.jsonl",), _numbered(11, 510)),
        split="test",
        prompt=_prompt,
        id=lambda row: row["task_id"],
        shots=3,
        worked=Shots(worked=_worked, files=Files("mbpp", ("mbpp.jsonl",), _numbered(2, 4))),
        kind=Programs(
            program=mbpp,
            fields=("test_setup_code", "test_list"),
            k=k,
            samples=samples,
            temperature=temperature,
            stop=MBPP_STOPS,
        ),
        note="the paper gives the temperature; how many samples, top-p 0.95 and 512 new tokens "
        "are ours",
        reported=reported,
    )


TASKS = (
    _task("mbpp", 1, 20, 0.1, {"7B": 17.7, "13B": 22.0, "33B": 30.2, "65B": 37.7}),
    _task("mbpp@80", 80, 100, 0.8, {"7B": 56.2, "13B": 64.0, "33B": 73.4, "65B": 76.8}),
)
