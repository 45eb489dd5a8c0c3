"""HumanEval: write the body of a Python function from its signature and docstring.

Chen et al., 2021, https://arxiv.org/abs/2107.03374; LLaMA, section 3.5 and Table 8.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.programs import Programs
from llama_cli.evaluation.programs import HUMANEVAL_STOPS, humaneval
from llama_cli.evaluation.task import Figures, Files, Task


def _task(name: str, k: int, samples: int, temperature: float, reported: Figures) -> Task:
    return Task(
        name=name,
        metric=f"pass@{k}",
        files=Files("humaneval", ("HumanEval.jsonl.gz or HumanEval.jsonl",)),
        split="test",
        prompt=lambda row: str(row["prompt"]),
        id=lambda row: row["task_id"],
        kind=Programs(
            program=humaneval,
            fields=("prompt", "test", "entry_point"),
            k=k,
            samples=samples,
            temperature=temperature,
            stop=HUMANEVAL_STOPS,
        ),
        note="the paper gives the temperature; how many samples, top-p 0.95 and 512 new tokens "
        "are ours",
        reported=reported,
    )


TASKS = (
    _task("humaneval", 1, 20, 0.1, {"7B": 10.5, "13B": 15.8, "33B": 21.7, "65B": 23.7}),
    _task("humaneval@100", 100, 200, 0.8, {"7B": 36.5, "13B": 52.5, "33B": 70.7, "65B": 79.3}),
)
