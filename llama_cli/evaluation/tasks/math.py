r"""MATH, problems of school competitions with worked solutions; one solution, or the vote of 256.

Hendrycks et al., 2021, https://arxiv.org/abs/2103.03874; LLaMA, Table 7, in Minerva's setup: four
worked examples, each ending with "Final Answer: The final answer is $...$. I hope it is correct."
Minerva's own are read by --examples; those below are ours, in their form.
"""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.evaluation.kinds.reasoning import Reasoning
from llama_cli.evaluation.maths import boxed, final_answer, latex
from llama_cli.evaluation.rows import Found, Placed, read_jsonl, read_object
from llama_cli.evaluation.task import Files, Row, Shots, Task
from llama_cli.evaluation.tasks._votes import OPEN, with_votes


def _example(problem: str, solution: str, answer: str) -> str:
    end = f"Final Answer: The final answer is ${answer}$. I hope it is correct."
    return f"Problem:\n{problem}\n\nSolution:\n{solution}\n{end}\n\n"


OURS = (
    _example(
        "What is the sum of the first ten positive odd integers?",
        "The sum of the first $n$ positive odd integers is $n^2$. With $n=10$ it is $10^2=100$.",
        "100",
    ),
    _example(
        "A bag holds $3$ red and $5$ blue marbles. Two are drawn without replacement. What is the "
        "probability that both are red? Express your answer as a common fraction.",
        "The first is red with probability $\\frac{3}{8}$, then the second with $\\frac{2}{7}$. "
        "Together this is $\\frac{3}{8}\\cdot\\frac{2}{7}=\\frac{6}{56}=\\boxed{\\frac{3}{28}}$.",
        "\\frac{3}{28}",
    ),
    _example(
        "Find all real $x$ with $x^2-5x+6\\le 0$. Express your answer in interval notation.",
        "The polynomial factors as $(x-2)(x-3)$, which is not positive exactly between its roots, "
        "so $x$ lies in $\\boxed{[2,3]}$.",
        "[2,3]",
    ),
    _example(
        "A right triangle has legs $6$ and $8$. What is the radius of its circumscribed circle?",
        "The hypotenuse is $\\sqrt{6^2+8^2}=10$, and it is a diameter of the circle. The radius is "
        "$\\boxed{5}$.",
        "5",
    ),
)


def _read(found: Found) -> Iterator[Placed]:
    """Read the official files, one problem each, or JSON lines."""
    if found[0][0].suffix == ".jsonl":
        yield from read_jsonl(found)
        return
    for path in found[0]:
        yield str(path), 1, {**read_object(path), "id": f"{path.parent.name}/{path.stem}"}


def _gold(row: Row) -> str:
    answer = boxed(row["solution"])
    if answer is None:
        raise ValueError("the solution has no \\boxed{}")
    return answer


GREEDY = Task(
    name="math",
    metric="accuracy",
    files=Files("math", ("MATH/test/*/*.json or test/*/*.json or test.jsonl",), _read),
    split="test",
    prompt=lambda row: f"Problem:\n{row['problem']}\n\nSolution:",
    id=lambda row: row.get("id", row.get("idx")),
    groups=lambda row: [row["type"]],
    shots=4,
    worked=Shots(texts=OURS),
    kind=Reasoning(
        gold=_gold,
        final=final_answer,
        same=latex,
        stop=("I hope it is correct", "\nProblem:"),
        max_tokens=512,
        normalize="final answer",
    ),
    note="the worked examples are ours, unless --examples has Minerva's; answers are compared in "
    f"one written form, expressions by value; 512 {OPEN}",
    reported={"7B": 2.9, "13B": 3.9, "33B": 7.1, "65B": 10.6},
)
TASKS = with_votes(GREEDY, 256, {"7B": 6.9, "13B": 8.8, "33B": 15.2, "65B": 20.5})
